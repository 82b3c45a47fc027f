"""Which choice a response gives: one order of steps, and the step that fired is recorded. Never a guess.

The order is that of facts about the benchmarks: the last closed answer block, else an unclosed one; quotes, markdown and a
closing dot away; the exact choice; a label with its text; a lone letter, where no choice is a letter itself; the longest
choice that is contained and the only one; otherwise nothing was given, and the sample is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from echo_audio import tags
from echo_audio.scoring.answers import strict_choice, trimmed


class Step(StrEnum):
    """How the choice was found, or why there is none."""

    EXACT = "exact"
    """The answer text is one choice: what the strict rule counts."""
    LABELLED = "labelled"
    """A label and a choice: "B. Woman". The text counts, the letter does not."""
    LETTER = "letter"
    """A letter alone, the place of a choice."""
    CONTAINED = "contained"
    """One choice, and no other, stands in the answer text as whole words."""
    FREE = "free"
    """The question has no choices: the answer text itself."""
    UNPARSED = "unparsed"
    """There is an answer text, but it names no choice, or several."""
    NO_ANSWER = "no_answer"
    """There is no answer block, or nothing in it."""
    UPSTREAM = "upstream"
    """Only with `upstream`: the first choice that is a substring."""
    UPSTREAM_GUESS = "upstream_guess"
    """Only with `upstream`: nothing matched, and the first choice was credited."""

    @property
    def found(self) -> bool:
        """Whether an answer was found, not guessed."""
        return self not in (Step.UNPARSED, Step.NO_ANSWER, Step.UPSTREAM_GUESS)


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was read out of a response.

    Args:
        given: the answer text as it stands in its block, stripped; None without a block.
        choice: the choice it names, verbatim (without choices: the text itself); None when it names none or several.
        step: how it was found.
        closed: whether the answer block was closed.
    """

    given: str | None
    choice: str | None
    step: Step
    closed: bool = True


def extract(response: str, choices: Sequence[str]) -> Extraction:
    """The choice that a response gives.

    Args:
        response: everything the model wrote, tags and all.
        choices: as they were shown, in that order; equal ones may be among them.
    """
    closed = tags.answer_in(response)
    given = closed if closed is not None else tags.unclosed_answer_in(response)
    if not given:
        return Extraction(given, None, Step.NO_ANSWER, closed is not None)
    choice, step = _read(given, choices)
    return Extraction(given, choice, step, closed is not None)


def extract_upstream(response: str, choices: Sequence[str]) -> Extraction:
    """What the released code reads, for comparison with its published numbers only (inference_multiturn.py).

    The first closed answer block behind the last line that says "assistant", without one all that stands there; the first
    choice that is a substring of that without case, and else the first choice: so it calls "Female" "Male", reads choices
    out of reasonings, and credits every failure with the first choice (right for 39.8 % of MMAU-mini).
    """
    last = response.split("\nassistant\n")[-1]
    given = tags.first_answer_in(last)
    searched = last if given is None else given
    if not choices:
        return Extraction(given, given, Step.FREE if given else Step.NO_ANSWER, given is not None)
    for choice in choices:
        if choice.lower() in searched.lower():
            return Extraction(given, choice, Step.UPSTREAM, given is not None)
    return Extraction(given, choices[0], Step.UPSTREAM_GUESS, given is not None)


def _read(given: str, choices: Sequence[str]) -> tuple[str | None, Step]:
    if not choices:
        return given, Step.FREE
    text = trimmed(given)
    choice = strict_choice(given, choices)
    if choice is not None:
        return choice, Step.EXACT
    letters = _are_letters(choices)
    for read, step in ((_labelled, Step.LABELLED), (_letter, Step.LETTER), (_contained, Step.CONTAINED)):
        choice = read(text, choices, letters)
        if choice is not None:
            return choice, step
    return None, Step.UNPARSED


def _are_letters(choices: Sequence[str]) -> bool:
    """Whether some choice is itself a single letter: then a lone letter is no place in the list."""
    return any(len(bare := trimmed(choice)) == 1 and bare.isascii() and bare.isalpha() for choice in choices)


_LABEL = re.compile(
    r"(?:(?:option|choice|answer)\s+)?[\[(*_]{0,4}([A-Za-z])[*_]{0,3}\s*[\])}.:\-–—][\])*_]{0,3}\s*(\S.*)",
    re.DOTALL | re.IGNORECASE,
)


def _labelled(text: str, choices: Sequence[str], letters: bool) -> str | None:
    """The choice of "B. Woman". Where choices are letters, "C. A" counts only if the third choice is A."""
    found = _LABEL.fullmatch(text)
    choice = strict_choice(trimmed(found[2]), choices) if found else None
    if found and letters and choice is not None:
        return choice if _at(found[1], choices) == choice else None
    return choice


_LETTER = re.compile(r"[\[(*_]{0,4}([A-Za-z])[\])*_.:]{0,4}")


def _letter(text: str, choices: Sequence[str], letters: bool) -> str | None:
    found = None if letters else _LETTER.fullmatch(text)
    return _at(found[1], choices) if found else None


def _at(letter: str, choices: Sequence[str]) -> str | None:
    place = ord(letter.upper()) - ord("A")
    return choices[place] if place < len(choices) else None


def _contained(text: str, choices: Sequence[str], letters: bool) -> str | None:
    """The one choice that stands in the text as whole words. One inside a longer one ("Tennis") is not named."""
    if len(text) > _MOST_CHARACTERS:
        return None
    found: dict[tuple[int, int], set[str]] = {}
    for choice in {trimmed(c).casefold(): c for c in reversed(choices)}.values():
        for match in _whole_words(choice).finditer(text):
            found.setdefault(match.span(), set()).add(choice)
    named: set[str] = set()
    reached = -1  # the end of the furthest span so far: one that begins later and ends no later lies inside it
    for begin, end in sorted(found, key=lambda span: (span[0], -span[1])):
        if end > reached:
            named |= found[begin, end]
        reached = max(reached, end)
    only = named.pop() if len(named) == 1 else None
    return None if only is not None and trimmed(only) in _WORDS_TOO else only


_MOST_CHARACTERS = 10_000
"""An answer block that is longer names nothing by what it contains; searching it could take minutes."""

_WORDS_TOO = ("A", "a", "I")
"""In a sentence these are words as well: one of them beside another choice makes two, and alone it names nothing."""


_NOTE = re.compile(r"[A-Ga-g]")
"""A choice that may be a note: C does not stand in "C#"."""


def _whole_words(choice: str) -> re.Pattern[str]:
    """Finds a choice between word boundaries; "2" not in "2.5" or "1:2", and a letter only as it is written."""
    bare = trimmed(choice)
    if not bare:
        return re.compile(r"(?!)")
    before = r"(?<!\w)" + (r"(?<!\d[.,:/\-])(?<![.\-−+])" if bare[0].isdigit() else "")
    after = r"(?!\w)" + (r"(?![.,:/\-]\d)" if bare[-1].isdigit() else "")
    after += r"(?![#♯♭])" if _NOTE.fullmatch(bare) else ""
    body = r"\s+".join(map(re.escape, bare.split()))
    return re.compile(before + body + after, 0 if len(bare) == 1 else re.IGNORECASE)
