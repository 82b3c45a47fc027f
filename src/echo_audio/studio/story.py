"""What happens in a listening, as events for the wire (events.md); and the same events out of a finished transcript."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from echo_audio import tags
from echo_audio.listen import Event, Finished, Wrote
from echo_audio.scoring.answers import strict_choice
from echo_audio.transcript import Author, Heard, Note, Stop, Transcript, What, Why, Written

UNHEARD = {
    What.UNPARSEABLE: "two numbers are needed",
    What.REVERSED: "its end lies before its start",
    What.OUT_OF_RANGE: "outside the recording",
    What.TOO_SHORT: "too short to be heard",
    What.REPEATED: "heard already",
    What.MISPLACED: "outside the reasoning",
    What.RELISTEN_LIMIT: "no re-listens left",
}
"""Why a written segment was not played."""

_STOPS = {
    Stop.ANSWERED: "The model answered.",
    Stop.END_OF_TURN: "The model stopped without giving an answer.",
    Stop.MALFORMED: "The model ended with tags that do not parse.",
    Stop.TURN_LIMIT: "The model was asked to go on too often.",
    Stop.TOKEN_LIMIT: "The model ran out of tokens (max_new_tokens).",
    Stop.AUDIO_LIMIT: "The model asked to hear more than is allowed (max_relisten_s).",
    Stop.ENGINE_ERROR: "The engine failed.",
}


@dataclass(frozen=True, slots=True)
class Told:
    """One event of the wire: its name and its JSON values."""

    name: str
    data: dict[str, Any]

    def frame(self) -> str:
        """As a server-sent event."""
        return f"event: {self.name}\ndata: {json.dumps(self.data, ensure_ascii=False)}\n\n"


@dataclass
class Story:
    """Tells events of one listening as events of the wire.

    The `text` of all text, mark and segment events together is the response, character by character.

    Args:
        duration_s: of the recording; segments are cut to it.
    """

    duration_s: float
    _cutter: tags.Cutter = field(default_factory=tags.Cutter)
    _inside: str = ""
    _n_segments: int = 0
    _author: Author = Author.MODEL

    def tell(self, event: Event) -> Iterator[Told]:
        """What the wire says about an event."""
        if isinstance(event, Wrote):
            begun_by = self._author if self._cutter.holds else event.author
            self._author = event.author
            yield from self._parts(self._cutter.feed(event.text), begun_by)
        elif isinstance(event, Heard):
            if event.why is Why.ASKED:
                yield Told("heard", {"index": self._n_segments - 1, **_span(event), "played": event.played.value})
        elif isinstance(event, Note):
            yield from self._note(event)
        else:
            yield from self.end(event)

    def end(self, finished: Finished) -> Iterator[Told]:
        """The rest of the text, and the last event."""
        yield from self._parts(self._cutter.finish(), self._author)
        yield Told("finished", summary(finished.transcript))

    def _parts(self, parts: Iterable[tags.Part], author: Author) -> Iterator[Told]:
        """The parts of a piece; the first one is of who began it: a tag whose end was repaired is the model's."""
        for part in parts:
            values: dict[str, Any] = {"text": part.text}
            if part.kind is tags.Kind.MARK:
                opened = {tags.THINK_OPEN: "thought", tags.ANSWER_OPEN: "answer"}
                self._inside = opened.get(part.text, "")
            elif part.kind is tags.Kind.SEGMENT:
                values |= {"index": self._n_segments, **_written(part.times_s, self.duration_s)}
                self._n_segments += 1
            else:
                values["part"] = self._inside
            yield Told(part.kind.value, values if author is Author.MODEL else values | {"author": author.value})
            author = self._author

    def _note(self, note: Note) -> Iterator[Told]:
        if note.what in UNHEARD:
            yield Told("unheard", {"index": self._n_segments - 1, "what": note.what.value, "why": UNHEARD[note.what]})
            return
        said = {
            What.CLAMPED: "the segment was cut to the recording",
            What.OVERSHOT: "the closing tag was repaired",
            What.FORCED_ANSWER: "a budget is used up: Echo asks for the answer",
            What.ENGINE_FAILED: f"the engine failed: {note.detail}",
        }
        yield Told("note", {"what": note.what.value, "why": said.get(note.what, note.what.value), "detail": note.detail})


def _span(heard: Heard) -> dict[str, float]:
    return {"start_s": heard.segment.start_s, "end_s": heard.segment.end_s}


def _written(times_s: tuple[float, float] | None, duration_s: float) -> dict[str, float | None]:
    """The span of a segment inside the recording; null where it has none."""
    start_s, end_s = times_s or (0.0, 0.0)
    start_s, end_s = max(0.0, start_s), min(end_s, duration_s)
    return {"start_s": start_s, "end_s": end_s} if start_s < end_s else {"start_s": None, "end_s": None}


def summary(transcript: Transcript) -> dict[str, Any]:
    """What is said of a transcript when it is complete."""
    given, stop = transcript.answer, transcript.stop or Stop.END_OF_TURN
    failures = [note.detail for note in transcript.notes if note.what is What.ENGINE_FAILED]
    return {
        "answer": given,
        "choice": strict_choice(given, transcript.question.choices) if given and transcript.question.choices else None,
        "stop": stop.value,
        "says": _STOPS[stop].removesuffix(".") + f": {failures[-1]}" if failures else _STOPS[stop],
        "forced": transcript.count(What.FORCED_ANSWER) > 0,
        "segments": [_span(heard) | {"played": heard.played.value} for heard in transcript.asked],
        "heard_s": round(transcript.heard_s, 3),
        "n_tokens": transcript.n_sampled,
    }


def replay(transcript: Transcript) -> list[Told]:
    """The events of a transcript that has been written down, as if they happened now."""
    story = Story(transcript.question.duration_s)
    told: list[Told] = []
    for at, span in enumerate(transcript.spans):
        for note in (note for note in transcript.notes if note.at_span == at):
            told += story.tell(note)
        if isinstance(span, Heard):
            told += story.tell(span)
        elif isinstance(span, Written) and span.author is not Author.PROMPT:
            told += story.tell(Wrote(span.text, span.author))
    for note in (note for note in transcript.notes if note.at_span >= len(transcript.spans)):
        told += story.tell(note)
    return [*told, *story.end(Finished(transcript))]


def opening(transcript: Transcript, **more: Any) -> Told:
    """The first event: what is asked, and how."""
    question = transcript.question
    asked = {
        "question": question.text,
        "choices": list(question.choices),
        "mode": transcript.mode.value,
        "played": transcript.played.value,
        "recording": {"id": question.recording_id, "duration_s": question.duration_s},
    }
    return Told("open", asked | more)
