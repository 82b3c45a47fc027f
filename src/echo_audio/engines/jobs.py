"""A request on its way through the local engine, and what the engine counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from echo_audio.engines.rows import Row
from echo_audio.engines.writing import Writing
from echo_audio.listen import Clip, Request, Turn


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
        discarded: tokens drawn behind the end of a turn, before the end was seen.
    """

    prefilled: int = 0
    decoded: int = 0
    copied: int = 0
    clips_encoded: int = 0
    clips_reused: int = 0
    ticks: int = 0
    discarded: int = 0


@dataclass(slots=True, eq=False)
class Reply:
    """Where the caller of a job waits for its turn.

    Args:
        loop: the caller's; only there is the future touched.
        future: what the caller waits for.
        cancelled: the caller waits no more.
        outcome: the turn, or why there is none.
    """

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Turn]
    cancelled: bool = False
    outcome: Turn | Exception | None = None


def hand_over(replies: Iterable[Reply]) -> None:
    """Give outcomes to those who wait, from any thread: each loop is woken once, however many of them end together."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Reply]] = {}
    for reply in replies:
        by_loop.setdefault(reply.loop, []).append(reply)
    for loop, some in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, some)


def _settle(replies: list[Reply]) -> None:
    for reply in replies:
        if reply.future.done():  # cancelled meanwhile
            continue
        if isinstance(reply.outcome, Exception):
            reply.future.set_exception(reply.outcome)
        elif reply.outcome is not None:
            reply.future.set_result(reply.outcome)


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way through the engine.

    Args:
        keys: of the context and of the ids accepted so far.
        writing: the turn so far.
        in_flight: tokens that are being drawn and have not been read.
        over: it has ended; what is still in flight for it is dropped.
    """

    request: Request
    reply: Reply
    keys: list[int]
    state: np.random.Generator
    writing: Writing
    row: Row | None = None
    in_flight: int = 0
    over: bool = False

    @property
    def ids(self) -> Sequence[int]:
        """Accepted so far."""
        return self.writing.ids

    @property
    def slot(self) -> int:
        """Of its row."""
        assert self.row is not None
        return self.row.slot

    @property
    def pending(self) -> int:
        """Positions still to be computed before the next token can be drawn, as far as they are known."""
        assert self.row is not None
        return len(self.keys) - len(self.row.keys)

    @property
    def remaining(self) -> int:
        """Tokens that may still be drawn."""
        return self.writing.allowance - len(self.writing.ids) - self.in_flight

    @property
    def needs_prefill(self) -> bool:
        """Whether more is pending than one id, which is computed with its draw."""
        return self.in_flight == 0 and (self.pending > 1 or (self.pending == 1 and self.keys[-1] < 0))

    @property
    def begins(self) -> bool:
        """Whether nothing of it has been computed."""
        assert self.row is not None
        return not self.row.keys

    @property
    def can_decode(self) -> bool:
        """Whether the next token can be drawn now: its only unknown, if any, is the id drawn before it."""
        return self.remaining > 0 and (self.in_flight > 0 or (self.pending == 1 and self.keys[-1] >= 0))

    @property
    def position(self) -> int:
        """Where the next decoded position goes in its row."""
        return len(self.keys) - 1 + self.in_flight

    def pending_clips(self) -> list[Clip]:
        """The clips of which some positions are still to be computed."""
        start = len(self.keys) - self.pending
        return [clip for clip in self.request.encoded.clips if clip.position + clip.n_tokens > start]
