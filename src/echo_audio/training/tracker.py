"""Optional experiment tracking; metrics.jsonl is the truth, this is a copy for people who like dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from echo_audio.errors import MissingExtraError


class Tracker:
    """Reports to trackio when enabled, else does nothing.

    Raises:
        MissingExtraError: enabled, and trackio is not installed.
    """

    def __init__(self, name: str, config: Mapping[str, Any], *, enabled: bool) -> None:
        self.run: Any = None
        if enabled:
            try:
                import trackio  # pyright: ignore[reportMissingImports] - the extra is not in the lock
            except ImportError:
                raise MissingExtraError("Tracking runs", "track") from None
            self.run = trackio.init(project="echo-audio", name=name, config=dict(config))

    def log(self, values: Mapping[str, float]) -> None:
        """One point of every curve."""
        if self.run is not None:
            self.run.log(dict(values))

    def finish(self) -> None:
        """Flush."""
        if self.run is not None:
            self.run.finish()
