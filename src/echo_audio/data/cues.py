"""What can be guessed without listening: how far single cues and the bare text get on drawn rows.

A rule sees one thing of the row and one thing of each choice (`cue_views.py`). How often such a choice was right is
counted on one part of the rows, the best rule is chosen on another, and tested on the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echo_audio.data import cue_views
from echo_audio.data.cue_views import masked
from echo_audio.data.questions import KINDS
from echo_audio.data.rows import Row
from echo_audio.data.scene import Scene

__all__ = ["Cue", "cue_table", "format_table", "masked", "sound_cue", "text_cue"]

Pair = tuple[Row, Scene]
Codes = NDArray[np.int64]

_BINS = (6, 14)
_MIN_COUNT = 8


@dataclass(frozen=True, slots=True)
class Cue:
    """How far a guesser gets on the rows of one kind.

    Args:
        rule: the best rule, by the half that it was fitted on.
        accuracy: of that rule on the other half.
        chance: accuracy of a blind choice on the other half.
        standard_error: of the accuracy, at chance.
    """

    kind: str
    rule: str
    accuracy: float
    chance: float
    standard_error: float
    n: int

    @property
    def excess(self) -> float:
        """Standard errors above chance."""
        return (self.accuracy - self.chance) / self.standard_error


# ---------------------------------------------------------------------------------------------- rows as numbers


def _codes(values: Iterable[Hashable]) -> Codes:
    """Equal things get equal numbers, from 0."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], np.int64)


def _binned(values: Sequence[float | None], bins: int) -> list[Hashable]:
    """Which of some equally full bins each value lies in, None where there is no value."""
    known = np.array([value for value in values if value is not None])
    edges = np.unique(np.quantile(known, np.arange(1, bins) / bins))
    return [None if value is None else int(np.searchsorted(edges, value, side="right")) for value in values]


