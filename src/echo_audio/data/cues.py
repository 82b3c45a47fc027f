"""What can be guessed without listening: how far single cues and the bare text get on drawn rows.

A rule sees one thing of the row (a level, a length, a time, a position, the number of events, the duration, the words
of the question) and one thing of each choice (its text, its place, its rank by start, length or level in the scene).
How often such a choice was right is counted on one half of the rows; the best rule is tested on the other half.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from echo_audio.data.questions import KINDS
from echo_audio.data.rows import Row
from echo_audio.data.scene import Event, Scene
from echo_audio.data.wording import bare

Pair = tuple[Row, Scene]
Seen = Callable[[Row, Scene], Hashable]
Mark = Callable[[Row, Scene, int], Hashable]

_BINS = 6
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


# ---------------------------------------------------------------------------------------------- what a rule may see


def _event_of(row: Row, scene: Scene, choice: int) -> Event | None:
    """The only event that a choice names (of a pause, the one before it), or None."""
    name = row.choices[choice].removeprefix("between the ").split(" and the ")[0]
    found = [event for event in scene.events if bare(event.label) == name]
    return found[0] if len(found) == 1 else None


def _rank(key: Callable[[Event], float]) -> Mark:
    def mark(row: Row, scene: Scene, choice: int) -> Hashable:
        events = [_event_of(row, scene, i) for i in range(len(row.choices))]
        own = events[choice]
        if own is None or any(event is None for event in events):
            return None
        return sum(key(event) < key(own) for event in events if event is not None), len(events)

    return mark


def _nearest(share: float) -> Mark:
    """Whether the choice's event is the nearest of all to that share of the duration."""

    def mark(row: Row, scene: Scene, choice: int) -> Hashable:
        events = [_event_of(row, scene, i) for i in range(len(row.choices))]
        if any(event is None for event in events):
            return None
        far = [abs((e.start_s + e.end_s) / 2 - share * scene.duration_s) for e in events if e is not None]
        return far[choice] == min(far)

    return mark


def _length(event: Event) -> float:
    return event.end_s - event.start_s


_FEATURES: dict[str, Callable[[Event], float]] = {
    "start": lambda e: e.start_s,
    "length": _length,
    "level": lambda e: e.level_db,
}

_TEXT_MARKS: dict[str, Mark] = {
    "text": lambda row, scene, i: row.choices[i],
    "place": lambda row, scene, i: (i, len(row.choices)),
    "text length": lambda row, scene, i: (sum(len(c) < len(row.choices[i]) for c in row.choices), len(row.choices)),
    "named in question": lambda row, scene, i: row.choices[i] in row.question,
}
_SOUND_MARKS: dict[str, Mark] = {
    **{f"{name} rank": _rank(key) for name, key in _FEATURES.items()},
    **{f"nearest {share:g}": _nearest(share) for share in (0.2, 0.35, 0.5, 0.65, 0.8)},
}


def _pause_after(event: Event, scene: Scene) -> float:
    return min((e.start_s - event.end_s for e in scene.events if e.start_s > event.start_s), default=0.0)


def masked(text: str, row: Row) -> str:
    """The text with labels, choices, numbers and times replaced, so that only its wording is left."""
    words = (
        {bare(event.label) for event in row.events}
        | {event.label.removeprefix("the ") for event in row.events}
        | set(row.choices)
    )
    for word in sorted(words, key=len, reverse=True):
        text = re.sub(rf"\b{re.escape(word)}\b", "_", text, flags=re.IGNORECASE)
    text = re.sub(
        r"\b(zero|one|two|three|four|five|six|seven|eight|nine|ten|first|second|third|fourth|fifth|sixth)\b",
        "#",
        text,
        flags=re.I,
    )
    return re.sub(r"\d+(\.\d+)?", "#", text)


def _shape(row: Row, scene: Scene) -> Hashable:
    return masked(row.question, row)


def _direction(row: Row, scene: Scene) -> Hashable:
    """The word of the question that says which way to choose."""
    found = re.search(r"louder|softer|longer|shorter|higher|lower|before|after|as loud|same|tone", row.question)
    return found[0] if found else None


