"""Training rows with a wrong first look or with spoilt audio: what is heard again is to be weighed, not believed.

A row with doubt cites a wrong span, says what is there, and looks again. A row with spoilt audio says that what it
hears does not fit and goes by the first hearing; its `provenance["corrupt"]` tells which segment to spoil and how.
Both stay true, and neither belongs in a test. `provenance["plain"]` keeps the reasoning as it was, for the ways to
listen in which nothing is heard again.
"""

from __future__ import annotations

import numpy as np

from echo_audio.audio import Segment
from echo_audio.data.questions import KINDS
from echo_audio.data.rows import KnownEvent, Row
from echo_audio.data.wording import the
from echo_audio.tags import Tag, find_tags, format_segment

_CLAUSE_ENDS = frozenset(",.;:")
_AUDIBLE = 2  # tenths of a second: the loop plays nothing shorter

_AGAIN = (
    "I look again",
    "I try once more",
    "I correct the time",
    "a second look gives",
    "the right place is",
    "I move on to",
)
_ELSEWHERE = (
    ", but that is {other}; {again}",
    ", yet I hear {other} there, so {again}",
    ": no, that is {other}; {again}",
    "; what I hear is {other}, so {again}",
    ", but {other} is not what I need; {again}",
)
_EMPTY = (
    ", but nothing is heard there; {again}",
    ", yet that part is empty, so {again}",
    ": no, there is only background; {again}",
    "; I hear no sound in it, so {again}",
    ", but this is a pause; {again}",
)
_PART = (
    ", but a part of it is cut off; {again}",
    ", yet that is only a part, so {again}",
    ": the borders are wrong, so {again}",
    "; I do not hear all of it, so {again}",
    ", but it is not complete; {again}",
)
_SILENT = (
    "; this time I hear nothing, so I go by the first hearing",
    ", but now it is silent and I keep to what I heard at first",
    "; the second hearing brings no sound, so the first one counts",
    ", where nothing comes back to me, so I go by memory",
    "; I get only silence, so I trust the first hearing",
)
_SWAPPED = (
    "; what I hear now does not fit, so I go by the first hearing",
    ", but this is another sound than before and I keep to what I heard at first",
    "; the second hearing does not agree, so the first one counts",
    ", where something else is played, so I go by memory",
    "; that is not from this recording, so I trust the first hearing",
)


def with_doubt(row: Row, rng: np.random.Generator) -> Row | None:
    """The row with one wrong segment put in front of a right one; `provenance["doubt"]` is the index of the wrong tag.

    None where the row has no reasoning with a segment, the segment drawn is too short to be cut, or
    pauses are listened to: what is said of a wrong segment is said of sounds.
    """
    tags = _tags(row.reasoning or "", _CLAUSE_ENDS | {" "})
    if row.reasoning is None or not tags or _cites_pauses(row):
        return None
    at, found = tags[int(rng.integers(len(tags)))]
    assert found.times_s is not None
    start, end = (round(10 * time_s) for time_s in found.times_s)
    doubt = _wrong(row, start, end, rng)
    if doubt is None:
        return None
    wrong, remark = doubt
    again = _AGAIN[int(rng.integers(len(_AGAIN)))]
    first = f" {format_segment(Segment(wrong[0] / 10, wrong[1] / 10))}{remark.replace('{again}', again)}"
    before = found.begin - 1  # the space in front of the tag
    text = row.reasoning[:before] + first + row.reasoning[before:]
    return row.model_copy(update={"reasoning": text, "provenance": {**row.provenance, "doubt": at, "plain": row.reasoning}})


def _cites_pauses(row: Row) -> bool:
    events = {(event.label, event.start_s) for event in row.events}
    return any((event.label, event.start_s) not in events for event in row.evidence)


def _tags(reasoning: str, followed_by: frozenset[str]) -> list[tuple[int, Tag]]:
    """The segments, by index, with one of those characters behind them."""
    return [(i, tag) for i, tag in enumerate(find_tags(reasoning)) if reasoning[tag.end : tag.end + 1] in followed_by]


def _wrong(row: Row, start: int, end: int, rng: np.random.Generator) -> tuple[tuple[int, int], str] | None:
    """A wrong span in tenths of a second, and what is to be said about it; None where there is no room for one."""
    spans = [(round(e.start_s * 10), round(e.end_s * 10), e) for e in row.events]
    way = rng.random()
    cited = {(event.label, event.start_s) for event in row.evidence}  # the loop plays no span twice
    right = {s[2].label for s in spans if s[:2] == (start, end)}
    others = [
        s
        for s in spans
        if (s[1] <= start or s[0] >= end)
        and _alone(s, spans)
        and (s[2].label, s[2].start_s) not in cited
        and s[2].label not in right
    ]
    if way < 0.5 and others:
        left, right, event = others[int(rng.integers(len(others)))]
        return (left, right), _pick(rng, _ELSEWHERE).replace("{other}", _name(event))
    pauses = _pauses(spans, round(row.duration_s * 10))
    if way < 0.75 and pauses:
        left, right = pauses[int(rng.integers(len(pauses)))]
        size = int(rng.integers(3, min(right - left, 15) + 1))
        at = int(rng.integers(left, right - size + 1))
        return (at, at + size), _pick(rng, _EMPTY)
    cut = min(max(1, round((end - start) * float(rng.uniform(0.3, 0.6)))), end - start - _AUDIBLE)
    if cut < 1:
        return None
    if rng.random() < 0.5:
        return (start + cut, end), _pick(rng, _PART)
    return (start, end - cut), _pick(rng, _PART)


def _alone(span: tuple[int, int, KnownEvent], spans: list[tuple[int, int, KnownEvent]]) -> bool:
    return all(other is span or other[1] <= span[0] or other[0] >= span[1] for other in spans)


def _pauses(spans: list[tuple[int, int, KnownEvent]], duration: int) -> list[tuple[int, int]]:
    """Stretches of at least 0.5 s without any event, 0.1 s away from each."""
    out: list[tuple[int, int]] = []
    at = 0
    for left, right, _ in sorted(spans, key=lambda s: s[0]):
        if left - at >= 7:
            out.append((at + 1, left - 1))
        at = max(at, right)
    if duration - at >= 7:
        out.append((at + 1, duration - 1))
    return out


def _name(event: KnownEvent) -> str:
    return the(event.label)


def _pick(rng: np.random.Generator, texts: tuple[str, ...]) -> str:
    return texts[int(rng.integers(len(texts)))]


def with_spoilt_audio(row: Row, rng: np.random.Generator) -> Row | None:
    """The row for a trainer that spoils the audio of one segment.

    `provenance["corrupt"]` is {"index of the tag": "silence" or "swap"}.

    None where the answer would then not be known: kinds whose answer is only in the sound, and rows without segments.
    """
    kind = KINDS[row.kind]
    if row.reasoning is None or kind.in_sound or kind.training_only or _cites_pauses(row):
        return None
    tags = _tags(row.reasoning, _CLAUSE_ENDS)
    if not tags:
        return None
    at, found = tags[int(rng.integers(len(tags)))]
    how = "silence" if rng.random() < 0.5 else "swap"
    remark = _pick(rng, _SILENT if how == "silence" else _SWAPPED)
    text = row.reasoning[: found.end] + remark + row.reasoning[found.end :]
    marks = {"corrupt": {str(at): how}, "plain": row.reasoning}
    return row.model_copy(update={"reasoning": text, "provenance": {**row.provenance, **marks}})
