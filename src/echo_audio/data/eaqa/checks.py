"""What is wrong with a written row, told without a model. Each problem is a short text, so that rejects can be counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from echo_audio import tags
from echo_audio.audio import Segment
from echo_audio.data.eaqa.settings import CheckSettings
from echo_audio.data.eaqa.texts import degenerate, is_english, words_of
from echo_audio.data.rows import KnownEvent
from echo_audio.errors import DataError
from echo_audio.scoring.answers import normalised, strict_score

_LABEL_ID = re.compile(r"/[mtg]/[0-9a-z_]{2,}")
_SOURCES = re.compile(
    r"\b(?:metadata|annotations?|captions?|labels?|labelled|labeled|the facts|provided (?:text|information))\b", re.IGNORECASE
)
_TIMES = re.compile(r"\b\d+\.\d+\s*(?:s|sec|seconds)\b", re.I)
_NAMED_BEFORE = 12
"""Words before a segment that say what it is about."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a writer gave."""

    question: str
    choices: tuple[str, ...]
    answer: str
    reasoning: str | None = None


SCHEMA = {
    "type": "object",
    "properties": {
        "question": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "string"}},
        "answer": {"type": "string"},
        "reasoning": {"type": "string"},
    },
    "required": ["question", "choices", "answer", "reasoning"],
    "additionalProperties": False,
}


def json_in(text: str) -> dict[str, object]:
    """The one JSON object of a reply; a thought before it, fences and words around it are overlooked.

    Raises:
        DataError: there is none.
    """
    if text.lstrip().startswith(tags.THINK_OPEN):
        text = text.rpartition(tags.THINK_CLOSE)[2]
    begin, end = text.find("{"), text.rfind("}")
    try:
        value = json.loads(text[begin : end + 1])
    except (ValueError, RecursionError):
        raise DataError("reply is no JSON") from None
    if not isinstance(value, dict):
        raise DataError("reply is no JSON")
    return value


def read_written(text: str) -> Written:
    """The row in a reply.

    Raises:
        DataError: keys are missing or hold something else.
    """
    value = json_in(text)
    question, choices, answer, reasoning = (value.get(key) for key in ("question", "choices", "answer", "reasoning"))
    if not (isinstance(question, str) and isinstance(answer, str) and isinstance(reasoning, str) and isinstance(choices, list)):
        raise DataError("reply lacks a key")
    if not all(isinstance(choice, str) for choice in choices):
        raise DataError("reply lacks a key")
    texts = tuple(str(choice) for choice in choices)
    return Written(_clean(question), tuple(map(_clean, texts)), _clean(answer), _clean(reasoning))


def _clean(text: str) -> str:
    """One paragraph without control characters.

    Raises:
        DataError: it holds half a character, as JSON may spell.
    """
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise DataError("reply holds half a character")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def question_problems(written: Written) -> Iterator[str]:
    """What is wrong with question, choices and answer."""
    plain = [normalised(choice) for choice in written.choices]
    if not 2 <= len(plain) <= 6:
        yield "choices are not 2 to 6"
    if len(set(plain)) != len(plain) or not all(plain):
        yield "choices are not different texts"
    if written.choices.count(written.answer) != 1:
        yield "answer is not exactly one of the choices"
    text = " ".join([written.question, *written.choices])
    if not written.question.endswith("?") and len(words_of(written.question)) < 4:
        yield "question is none"
    if _LABEL_ID.search(text):
        yield "a label id leaks"
    if _SOURCES.search(text):
        yield "question speaks of its sources"
    if _TIMES.search(written.question):
        yield "question tells a time"
    if not is_english(text) or tags.find_tags(text):
        yield "question is not plain English"
    if _leaks(written):
        yield "question tells its answer"


def _leaks(written: Written) -> bool:
    """Whether the answer, and not every choice, stands in the question."""
    question = f" {' '.join(words_of(written.question))} "
    in_it = [f" {' '.join(words_of(choice))} " in question for choice in written.choices]
    right = [found for found, choice in zip(in_it, written.choices, strict=True) if choice == written.answer]
    return any(right) and bool(words_of(written.answer)) and sum(in_it) == 1


def reasoning_problems(
    written: Written, events: Sequence[KnownEvent], duration_s: float, limits: CheckSettings
) -> Iterator[str]:
    """What is wrong with the reasoning."""
    reasoning = written.reasoning or ""
    plain = tags.without_segments(reasoning)
    n_words = len(words_of(plain))
    if not limits.fewest_words <= n_words <= limits.most_words:
        yield "reasoning is too short or too long"
    if degenerate(plain):
        yield f"reasoning {degenerate(plain)}"
    if not is_english(plain):
        yield "reasoning is not English"
    if _LABEL_ID.search(reasoning):
        yield "a label id leaks"
    if _SOURCES.search(plain):
        yield "reasoning speaks of its sources"
    response = tags.compose(reasoning, written.answer)
    if tags.check(response):
        yield "tags are not well formed"
    elif not strict_score(response, written.answer, written.choices).correct:
        yield "its own grader does not accept the answer"
    yield from _segment_problems(reasoning, events, duration_s, limits)


def _segment_problems(
    reasoning: str, events: Sequence[KnownEvent], duration_s: float, limits: CheckSettings
) -> Iterator[str]:
    found = tags.find_tags(reasoning)
    if not found:
        yield "reasoning cites no segment"
    ends = [0, *(tag.end for tag in found)]
    nexts = [*(tag.begin for tag in found[1:]), len(reasoning)]
    for tag, begin, until in zip(found, ends, nexts, strict=False):
        before, after = words_of(reasoning[begin : tag.begin]), words_of(reasoning[tag.end : until])
        if len(before) < limits.words_around or len(after) < limits.words_around:
            yield "a segment without reason before or analysis after it"
        if tag.times_s is None or not 0 <= tag.times_s[0] < tag.times_s[1] <= duration_s:
            yield "a segment lies outside the recording"
        elif not overlaps_named(before[-_NAMED_BEFORE:], Segment(*tag.times_s), events):
            yield "a segment does not hold the sound it is cited for"


def overlaps_named(before: Sequence[str], segment: Segment, events: Sequence[KnownEvent]) -> bool:
    """Whether a segment touches the event named last before it; where none is named, whatever it holds is right."""
    text = f" {' '.join(before)} "
    places = {event.label: _last_place(text, event.label) for event in events}
    nearest = max(places.values(), default=-1)
    if nearest < 0:
        return True
    named = {label for label, place in places.items() if place == nearest}
    return any(segment.overlap_s(Segment(e.start_s, e.end_s)) > 0 for e in events if e.label in named)


def _last_place(text: str, label: str) -> int:
    """Where the label was named last; of a long one ("Bark (dog)") also its first part. -1 where it is not."""
    names = (label, label.split(",")[0], label.split("(")[0])
    return max(text.rfind(f" {' '.join(words_of(name))} ") if words_of(name) else -1 for name in names)


def evidence_of(reasoning: str, events: Sequence[KnownEvent]) -> tuple[KnownEvent, ...]:
    """The cited segments, each with the name of the event that it covers most ("pause" where there is none)."""
    cited: list[KnownEvent] = []
    for segment in tags.segments_in(reasoning):
        shares = [(segment.iou(Segment(e.start_s, e.end_s)), e.label) for e in events]
        best = max(shares, default=(0.0, ""))
        cited.append(KnownEvent(label=best[1] if best[0] > 0 else "pause", start_s=segment.start_s, end_s=segment.end_s))
    return tuple(cited)
