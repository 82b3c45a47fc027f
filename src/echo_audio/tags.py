"""The little language of a reasoning: <think>, <seg>, <answer>. Pure text; no other place knows the segment pattern.

    response = "<think>" (text | "<seg>" number "," number "</seg>")* "</think>" "<answer>" text "</answer>"

Numbers are seconds, plain decimals. Nothing here raises on what a model wrote: a broken tag is described, not refused.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from enum import StrEnum

from echo_audio.audio import Segment

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
SEG_OPEN, SEG_CLOSE = "<seg>", "</seg>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

# Bounded, so that a hostile text cannot make a number or a search expensive.
_NUMBER = r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})"
_BODY = re.compile(rf"\s{{0,8}}({_NUMBER})\s{{0,8}},\s{{0,8}}({_NUMBER})\s{{0,8}}")
_SEG = re.compile(r"<seg>((?:(?!</?seg>).)*)</seg>", re.DOTALL)
_SEG_WITH_SPACE = re.compile(r"[ \t]?<seg>(?:(?!</?seg>).)*</seg>", re.DOTALL)


class Problem(StrEnum):
    """Why a response is not well formed."""

    NO_THINK = "no closed <think> block, or more than one"
    NO_ANSWER = "no closed <answer> block, or more than one"
    ORDER = "text outside the two blocks, or the blocks in the wrong order"
    SEGMENT_OUTSIDE = "a <seg> outside <think>"
    SEGMENT_BROKEN = "a <seg> without its closing tag, or a closing tag without its <seg>"
    SEGMENT_UNPARSEABLE = "a <seg> whose body is not two numbers"
    EMPTY_ANSWER = "an empty answer"


@dataclass(frozen=True, slots=True)
class Tag:
    """One closed <seg>...</seg> in a text.

    Args:
        begin: index of its "<".
        end: index behind its ">".
        times_s: the two numbers as written (perhaps reversed or negative), None when they do not parse.
    """

    begin: int
    end: int
    times_s: tuple[float, float] | None


def format_seconds(seconds: float) -> str:
    """A time the way segments write it: at most two decimals, at least one."""
    text = f"{seconds:.2f}"
    return text[:-1] if text.endswith("0") else text


def format_segment(segment: Segment) -> str:
    """The tag for a segment: `<seg>1.2, 3.4</seg>`."""
    return f"{SEG_OPEN}{format_seconds(segment.start_s)}, {format_seconds(segment.end_s)}{SEG_CLOSE}"


def parse_times(body: str) -> tuple[float, float] | None:
    """The two numbers between <seg> and </seg>, or None when the body is anything else (`1.2.3`, `one, two`)."""
    found = _BODY.fullmatch(body)
    return (float(found[1]), float(found[2])) if found else None


def find_tags(text: str) -> tuple[Tag, ...]:
    """Every closed <seg>...</seg> of a text, in order."""
    return tuple(Tag(m.start(), m.end(), parse_times(m[1])) for m in _SEG.finditer(text))


def segments_in(text: str) -> tuple[Segment, ...]:
    """The segments a text cites that are spans at all (0 <= start < end), in order, not clamped to any recording."""
    times = (tag.times_s for tag in find_tags(text))
    return tuple(Segment(*t) for t in times if t and 0 <= t[0] < t[1])


def last_times(text: str) -> tuple[float, float] | None:
    """The numbers of the tag that ends the text (which ends in `</seg>`); None when it is broken."""
    opened = text.rfind(SEG_OPEN, 0, len(text) - len(SEG_CLOSE))
    return parse_times(text[opened + len(SEG_OPEN) : -len(SEG_CLOSE)]) if opened >= 0 else None


def in_thought(text: str) -> bool:
    """Whether the end of the text lies inside an open <think> block (or before any block)."""
    return THINK_CLOSE not in text and ANSWER_OPEN not in text


def rest_of(tag: str, text: str) -> str:
    """What the text lacks to end in the tag, given that it may break off within it."""
    begun = next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)
    return tag[begun:]


def lead_to_answer(text: str) -> str:
    """What to append to a response that was cut off, so that its answer comes next; a tag it breaks off in is completed.

    When it breaks off in the tag that closes its answer, what is appended closes it.
    """
    if THINK_CLOSE not in text and ANSWER_OPEN not in text:
        return f"{rest_of(THINK_CLOSE, text)}\n{ANSWER_OPEN}"
    if ANSWER_OPEN not in text:
        return rest_of(ANSWER_OPEN, text)
    closing = rest_of(ANSWER_CLOSE, text)
    return closing if len(closing) < len(ANSWER_CLOSE) else ""


def without_segments(text: str) -> str:
    """The text with every segment tag and the space before it removed: the `conditioned` form of a reasoning."""
    return _SEG_WITH_SPACE.sub("", text)


def split_at_segments(text: str) -> tuple[str, ...]:
    """The text cut behind every closed segment tag; the parts join to the text."""
    ends = [0, *(tag.end for tag in find_tags(text)), len(text)]
    return tuple(text[a:b] for a, b in itertools.pairwise(ends) if a < b)


def compose(reasoning: str, answer: str) -> str:
    """A well-formed response from its two parts."""
    return f"{THINK_OPEN}{reasoning}{THINK_CLOSE}\n{ANSWER_OPEN}{answer}{ANSWER_CLOSE}"


def answer_in(text: str) -> str | None:
    """What stands in the last closed <answer> block, stripped; None when there is none."""
    opened = text.rfind(ANSWER_OPEN, 0, max(0, text.rfind(ANSWER_CLOSE)))
    if opened < 0:
        return None
    begin = opened + len(ANSWER_OPEN)
    return text[begin : text.index(ANSWER_CLOSE, begin)].strip()  # up to its own closing tag; a stray one may follow


def first_answer_in(text: str) -> str | None:
    """What stands in the first closed <answer> block, stripped: what the released code reads. None when there is none."""
    opened = text.find(ANSWER_OPEN)
    closed = text.find(ANSWER_CLOSE, opened + len(ANSWER_OPEN)) if opened >= 0 else -1
    return text[opened + len(ANSWER_OPEN) : closed].strip() if closed >= 0 else None


def unclosed_answer_in(text: str) -> str | None:
    """What stands behind an <answer> that was never closed, stripped; None when the last one is closed, or there is none.

    A closing tag that breaks off (`</ans`) is left away.
    """
    opened = text.rfind(ANSWER_OPEN)
    if opened < 0 or ANSWER_CLOSE in text[opened:]:
        return None
    rest = text[opened + len(ANSWER_OPEN) :]
    begun = len(ANSWER_CLOSE) - len(rest_of(ANSWER_CLOSE, rest))
    return rest[: len(rest) - begun].strip()


def thought_in(text: str) -> str | None:
    """What stands in the <think> block; None when it is not closed exactly once."""
    if text.count(THINK_OPEN) != 1 or text.count(THINK_CLOSE) != 1:
        return None
    begin, end = text.index(THINK_OPEN) + len(THINK_OPEN), text.index(THINK_CLOSE)
    return text[begin:end] if begin <= end else None


def check(text: str) -> frozenset[Problem]:
    """Everything that keeps a response from being well formed; empty when it is."""
    problems: set[Problem] = set()
    thought = thought_in(text)
    if thought is None:
        problems.add(Problem.NO_THINK)
    if text.count(ANSWER_OPEN) != 1 or text.count(ANSWER_CLOSE) != 1 or answer_in(text) is None:
        problems.add(Problem.NO_ANSWER)
    elif not answer_in(text):
        problems.add(Problem.EMPTY_ANSWER)
    if not problems & {Problem.NO_THINK, Problem.NO_ANSWER}:
        before, _, rest = text.partition(THINK_OPEN)
        between, opened, after = rest.partition(THINK_CLOSE)[2].partition(ANSWER_OPEN)
        if not opened or before.strip() or between.strip() or after.partition(ANSWER_CLOSE)[2].strip():
            problems.add(Problem.ORDER)
    return frozenset(problems | _segment_problems(text, text if thought is None else thought))


def _segment_problems(text: str, thought: str) -> set[Problem]:
    problems: set[Problem] = set()
    tags = find_tags(text)
    if text.count(SEG_OPEN) != len(tags) or text.count(SEG_CLOSE) != len(tags):
        problems.add(Problem.SEGMENT_BROKEN)
    if any(tag.times_s is None for tag in tags):
        problems.add(Problem.SEGMENT_UNPARSEABLE)
    if len(find_tags(thought)) != len(tags):
        problems.add(Problem.SEGMENT_OUTSIDE)
    return problems


MARKS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
_LONGEST_TAG = 128  # a segment tag that has not closed by then is text; two numbers never need as much


class Kind(StrEnum):
    """What a part of a response is."""

    TEXT = "text"
    MARK = "mark"
    """One of `MARKS`."""
    SEGMENT = "segment"
    """A closed segment tag."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a response; all parts join to it.

    Args:
        times_s: of a segment, the two numbers as written; None where they do not parse.
    """

    kind: Kind
    text: str
    times_s: tuple[float, float] | None = None


class Cutter:
    """Cuts a response into parts while it is written. What may still become a tag is held back until it is clear."""

    def __init__(self) -> None:
        self._held = ""

    @property
    def holds(self) -> bool:
        """Whether a part has begun that is not complete."""
        return bool(self._held)

    def feed(self, piece: str) -> list[Part]:
        """The parts that a piece completes."""
        self._held += piece
        parts: list[Part] = []
        while self._held:
            plain, opened, rest = self._held.partition("<")
            parts += [Part(Kind.TEXT, plain)] if plain else []
            self._held = opened + rest
            taken = self._take() if opened else None
            if taken is None:
                break
            self._held = self._held[len(taken.text) :]
            parts.append(taken)
        return parts

    def finish(self) -> list[Part]:
        """What is left when nothing comes any more."""
        left, self._held = self._held, ""
        return [Part(Kind.TEXT, left)] if left else []

    def _take(self) -> Part | None:
        """The tag that the held text begins with, or its stray "<"; None while it is not clear."""
        held = self._held
        if held.startswith(SEG_OPEN):
            found = find_tags(held)
            if found and found[0].begin == 0 and found[0].end <= _LONGEST_TAG:
                return Part(Kind.SEGMENT, held[: found[0].end], found[0].times_s)
            if SEG_CLOSE not in held and len(held) < _LONGEST_TAG:
                return None
        for mark in MARKS:
            if held.startswith(mark):
                return Part(Kind.MARK, mark)
        return None if any(tag.startswith(held) for tag in (*MARKS, SEG_OPEN)) else Part(Kind.TEXT, "<")
