"""From a response to a verdict: which choice was given, and whether it is the right one. Never a guess."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from echo_audio import tags
from echo_audio.errors import DataError


class Verdict(StrEnum):
    """What an answer is worth."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNPARSED = "unparsed"
    """No answer could be read; counts as wrong over the full denominator."""


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict on one response.

    Args:
        verdict: what it is worth.
        given: the text that was taken as the answer, None when there was none.
        choice: the choice it names, None when it names none or several.
    """

    verdict: Verdict
    given: str | None
    choice: str | None

    @property
    def correct(self) -> bool:
        """Whether it is the right choice."""
        return self.verdict is Verdict.CORRECT


_SPACE = re.compile(r"\s+")
_EDGES = " \t\n.,;:!?\"'`()[]*"


_WRAPS = (*((mark, mark) for mark in ("**", "__", "*", "_", "`", '"', "'")), ("“", "”"), ("‘", "’"), ("«", "»"))


def trimmed(text: str) -> str:
    """Without white space, quotes, markdown emphasis and a dot at the end, as often as they are wrapped around it."""
    while True:
        before = text
        text = text.strip()
        text = text[:-1].rstrip() if text.endswith((".", "。")) and not text.endswith("..") else text
        for opening, closing in _WRAPS:
            if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)]
        if text == before:
            return text


def normalised(text: str) -> str:
    """Text for comparison: Unicode-normalised, lower case, single spaces, no punctuation or article at the edges."""
    plain = _bare(text)
    return plain.removeprefix("the ").removeprefix("a ").removeprefix("an ") or plain


def strict_choice(given: str, choices: Sequence[str]) -> str | None:
    """The one choice that the text is; None for none or several. Choices that are there twice count once.

    Letter for letter first, then without case and edges, then `normalised`; what is unique at one of these is the choice.
    An article is not overlooked where it tells choices apart, as the A of "A minor" does beside "B minor". Where that names
    none, the same for the text `trimmed`.
    """
    text = trimmed(given)
    return _same(given, choices) or (_same(text, choices) if text else None)


def _same(given: str, choices: Sequence[str]) -> str | None:
    told_apart = {choice.strip(): choice for choice in reversed(choices)}  # the first of equal ones
    if given.strip() in told_apart:
        return told_apart[given.strip()]
    same = [choice for choice in told_apart.values() if _bare(choice) == _bare(given)]
    plain = normalised(given)
    if not same and len(plain) > 1 and not _labels(plain, choices):
        same = [choice for choice in told_apart.values() if normalised(choice) == plain]
    return same[0] if len(same) == 1 else None


_RAISED = ("<super>", "<sub>", "<fraction>")


def _bare(text: str) -> str:
    """A dot before a digit is part of the number, and 10² is not 102."""
    kept = (c if unicodedata.decomposition(c).startswith(_RAISED) else unicodedata.normalize("NFKC", c) for c in text)
    plain = _SPACE.sub(" ", unicodedata.normalize("NFC", "".join(kept))).strip()
    bare = plain.strip(_EDGES)
    begin = plain.find(bare)
    dotted = bare[:1].isdigit() and plain[:begin].endswith(".")
    return (f".{bare}" if dotted else bare).casefold()


def _labels(given: str, choices: Sequence[str]) -> bool:
    """Whether several choices are this text behind one letter each: then the letter is no article."""
    firsts = {words[0] for c in choices for words in [_bare(c).split(" ", 1)] if words[1:] == [given]}
    return len({first for first in firsts if len(first) == 1}) > 1


def strict_score(response: str, answer: str, choices: Sequence[str]) -> Score:
    """The strict rule: the text in the answer tags is exactly one choice, and that is the answer.

    Without choices the text must equal the answer. A closed answer block is asked for.
    """
    return strict_verdict(tags.answer_in(response), answer, choices)


def strict_verdict(given: str | None, answer: str, choices: Sequence[str]) -> Score:
    """The strict rule for a text that was taken out of its block already; None or nothing is unparsed."""
    if not given:
        return Score(Verdict.UNPARSED, None, None)
    choice = strict_choice(given, choices or (answer,))
    if choice is None:
        return Score(Verdict.UNPARSED if choices else Verdict.INCORRECT, given, None)
    return Score(Verdict.CORRECT if choice.strip() == answer.strip() else Verdict.INCORRECT, given, choice)


class OfficialRule(StrEnum):
    """How a benchmark's own script decides on the choice that it is handed."""

    WORDS = "words"
    """The word rule of MMAU and MMAR: `official_match`."""
    CHOICE = "choice"
    """The choice itself, as MMSU's script does by its letter, and MMAU-Pro's by its nearest choice."""

    def match(self, choice: str, answer: str, choices: Sequence[str]) -> bool:
        """Whether a choice that was read out of a response is right; an empty one never is."""
        if self is OfficialRule.WORDS:
            return official_match(choice, answer, choices)
        return bool(choice) and choice == answer


_WORD = re.compile(r"\w+")


def official_words(text: str) -> frozenset[str]:
    """The words that the official rule compares: runs of Unicode letters, digits and underscores, lower case, as a set."""
    return frozenset(_WORD.findall(text.lower()))


def official_match(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """The rule of the MMAU and MMAR scorers, word for word, faults included (benchmarks.md, 1.4).

    Right is a prediction that holds every word of the answer and no word that only a wrong choice has. Order, repeats
    and other words do not matter, so it calls "2.5" right for "2": publish the strict score beside it.

    Args:
        prediction: text to be scored; the choice that was read out of a response, not the response.
        answer: the truth; with an empty one, as in MMAU's test split, the rule means nothing (but is still followed).
        choices: all texts to choose from; one with the same words as the answer is not a wrong one.
    """
    given, wanted = official_words(prediction), official_words(answer)
    others = (words for choice in choices if (words := official_words(choice)) != wanted)
    wrong = frozenset[str]().union(*others) - wanted
    return bool(given) and wanted <= given and not given & wrong


def check_choices(choices: tuple[str, ...], answer: str | None, where: str) -> None:
    """Refuse choices that cannot be told apart, and a truth that is none of them.

    Raises:
        DataError: names the trouble.
    """
    if len(choices) == 1:
        raise DataError(f"{where}: one choice is no choice; give two or more, or none for a free answer")
    for choice in choices:
        if not choice.strip():
            raise DataError(f"{where}: a choice is empty; write it out or leave it away")
        if choices.count(choice) > 1 or strict_choice(choice, choices) != choice:
            raise DataError(f"{where}: the choice {choice!r} is there twice; make the choices different")
    if choices and answer is not None and answer not in choices:
        raise DataError(f"{where}: the answer {answer!r} is none of the choices")
