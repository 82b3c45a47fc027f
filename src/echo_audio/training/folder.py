"""The folder of a training run: it belongs to one process at a time, and to one set of settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from echo_audio import locks
from echo_audio.errors import TrainingError

_BEGUN = ("checkpoints", "metrics.jsonl", "rollouts", "model", "new")
"""What a run has written once it has begun. A start that failed leaves its settings behind, and they bind nobody."""


@contextmanager
def claimed(out: Path, settings: str, *, first: bool = True) -> Iterator[None]:
    """The folder, for this run alone, with the settings in it.

    Args:
        settings: as TOML.
        first: whether this is the process that writes; the others of the same run claim nothing.

    Raises:
        TrainingError: it cannot be made, another process trains in it, or it holds a run with other settings.
    """
    if not first:
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("w")
    except OSError as error:
        raise TrainingError(f"{out} cannot be a run's folder ({error.strerror}); give another `out`") from None
    with file:
        if not locks.take(file.fileno()):
            raise TrainingError(f"another process trains in {out}; wait for it, or give another `out`")
        _claim(out, settings)
        yield


def _claim(out: Path, settings: str) -> None:
    path = out / "config.toml"
    begun = any((out / name).exists() for name in _BEGUN)
    if begun and path.is_file() and path.read_text(encoding="utf-8") != settings:
        raise TrainingError(f"{out} holds a run with other settings; give another `out`, or delete that folder to start anew")
    path.write_text(settings, encoding="utf-8")
