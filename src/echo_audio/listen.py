"""The loop: let a model write, play it every segment it asks for, until it has answered.

`advance` is the pure step, `listen` runs it against an engine, `stream` tells what happens while it does. There is no
second loop: `ask`, benchmarks, training rollouts and the server all call these.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from echo_audio import tags
from echo_audio.audio import Recording, Segment
from echo_audio.errors import ConfigError, EngineError
from echo_audio.transcript import Author, Heard, Mode, Note, Stop, Transcript, What, Written


class TurnStop(StrEnum):
    """Why an engine gave the turn back."""

    TEXT = "text"
    """One of the stop texts was completed."""
    END = "end"
    """The model sampled its end-of-turn token."""
    LENGTH = "length"
    """The token allowance ran out."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Audio in an encoded transcript: `n_tokens` placeholder ids from `position` on stand for `recording`."""

    position: int
    n_tokens: int
    recording: Recording


@dataclass(frozen=True, slots=True)
class Encoded:
    """A transcript as a model sees it.

    Args:
        ids: token ids, length n.
        sampled: length n, true exactly where the policy chose the token (law 3).
        logprobs: length n, the engine's log-probability where sampled with one, else 0.
        clips: the audio, by position.
    """

    ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    logprobs: tuple[float, ...]
    clips: tuple[Clip, ...]


class Encoder(Protocol):
    """Turns transcripts about known recordings into ids and clips. The encoding of a prefix is a prefix."""

    def encode(self, transcript: Transcript) -> Encoded:
        """Encode; pure."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. The same seed gives the same transcript.

    Args:
        temperature: 0 is greedy.
        top_p: of the probability mass, so much is drawn from; 0 leaves the most likely token only.
        seed: any whole number.

    Raises:
        ConfigError: not a temperature, or not a share.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; give 0 (greedy) or more, 1 for the model's own")
        if not 0 <= self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; give a share from 0 to 1")


@dataclass(frozen=True, slots=True)
class Request:
    """One turn asked of an engine.

    Args:
        encoded: everything in the context so far.
        stop: texts whose completion ends the turn.
        max_new_tokens: allowance for this turn.
        sampling: how to draw.
        turn: number of this turn in its transcript; part of the random state, so that turns do not repeat each other.
        session: requests of one transcript share it; an engine may keep its cache under that name.
    """

    encoded: Encoded
    stop: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    turn: int = 0
    session: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What an engine sampled.

    Args:
        ids: the sampled ids, an end-of-turn id included.
        logprobs: one for each id, at temperature 1.
        pieces: the text each id added; specials and unfinished characters add "". They join to the text.
        stop: why the turn ended.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    pieces: tuple[str, ...]
    stop: TurnStop

    @property
    def text(self) -> str:
        """All pieces together."""
        return "".join(self.pieces)


OnPiece = Callable[[str], None]


class Engine(Protocol):
    """Where tokens come from. One request at a time for each transcript; batching is the engine's own business."""

    async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Turn:
        """Sample until a stop.

        `on_piece` is called with each new piece of text as it comes, from any thread.

        Raises:
            EngineError: the engine could not go on.
        """
        ...

    def release(self, session: str) -> None:
        """Forget a transcript: its cache may go."""
        ...


SHORTEST_SEGMENT_S = 0.025
"""No `Limits` may allow shorter segments: under three log-mel frames there is no audio token."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets, and what the model gets to hear: the one policy for training and inference.

    Args:
        max_turns: how often the model may go on.
        max_relistens: segments heard again; further ones are noted, not heard.
        max_relisten_s: seconds heard again; a segment that would exceed it ends the transcript.
        max_new_tokens: sampled tokens of the whole transcript.
        max_turn_tokens: sampled tokens of one turn.
        min_segment_s: shorter segments are not heard.
        skip_repeats: whether an exact repeat of a heard segment is skipped.
        force_answer: whether a transcript that ran into a budget is asked for its answer all the same.
        max_answer_tokens: allowance of a forced answer.

    Raises:
        ConfigError: a budget below one, or segments allowed that are too short to hear.
    """

    max_turns: int = 16
    max_relistens: int = 8
    max_relisten_s: float = 120.0
    max_new_tokens: int = 4096
    max_turn_tokens: int = 2048
    min_segment_s: float = 0.2
    skip_repeats: bool = True
    force_answer: bool = True
    max_answer_tokens: int = 64

    def __post_init__(self) -> None:
        if min(self.max_turns, self.max_new_tokens, self.max_turn_tokens, self.max_answer_tokens) < 1:
            raise ConfigError("max_turns, max_new_tokens, max_turn_tokens and max_answer_tokens must be at least 1")
        if not self.min_segment_s >= SHORTEST_SEGMENT_S:
            raise ConfigError(f"min_segment_s must be at least {SHORTEST_SEGMENT_S} s: less is not heard at all")


