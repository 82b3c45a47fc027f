"""From a response to a verdict: which choice was given, and whether it is the right one. Never a guess."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from echo_audio import tags


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


def normalised(text: str) -> str:
    """Text for comparison: Unicode-normalised, lower case, single spaces, no punctuation or article at the edges."""
    plain = _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip(_EDGES).casefold()
    return plain.removeprefix("the ").removeprefix("a ").removeprefix("an ") or plain


def strict_choice(given: str, choices: Sequence[str]) -> str | None:
    """The one choice that the text is, word for word after normalisation; None for none or several."""
    exact = [choice for choice in choices if choice.strip() == given.strip()]
    same = exact or [choice for choice in choices if normalised(choice) == normalised(given)]
    return same[0] if len(same) == 1 else None


def strict_score(response: str, answer: str, choices: Sequence[str]) -> Score:
    """The strict rule: the text in the answer tags is exactly one choice, and that is the answer.

    Without choices the text must equal the answer.
    """
    given = tags.answer_in(response)
    if not given:
        return Score(Verdict.UNPARSED, None, None)
    choice = strict_choice(given, choices or (answer,))
    if choice is None:
        return Score(Verdict.UNPARSED if choices else Verdict.INCORRECT, given, None)
    return Score(Verdict.CORRECT if choice == answer else Verdict.INCORRECT, given, choice)


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
