"""The transcript: the record of one reasoning about one recording. Immutable; JSON in and out.

Three laws (tests/properties/test_transcript_laws.py):

1. Append only: every operation returns a transcript of which the old one is a prefix.
2. Tokens once: ids an engine sampled are stored on their span and never re-made from text.
3. One mask: a token counts as sampled exactly where the policy chose it, i.e. on spans written by Author.MODEL.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from echo_audio import tags
from echo_audio.audio import Segment
from echo_audio.errors import TranscriptError

if TYPE_CHECKING:
    from pydantic import TypeAdapter


class Mode(StrEnum):
    """How the model listens."""

    CONDITIONED = "conditioned"
    """Hears the recording once, reasons in text; no segments asked for."""
    GROUNDED = "grounded"
    """Writes segments; nothing is inserted."""
    INTERLEAVED = "interleaved"
    """Writes segments, and hears each one where it wrote it."""


class Author(StrEnum):
    """Who wrote a span."""

    PROMPT = "prompt"
    """The user's side: question and instruction."""
    MODEL = "model"
    """The policy chose these tokens; the only spans that are trained on."""
    HARNESS = "harness"
    """Echo itself: a repaired closing tag, a forced answer."""


class Why(StrEnum):
    """Why a segment was heard."""

    GIVEN = "given"
    """The whole recording, at the start."""
    ASKED = "asked"
    """The model wrote a <seg> for it."""


class Played(StrEnum):
    """What is really played for a segment the model asks for: the truth, or a counterfactual."""

    CROP = "crop"
    SILENCED = "silenced"
    """Digital silence of the same length."""
    SWAPPED = "swapped"
    """As much of another recording."""
    WITHHELD = "withheld"
    """Nothing is inserted."""


class Stop(StrEnum):
    """Why a transcript ended."""

    ANSWERED = "answered"
    """The model ended its turn with one well-formed answer."""
    END_OF_TURN = "end_of_turn"
    """The model ended its turn without any answer."""
    MALFORMED = "malformed"
    """The model ended its turn with tags that do not parse."""
    TURN_LIMIT = "turn_limit"
    TOKEN_LIMIT = "token_limit"
    AUDIO_LIMIT = "audio_limit"
    ENGINE_ERROR = "engine_error"

    @property
    def is_limit(self) -> bool:
        """Whether a budget of `Limits` ended it."""
        return self in (Stop.TURN_LIMIT, Stop.TOKEN_LIMIT, Stop.AUDIO_LIMIT)


class What(StrEnum):
    """What a note records. The first group says why a written segment was not heard."""

    UNPARSEABLE = "unparseable"
    REVERSED = "reversed"
    OUT_OF_RANGE = "out_of_range"
    TOO_SHORT = "too_short"
    REPEATED = "repeated"
    MISPLACED = "misplaced"
    RELISTEN_LIMIT = "relisten_limit"

    CLAMPED = "clamped"
    """Heard, after the segment was cut to the recording."""
    OVERSHOT = "overshot"
    """The last sampled token of a tag held more than the tag; it was replaced by the canonical closing."""
    FORCED_ANSWER = "forced_answer"
    ENGINE_FAILED = "engine_failed"


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened while listening, kept beside the spans.

    Args:
        what: the kind of event.
        at_span: number of spans the transcript had when it happened.
        detail: for people: the numbers as written, an engine's message.
    """

    what: What
    at_span: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about a recording.

    Args:
        text: the question, without choices.
        recording_id: content hash of the recording (`Recording.id`).
        duration_s: length of the recording in seconds.
        choices: the texts to choose from; empty for a free answer.
        answer: the truth, where known; never shown to a model.
        meta: anything else that should travel with it, JSON values only.
    """

    text: str
    recording_id: str
    duration_s: float
    choices: tuple[str, ...] = ()
    answer: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """Text in the context.

    Args:
        text: what it says. For sampled ids: their decoding, special tokens left out.
        author: who chose it.
        ids: the sampled ids, exactly as the engine drew them; None when the encoder makes them from the text.
        logprobs: natural log-probability of each id under the sampling distribution at temperature 1.
    """

    text: str
    author: Author
    ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.logprobs is not None and (self.ids is None or len(self.ids) != len(self.logprobs)):
            raise TranscriptError("a span with log-probabilities needs one for each of its ids")
        if self.logprobs and not (all(map(math.isfinite, self.logprobs)) and max(self.logprobs) <= 1e-3):
            raise TranscriptError("log-probabilities must be finite and not positive")


@dataclass(frozen=True, slots=True)
class Heard:
    """Audio in the context."""

    segment: Segment
    why: Why
    played: Played = Played.CROP


Span = Written | Heard