def advance(transcript: Transcript, turn: Turn, limits: Limits) -> Transcript:
    """The transcript after one turn of the model. Pure; nothing a model writes raises."""
    if turn.stop is TurnStop.TEXT:
        after = hear_last(_write_to_tag(transcript, turn), limits)
    else:
        after = transcript.say(Written(turn.text, Author.MODEL, turn.ids, turn.logprobs))
    if after.stop is None and turn.stop is TurnStop.END:
        return after.finish(_ending(after))
    if after.stop is None and after.n_sampled >= limits.max_new_tokens:
        return after.finish(Stop.TOKEN_LIMIT)
    if after.stop is None and (after.n_turns >= limits.max_turns or _stuck(turn)):
        return after.finish(Stop.TURN_LIMIT)
    return after


def _stuck(turn: Turn) -> bool:
    """An engine that gave nothing back, at its own limit, would do so for ever."""
    return not turn.ids


def _ending(transcript: Transcript) -> Stop:
    if transcript.answer is None and tags.ANSWER_OPEN not in transcript.response:
        return Stop.END_OF_TURN
    return Stop.MALFORMED if tags.check(transcript.response) else Stop.ANSWERED


def _write_to_tag(transcript: Transcript, turn: Turn) -> Transcript:
    """Append a turn that completed `</seg>`; if its last token overshot the tag, put the canonical closing instead."""
    kept, last = "".join(turn.pieces[:-1]), turn.pieces[-1]
    end = (kept + last).find(tags.SEG_CLOSE, max(0, len(kept) - len(tags.SEG_CLOSE) + 1)) + len(tags.SEG_CLOSE)
    tail = (kept + last)[end:]
    if not tail:
        return transcript.say(Written(turn.text, Author.MODEL, turn.ids, turn.logprobs))
    repaired = transcript.say(Written(kept, Author.MODEL, turn.ids[:-1], turn.logprobs[:-1]))
    return repaired.note(What.OVERSHOT, repr(tail)).say(Written((kept + last)[len(kept) : end], Author.HARNESS))


_ROUNDING_S = 3e-5
"""Half a sample. Times are compared with so much grace: 1.2 - 1.0 is not quite 0.2 in floating point."""


def hear_last(transcript: Transcript, limits: Limits) -> Transcript:
    """Play the segment that the transcript's text ends with, or note why not."""
    response = transcript.response
    if not tags.in_thought(response):
        return transcript.note(What.MISPLACED)
    times = tags.last_times(response)
    if times is None:
        return transcript.note(What.UNPARSEABLE, response[-60:])
    verdict = _judge(transcript, times, limits)
    if isinstance(verdict, What):
        return transcript.note(verdict, f"{times[0]:g}, {times[1]:g}")
    if transcript.heard_s + verdict.duration_s > limits.max_relisten_s + _ROUNDING_S:
        return transcript.finish(Stop.AUDIO_LIMIT)
    if (verdict.start_s, verdict.end_s) != times:
        transcript = transcript.note(What.CLAMPED, f"{times[0]:g}, {times[1]:g}")
    return transcript.hear(verdict)


def _judge(transcript: Transcript, times_s: tuple[float, float], limits: Limits) -> Segment | What:
    """The segment to play for the written times, cut to the recording; or why nothing is played."""
    start_s, end_s = times_s
    if start_s > end_s:
        return What.REVERSED
    start_s, end_s = max(0.0, start_s), min(end_s, transcript.question.duration_s)
    if start_s >= transcript.question.duration_s or end_s < 0:
        return What.OUT_OF_RANGE
    if end_s - start_s < limits.min_segment_s - _ROUNDING_S:
        return What.TOO_SHORT
    segment = Segment(start_s, end_s)
    if limits.skip_repeats and any(h.segment == segment for h in transcript.asked):
        return What.REPEATED
    return What.RELISTEN_LIMIT if len(transcript.asked) >= limits.max_relistens else segment


@dataclass(frozen=True, slots=True)
class Wrote:
    """Event: a piece of text was written."""

    text: str
    author: Author


@dataclass(frozen=True, slots=True)
class Finished:
    """Event: the transcript is complete."""

    transcript: Transcript


Event = Wrote | Heard | Note | Finished
OnEvent = Callable[[Event], None]