_QUESTION_VIEWS: dict[str, Seen] = {"question": _shape, "direction": _direction}


def _binned(values: Sequence[float]) -> Callable[[float], int]:
    """Quantile bins of the values."""
    ordered = sorted(values)
    edges = [ordered[len(ordered) * i // _BINS] for i in range(1, _BINS)] if ordered else []
    return lambda value: sum(value >= edge for edge in edges)


def _numbers(row: Row, scene: Scene) -> dict[str, float]:
    """Single numbers of the scene and of the sounds that the question names, in order of time.

    A sound that is itself the answer is left out: to know its length is to have found it. So is the second of several
    that are counted, because that there is one says how many there are.
    """
    out = {
        "duration": scene.duration_s,
        "events": float(len(scene.events)),
        "total length": sum(map(_length, scene.events)),
    }
    choices = sorted((e for i in range(len(row.choices)) if (e := _event_of(row, scene, i)) is not None), key=lambda e: e.start_s)
    for rank, event in {"earliest": choices[:1], "latest": choices[-1:]}.items():
        for one in event:
            out[f"{rank} choice length"] = _length(one)
            out[f"{rank} choice level"] = one.level_db
            out[f"{rank} choice start"] = one.start_s
            out[f"{rank} choice pause"] = _pause_after(one, scene)
    named = [event for event in row.evidence if bare(event.label) not in row.choices]
    evidence = sorted(named, key=lambda e: e.start_s)
    spans = {(event.label, event.start_s): event for event in scene.events}
    asked = [spans[e.label, e.start_s] for e in evidence]
    for i, event in {
        "first": asked[:1],
        "second": asked[1:2] if "count" not in KINDS[row.kind].asked else [],
        "last": asked[-1:],
    }.items():
        for one in event:
            for name, key in _FEATURES.items():
                out[f"{i} {name}"] = key(one)
            out[f"{i} pitch"] = one.sound.semitones
            out[f"{i} timbre"] = one.sound.timbre
            out[f"{i} place"] = scene.events.index(one)
    return out


# ---------------------------------------------------------------------------------------------- fitting and testing


class _Sheet:
    """Views and marks of all rows, each computed once."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs
        self.right = [row.choices.index(row.answer) for row, _ in pairs]
        self._views: dict[str, list[Hashable]] = {}
        self._marks: dict[str, list[list[Hashable]]] = {}

    def view(self, name: str, seen: Seen) -> list[Hashable]:
        """What is seen of each row."""
        if name not in self._views:
            self._views[name] = [seen(row, scene) for row, scene in self.pairs]
        return self._views[name]

    def mark(self, name: str, mark: Mark) -> list[list[Hashable]]:
        """The mark of each choice of each row."""
        if name not in self._marks:
            self._marks[name] = [[mark(row, scene, i) for i in range(len(row.choices))] for row, scene in self.pairs]
        return self._marks[name]

    def accuracy(self, views: Sequence[Hashable], marks: Sequence[Sequence[Hashable]], fit: range, test: range) -> float:
        """Share of the test rows of which the choice that was most often right in the fit rows is the answer.

        Ties count their share; frequencies are smoothed towards chance.
        """
        offered: Counter[Hashable] = Counter()
        right: Counter[Hashable] = Counter()
        for at in fit:
            for i, mark in enumerate(marks[at]):
                offered[views[at], mark] += 1
                right[views[at], mark] += i == self.right[at]
        base = sum(right.values()) / max(1, sum(offered.values()))
        hits = 0.0
        for at in test:
            keys = [(views[at], mark) for mark in marks[at]]
            scores = [(right[key] + base * _MIN_COUNT) / (offered[key] + _MIN_COUNT) for key in keys]
            best = [i for i, score in enumerate(scores) if score == max(scores)]
            hits += (self.right[at] in best) / len(best)
        return hits / len(test)


Rules = dict[tuple[str, str], tuple[Seen, Mark]]
"""By the name of what is seen of the row and the name of what is seen of the choice."""


def _best(kind: str, sheet: _Sheet, rules: Rules) -> Cue:
    """The rule that is best when fitted on one quarter and checked on the next, then tested on the other half."""
    n = len(sheet.pairs)
    fit, check, both, test = range(n // 4), range(n // 4, n // 2), range(n // 2), range(n // 2, n)

    def reach(key: tuple[str, str], rows: range, on: range) -> float:
        seen, mark = rules[key]
        return sheet.accuracy(sheet.view(key[0], seen), sheet.mark(key[1], mark), rows, on)

    best = max(rules, key=lambda key: reach(key, fit, check))
    chance = sum(1 / len(sheet.pairs[at][0].choices) for at in test) / len(test)
    error = math.sqrt(chance * (1 - chance) / len(test))
    return Cue(kind, f"{best[0]} -> {best[1]}", reach(best, both, test), chance, error, len(test))


def _width(row: Row, scene: Scene) -> Hashable:
    return len(row.choices)


_TEXT_VIEWS: dict[str, Seen] = {
    "nothing": _width,
    "question": _shape,
    "first word": lambda row, scene: row.question.split()[0],
    "choices": lambda row, scene: tuple(sorted(row.choices)),
}


def text_cue(kind: str, pairs: Sequence[Pair]) -> Cue:
    """The best guesser that reads the question and the choices and hears nothing."""
    rules = {(view, name): (seen, mark) for view, seen in _TEXT_VIEWS.items() for name, mark in _TEXT_MARKS.items()}
    return _best(kind, _Sheet(pairs), rules)


def _views(pairs: Sequence[Pair]) -> dict[str, Seen]:
    """Each single number of the scene, in bins."""
    numbers = {row.id: _numbers(row, scene) for row, scene in pairs}
    columns: dict[str, list[float]] = {}
    for values in numbers.values():
        for name, value in values.items():
            columns.setdefault(name, []).append(value)

    def view(name: str, bins: Callable[[float], int]) -> Seen:
        def seen(row: Row, scene: Scene) -> Hashable:
            value = numbers[row.id].get(name)
            return len(row.choices), None if value is None else bins(value)

        return seen

    return {name: view(name, _binned(values)) for name, values in columns.items() if len(values) > len(pairs) // 2}


def sound_cue(kind: str, pairs: Sequence[Pair], with_question: bool = False) -> Cue:
    """The best rule on one single cue of the sound; `with_question`: read together with the words of the question."""
    asked = KINDS[kind].asked
    marks = {
        name: mark
        for name, mark in _SOUND_MARKS.items()
        if not any(name.startswith(a) for a in asked) and not (name.startswith("nearest") and "start" in asked)
    }
    rules: Rules = {("nothing", name): (_width, mark) for name, mark in marks.items()}
    for name, seen in _views(pairs).items():
        if "choice" not in name:
            rules[name, "text"] = (seen, _TEXT_MARKS["text"])
            rules[name, "ordinal"] = (seen, _ordinal)
        elif "start" not in asked:
            rules[name, "start rank"] = (seen, _SOUND_MARKS["start rank"])
    sheet = _Sheet(pairs)
    if with_question:
        words = {view: sheet.view(view, seen) for view, seen in _QUESTION_VIEWS.items()}
        places = {row.id: at for at, (row, _) in enumerate(pairs)}
        rules = {
            (f"{view} and {name}", mark): (_both(words[view], places, rule[0]), rule[1])
            for (name, mark), rule in rules.items()
            for view in words
        }
    return _best(kind, sheet, rules)


def _both(words: Sequence[Hashable], places: dict[str, int], seen: Seen) -> Seen:
    return lambda row, scene: (words[places[row.id]], seen(row, scene))


def _ordinal(row: Row, scene: Scene, choice: int) -> Hashable:
    """Which of several a choice such as "the second bell" names."""
    found = re.search(r"first|second|third|fourth", row.choices[choice])
    return found[0] if found else row.choices[choice]


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