class _Sheet:
    """Rows of one kind as numbers: what is seen of them, (n,), and of their choices, (n, most choices)."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs
        self.widths = np.array([len(row.choices) for row, _ in pairs])
        self.valid = np.arange(self.widths.max())[None] < self.widths[:, None]
        self.right = np.zeros(self.valid.shape)
        self.right[np.arange(len(pairs)), [row.choices.index(row.answer) for row, _ in pairs]] = 1.0

    def views(self, seen: Mapping[str, Sequence[Hashable]]) -> dict[str, Codes]:
        """Each view with the number of choices, which any rule knows."""
        return {name: _codes(zip(self.widths.tolist(), values, strict=True)) for name, values in seen.items()}

    def marks(self, found: Sequence[cue_views.Marks]) -> dict[str, Codes]:
        """Each mark of each choice; a row that lacks the mark has None."""
        out: dict[str, Codes] = {}
        for name in dict.fromkeys(name for marks in found for name in marks):
            cells: list[Hashable] = []
            for marks, width in zip(found, self.widths.tolist(), strict=True):
                own = marks[name] if name in marks else [None] * width
                cells += [*own, *[None] * (self.valid.shape[1] - width)]
            out[name] = _codes(cells).reshape(self.valid.shape)
        return out

    def reach(self, view: Codes, mark: Codes, fit: slice, test: slice) -> float:
        """Share of the test rows of which the choice that was most often right in the fit rows is the answer.

        Ties count their share; frequencies are smoothed towards chance.
        """
        keys = view[:, None] * (int(mark.max()) + 1) + mark
        valid, size = self.valid[fit], int(keys.max()) + 1
        offered = np.bincount(keys[fit][valid], minlength=size)
        right = np.bincount(keys[fit][valid], self.right[fit][valid], minlength=size)
        base = right.sum() / max(1, offered.sum())
        score = ((right + base * _MIN_COUNT) / (offered + _MIN_COUNT))[keys[test]]
        score = np.where(self.valid[test], score, -1.0)
        best = score >= score.max(axis=1, keepdims=True) - 1e-12
        return float(((self.right[test] * best).sum(axis=1) / best.sum(axis=1)).mean())

    def best(self, kind: str, views: Mapping[str, Codes], marks: Mapping[str, Codes], rules: Sequence[tuple[str, str]]) -> Cue:
        """The rule that is best when fitted on one quarter and checked on the next, then tested on the other half."""
        n = len(self.pairs)
        fit, check, both, test = slice(0, n // 4), slice(n // 4, n // 2), slice(0, n // 2), slice(n // 2, n)
        view, mark = max(rules, key=lambda rule: self.reach(views[rule[0]], marks[rule[1]], fit, check))
        chance = float((1 / self.widths[test]).mean())
        error = math.sqrt(chance * (1 - chance) / (n - n // 2))
        return Cue(kind, f"{view} -> {mark}", self.reach(views[view], marks[mark], both, test), chance, error, n - n // 2)


# ---------------------------------------------------------------------------------------------- guessers


def text_cue(kind: str, pairs: Sequence[Pair]) -> Cue:
    """The best guesser that reads the question and the choices and hears nothing."""
    sheet = _Sheet(pairs)
    views = sheet.views(_columns([cue_views.words(row) for row, _ in pairs]))
    marks = sheet.marks([cue_views.text_marks(row) for row, _ in pairs])
    return sheet.best(kind, views, marks, [(view, mark) for view in views for mark in marks])


def sound_cue(kind: str, pairs: Sequence[Pair], with_question: bool = False) -> Cue:
    """The best rule on one single cue of the sound; `with_question`: read together with the words of the question."""
    sheet = _Sheet(pairs)
    seen = _columns([cue_views.texts(row, scene) for row, scene in pairs]) | _binned_columns(pairs)
    if with_question:
        said = [cue_views.direction(row) for row, _ in pairs]
        seen = {f"direction and {name}": list(zip(said, values, strict=True)) for name, values in seen.items()}
    text = sheet.marks([cue_views.text_marks(row) for row, _ in pairs])
    sound = sheet.marks([cue_views.sound_marks(row, scene) for row, scene in pairs])
    if "start" in KINDS[kind].asked:  # the first one's length and label are known to whoever has found it
        told = re.compile("choice|(first|last) (length|label)")
        seen = {view: values for view, values in seen.items() if not told.search(view)}
    rules = [(view, mark) for view in seen for mark in text]
    rules += [(view, mark) for view in seen for mark in sound if _is_cue(view, mark, kind)]
    return sheet.best(kind, sheet.views(seen), text | sound, rules)


def _columns(rows: Sequence[Mapping[str, Hashable]]) -> dict[str, list[Hashable]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _binned_columns(pairs: Sequence[Pair]) -> dict[str, list[Hashable]]:
    """Each single number that at least half of the rows have, coarse and fine."""
    rows = [cue_views.numbers(row, scene) for row, scene in pairs]
    names = dict.fromkeys(name for row in rows for name in row)
    common = [name for name in names if 2 * sum(name in row for row in rows) > len(rows)]
    return {f"{name} ({bins})": _binned([row.get(name) for row in rows], bins) for name in common for bins in _BINS}


def _is_cue(view: str, mark: str, kind: str) -> bool:
    """Whether a look at the choices adds one cue to this one, not the second half of what is asked.

    A number of a sound that the question names, together with how the choices compare, is the way to the answer. So is the
    length of one choice where lengths are compared, unless all that is known beside it is which of the choices it was.
    """
    view, asked = view.removeprefix("direction and "), KINDS[kind].asked
    if view == "nothing":
        return True
    if "asked" in view or "start" in asked:
        return False
    return ("choice" in view and mark == "start rank") if asked & {"length", "pause"} else True


def cue_table(rows: dict[str, Sequence[Pair]]) -> list[tuple[Cue, Cue, Cue]]:
    """For each kind: the text alone, one single cue, one single cue read with the question."""
    return [(text_cue(kind, pairs), sound_cue(kind, pairs), sound_cue(kind, pairs, True)) for kind, pairs in rows.items()]


def format_table(table: Sequence[tuple[Cue, Cue, Cue]]) -> str:
    """The table as text: accuracy of the best guesser by what it may use, and the rule that the last one follows."""
    lines = ["kind               n  chance   text    cue  cue+question  +-2se  best rule with the question"]
    for text, cue, both in table:
        shares = (text.chance, text.accuracy, cue.accuracy, both.accuracy, 2 * text.standard_error)
        cells = (f"{100 * share:>{width}.1f}" for share, width in zip(shares, (7, 6, 6, 13, 6), strict=True))
        lines.append(f"{text.kind:<14} {text.n:>5} {' '.join(cells)}  {both.rule}")
    return "\n".join(lines)