async def listen(
    transcript: Transcript,
    engine: Engine,
    encoder: Encoder,
    limits: Limits | None = None,
    sampling: Sampling | None = None,
    *,
    on_event: OnEvent | None = None,
) -> Transcript:
    """Run a transcript to its end.

    An engine that fails ends the transcript with Stop.ENGINE_ERROR and a note; it does not raise.

    Args:
        transcript: from `Transcript.open`, or any that has not stopped.
        engine: where tokens come from.
        encoder: knows the recording and the model family.
        limits: budgets and hearing policy.
        sampling: temperature, top-p, seed.
        on_event: told of each piece, segment and note as it happens, from any thread.

    Returns:
        The same transcript, longer, with its `stop` set.
    """
    run = _Run(engine, encoder, limits or Limits(), sampling or Sampling(), on_event)
    try:
        while transcript.stop is None:
            before, transcript = transcript, await run.step(transcript)
            run.tell(before, transcript)
        if transcript.stop.is_limit and run.limits.force_answer and transcript.answer is None:
            transcript = await run.force_answer(transcript)
    finally:
        engine.release(run.session)
    run.say(Finished(transcript))
    return transcript


async def stream(
    transcript: Transcript,
    engine: Engine,
    encoder: Encoder,
    limits: Limits | None = None,
    sampling: Sampling | None = None,
) -> AsyncIterator[Event]:
    """`listen`, as the events that happen; the last is `Finished`. Leaving the loop early cancels the work."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event | None] = asyncio.Queue()

    def tell(event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(events.put_nowait, event)

    task = asyncio.ensure_future(listen(transcript, engine, encoder, limits, sampling, on_event=tell))
    task.add_done_callback(lambda _: events.put_nowait(None))
    try:
        while (event := await events.get()) is not None:
            yield event
        await task  # raises what `listen` raised
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass(slots=True)
class _Run:
    """What stays the same while one transcript is run."""

    engine: Engine
    encoder: Encoder
    limits: Limits
    sampling: Sampling
    on_event: OnEvent | None
    session: str = field(default_factory=lambda: uuid.uuid4().hex)

    async def step(self, transcript: Transcript) -> Transcript:
        """One turn."""
        allowance = min(self.limits.max_turn_tokens, self.limits.max_new_tokens - transcript.n_sampled)
        stop = (tags.SEG_CLOSE,) if transcript.mode is Mode.INTERLEAVED else ()
        try:
            turn = await self._generate(transcript, stop, allowance, Author.MODEL)
        except EngineError as error:
            return transcript.note(What.ENGINE_FAILED, str(error)).finish(Stop.ENGINE_ERROR)
        after = advance(transcript, turn, self.limits)
        if after.stop is None and turn.stop is TurnStop.LENGTH:
            return after.finish(Stop.TOKEN_LIMIT)
        return after

    async def force_answer(self, transcript: Transcript) -> Transcript:
        """Close the thought and ask for the answer. Nothing of it counts as sampled by the policy."""
        before, transcript = transcript, transcript.note(What.FORCED_ANSWER)
        self.tell(before, transcript)
        transcript = self._append(transcript, tags.lead_to_answer(transcript.response))
        if transcript.answer is not None:  # it broke off within the tag that closes its answer
            return transcript
        try:
            turn = await self._generate(
                transcript, (tags.ANSWER_CLOSE,), self.limits.max_answer_tokens, Author.HARNESS
            )
        except EngineError as error:
            failed = transcript.note(What.ENGINE_FAILED, str(error))
            self.tell(transcript, failed)
            return failed
        transcript = transcript.say(Written(turn.text, Author.HARNESS, turn.ids, turn.logprobs))
        if tags.ANSWER_CLOSE in turn.text:
            return transcript
        return self._append(transcript, tags.rest_of(tags.ANSWER_CLOSE, transcript.response))

    def _append(self, transcript: Transcript, text: str) -> Transcript:
        """With a text that Echo itself writes, if there is any."""
        if not text:
            return transcript
        self.say(Wrote(text, Author.HARNESS))
        return transcript.say(Written(text, Author.HARNESS))

    async def _generate(self, transcript: Transcript, stop: tuple[str, ...], allowance: int, author: Author) -> Turn:
        encoded = self.encoder.encode(transcript)
        request = Request(encoded, stop, allowance, self.sampling, transcript.n_turns, self.session)

        def on_piece(piece: str) -> None:
            self.say(Wrote(piece, author))

        return await self.engine.generate(request, None if self.on_event is None else on_piece)

    def say(self, event: Event) -> None:
        """Report an event, if anybody wants to know."""
        if self.on_event is not None:
            self.on_event(event)

    def tell(self, before: Transcript, after: Transcript) -> None:
        """Report what one step added besides text."""
        added = [s for s in after.spans[len(before.spans) :] if isinstance(s, Heard)]
        for event in (*after.notes[len(before.notes) :], *added):
            self.say(event)
