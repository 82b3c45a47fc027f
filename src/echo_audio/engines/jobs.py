"""A request on its way through the local engine, and what the engine counts."""

from __future__ import annotations

import codecs
import concurrent.futures
from dataclasses import dataclass, field

import numpy as np

from echo_audio.engines.rows import Row
from echo_audio.listen import OnPiece, Request, Turn


@dataclass(frozen=True, slots=True)
class Counters:
    """What an engine has computed so far; benchmarks and tests read it.

    Args:
        prefilled: positions computed in prefills (prompt, inserted audio).
        decoded: tokens sampled.
        copied: positions taken from another row instead of computed.
        clips_encoded: clips run through the audio tower.
        clips_reused: clips found in the encoder cache.
        ticks: scheduler steps.
    """

    prefilled: int = 0
    decoded: int = 0
    copied: int = 0
    clips_encoded: int = 0
    clips_reused: int = 0
    ticks: int = 0


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way through the engine."""

    request: Request
    on_piece: OnPiece | None
    future: concurrent.futures.Future[Turn]
    keys: list[int]
    state: np.random.Generator
    row: Row | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    tail: str = ""
    utf8: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    @property
    def pending(self) -> int:
        """Positions still to be computed before the next token can be drawn."""
        assert self.row is not None
        return len(self.keys) - len(self.row.keys)
