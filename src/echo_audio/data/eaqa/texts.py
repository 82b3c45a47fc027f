"""What is wrong with a text that a model wrote: degenerate, cut off, another language. Pure text."""

from __future__ import annotations

import re
from collections import Counter

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_COMMON_WORDS = (
    "the a an is are it its to of in and that this i at on for with as by be was from then so not which there no first "
    "has have after before than one or but when while my me"
)
"""Words that make up a third of any English text."""
_COMMON = frozenset(_COMMON_WORDS.split())
_ENDS = (".", "!", "?", '"', "'", ")", "”", "’")


def words_of(text: str) -> list[str]:
    """The words, in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def is_english(text: str) -> bool:
    """Whether a text of some length is English; a short one only has to be written in Latin letters."""
    letters = [c for c in text if c.isalpha()]
    if letters and sum(c.isascii() for c in letters) < 0.9 * len(letters):
        return False
    words = words_of(text)
    return len(words) < 20 or sum(word in _COMMON for word in words) >= 0.12 * len(words)


def degenerate(text: str) -> str:
    """What is degenerate about a text, in words; empty when nothing is."""
    words = words_of(text)
    if not words:
        return "holds no words"
    if re.search(r"([^\s.])\1{9,}", text):
        return "repeats one character"
    if sum(c.isdigit() for c in text) > 0.3 * max(1, sum(not c.isspace() for c in text)):
        return "is mostly digits"
    if _repeats(words):
        return "repeats itself"
    return ""


def _repeats(words: list[str]) -> bool:
    """Whether one run of four words makes up much of the text."""
    if len(words) < 16:
        return len(words) >= 6 and max(Counter(words).values()) > 0.6 * len(words)
    runs = Counter(tuple(words[i : i + 4]) for i in range(len(words) - 3))
    most = max(runs.values())
    return most >= 4 and most * 4 > 0.3 * len(words)


def cut_off(text: str) -> bool:
    """Whether it ends in the middle of a sentence."""
    return not text.rstrip().endswith(_ENDS)