@dataclass(frozen=True, slots=True)
class Transcript:
    """One reasoning. Build it with `open`, then `say`, `hear`, `note`, `finish`.

    Args:
        question: what is asked.
        mode: how the model listens.
        spans: what stands in the context, in order: the recording, the prompt, then the reasoning.
        stop: why it ended; None while it goes on.
        notes: what else happened.
        played: what is played for the segments the model asks for.
    """

    question: Question
    mode: Mode
    spans: tuple[Span, ...]
    stop: Stop | None = None
    notes: tuple[Note, ...] = ()
    played: Played = Played.CROP

    @classmethod
    def open(
        cls,
        question: Question,
        prompt: str,
        mode: Mode = Mode.INTERLEAVED,
        *,
        played: Played = Played.CROP,
        with_audio: bool = True,
    ) -> Transcript:
        """A transcript at its start: the whole recording (unless `with_audio` is false), then the prompt."""
        given = (Heard(Segment(0.0, question.duration_s), Why.GIVEN),) if with_audio else ()
        return cls(question, mode, (*given, Written(prompt, Author.PROMPT)), played=played)

    def say(self, written: Written) -> Transcript:
        """With more text. Once a budget has stopped it, only the harness may add (a forced answer).

        Raises:
            TranscriptError: the transcript has stopped, or the author is the prompt.
        """
        if written.author is Author.PROMPT:
            raise TranscriptError("the prompt is written once, by Transcript.open")
        if self.stop is not None and not (self.stop.is_limit and written.author is Author.HARNESS):
            raise TranscriptError(f"the transcript has stopped ({self.stop}); start a new one with Transcript.open")
        return replace(self, spans=(*self.spans, written))

    def hear(self, segment: Segment) -> Transcript:
        """With a segment of the recording played here.

        Raises:
            TranscriptError: the transcript has stopped.
        """
        if self.stop is not None:
            raise TranscriptError(f"the transcript has stopped ({self.stop}); start a new one with Transcript.open")
        return replace(self, spans=(*self.spans, Heard(segment, Why.ASKED, self.played)))

    def note(self, what: What, detail: str = "") -> Transcript:
        """With a note."""
        return replace(self, notes=(*self.notes, Note(what, len(self.spans), detail)))

    def finish(self, stop: Stop) -> Transcript:
        """Stopped.

        Raises:
            TranscriptError: it has stopped already.
        """
        if self.stop is not None:
            raise TranscriptError(f"the transcript has stopped already ({self.stop})")
        return replace(self, stop=stop)

    def is_prefix_of(self, other: Transcript) -> bool:
        """Law 1: whether `other` can have grown out of this one."""
        return (
            (self.question, self.mode, self.played) == (other.question, other.mode, other.played)
            and self.spans == other.spans[: len(self.spans)]
            and self.notes == other.notes[: len(self.notes)]
            and self.stop in (None, other.stop)
        )

    @property
    def response(self) -> str:
        """Everything written after the prompt, as text."""
        return "".join(s.text for s in self.spans if isinstance(s, Written) and s.author is not Author.PROMPT)

    @property
    def answer(self) -> str | None:
        """What stands in the answer tags; None without a closed answer."""
        return tags.answer_in(self.response)

    @property
    def well_formed(self) -> bool:
        """Whether the response follows the whole grammar and the model ended it itself."""
        return self.stop is Stop.ANSWERED and not tags.check(self.response)

    @property
    def asked(self) -> tuple[Heard, ...]:
        """The segments heard again, in order."""
        return tuple(s for s in self.spans if isinstance(s, Heard) and s.why is Why.ASKED)

    @property
    def cited(self) -> tuple[Segment, ...]:
        """The segments that were written, heard or not, cut to the recording."""
        end_s = self.question.duration_s
        spans = tags.segments_in(self.response)
        return tuple(Segment(s.start_s, min(s.end_s, end_s)) for s in spans if s.start_s < end_s)

    @property
    def heard_s(self) -> float:
        """Seconds of re-listening."""
        return sum(h.segment.duration_s for h in self.asked)

    @property
    def n_turns(self) -> int:
        """How often the model was asked to go on."""
        return sum(isinstance(s, Written) and s.author is Author.MODEL for s in self.spans)

    @property
    def n_sampled(self) -> int:
        """Number of ids the policy sampled."""
        return sum(len(s.ids or ()) for s in self.spans if isinstance(s, Written) and s.author is Author.MODEL)

    def count(self, what: What) -> int:
        """Number of notes of a kind."""
        return sum(n.what is what for n in self.notes)

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back to an equal transcript."""
        return json.dumps(_adapter().dump_python(self, mode="json"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Transcript:
        """Read a transcript back.

        Raises:
            TranscriptError: not a transcript; says where.
        """
        try:
            return _adapter().validate_json(text)
        except ValueError as error:
            raise TranscriptError(f"this is not a transcript that Echo wrote: {error}") from None


@functools.cache
def _adapter() -> TypeAdapter[Transcript]:
    """Built at first use: pydantic is wanted at the border only, and costs start-up time."""
    from pydantic import TypeAdapter

    return TypeAdapter(Transcript)
