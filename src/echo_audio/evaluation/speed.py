"""Where the wall time went: how full the batch was, and the rates of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Slots:
    """Counts how long how many slots of a batch are in use. For one thread.

    Args:
        n: slots.
    """

    n: int
    used: int = 0
    half_empty_s: float = 0.0
    used_slot_s: float = 0.0
    began_s: float = field(default_factory=time.monotonic)
    _last_s: float = field(default_factory=time.monotonic)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """One slot more, for a while."""
        self._count()
        self.used += 1
        try:
            yield
        finally:
            self._count()
            self.used -= 1

    def _count(self) -> None:
        now = time.monotonic()
        self.half_empty_s += (now - self._last_s) * (self.used < self.n / 2)
        self.used_slot_s += (now - self._last_s) * self.used
        self._last_s = now

    def speed(self, n_done: int, audio_s: float, n_tokens: int) -> Speed:
        """What this process did since it began."""
        self._count()
        wall_s = max(1e-9, self._last_s - self.began_s)
        return Speed(
            n_done, round(wall_s, 3), round(audio_s, 1), n_tokens, self.n,
            round(self.half_empty_s / wall_s, 4), round(self.used_slot_s / wall_s / self.n, 4),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Speed:
    """One process's share of a run.

    Args:
        n: questions asked.
        wall_s: seconds of wall time, from the loaded model on.
        audio_s: seconds of recordings.
        n_tokens: tokens sampled.
        slots: of the batch.
        half_empty: share of the wall time with fewer than half of the slots in use.
        filled: mean share of the slots in use.
    """

    n: int
    wall_s: float
    audio_s: float
    n_tokens: int
    slots: int
    half_empty: float
    filled: float

    def to_json(self) -> dict[str, Any]:
        """With the rates."""
        rates = {"questions_per_s": self.n / self.wall_s, "tokens_per_s": self.n_tokens / self.wall_s}
        return asdict(self) | {name: round(value, 3) for name, value in rates.items()} | {
            "real_time_factor": round(self.audio_s / self.wall_s, 3)
        }
