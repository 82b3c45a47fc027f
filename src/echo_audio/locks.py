"""A file for one process at a time."""

from __future__ import annotations

import sys


def take(descriptor: int) -> bool:
    """Take an open file for this process and those that inherit it; free again when the last has ended, however that was.

    Returns:
        Whether it was free. Windows has no such lock: always true there.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
