"""The questions of the rule-based writer: for each kind the wordings, the choices and the truth, by arithmetic on events."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from echo_audio.data.rows import KnownEvent

Events = Sequence[KnownEvent]
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Posed:
    """A question with its truth and what it rests on.

    Args:
        wrong: answers that are not the truth.
        rests_on: events to be cited, by start.
    """

    text: str
    answer: str
    wrong: tuple[str, ...]
    rests_on: tuple[KnownEvent, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of question.

    Args:
        wordings: with places {0}, {1} for names of sounds.
        n_names: sounds that the question names.
        solve: events, length of the recording, names -> (answer, wrong answers, events it rests on); None where the question
            cannot be asked of them.
    """

    wordings: tuple[str, ...]
    n_names: int
    solve: Callable[[Events, float, Names], tuple[str, Names, tuple[KnownEvent, ...]] | None]


def _single(events: Events) -> dict[str, KnownEvent]:
    """Sounds that occur once."""
    counts = Counter(event.label for event in events)
    return {event.label: event for event in events if counts[event.label] == 1}


def _labels(events: Events) -> list[str]:
    return list(dict.fromkeys(event.label for event in sorted(events, key=lambda e: (e.start_s, e.end_s))))


def _order(events: Events, _: float, names: Names) -> tuple[str, Names, tuple[KnownEvent, ...]] | None:
    known = _single(events)
    if not set(names) <= set(known) or len(set(names)) < 2:
        return None
    found = sorted((known[name] for name in names), key=lambda e: e.start_s)
    if found[1].start_s - found[0].start_s < 0.2:
        return None
    return found[0].label, tuple(e.label for e in found[1:]), tuple(found[:2])


def _after(events: Events, _: float, names: Names) -> tuple[str, Names, tuple[KnownEvent, ...]] | None:
    known = _single(events)
    if names[0] not in known:
        return None
    first = known[names[0]]
    later = sorted((e for e in events if e.start_s >= first.end_s), key=lambda e: e.start_s)
    if not later or (len(later) > 1 and later[1].start_s - later[0].start_s < 0.2) or later[0].label == names[0]:
        return None
    wrong = tuple(label for label in _labels(events) if label not in (names[0], later[0].label))
    return later[0].label, wrong, (first, later[0])


def _count(events: Events, _: float, names: Names) -> tuple[str, Names, tuple[KnownEvent, ...]] | None:
    found = tuple(sorted((e for e in events if e.label == names[0]), key=lambda e: e.start_s))
    words = ("once", "twice", "three times", "four times", "five times", "six times")
    if not 1 <= len(found) <= 4:
        return None
    return words[len(found) - 1], tuple(w for i, w in enumerate(words) if i != len(found) - 1), found


def _length(events: Events, _: float, names: Names) -> tuple[str, Names, tuple[KnownEvent, ...]] | None:
    known = _single(events)
    if not set(names) <= set(known) or len(set(names)) < 2:
        return None
    found = sorted((known[name] for name in names), key=lambda e: e.start_s - e.end_s)
    spans = [e.end_s - e.start_s for e in found]
    if spans[0] < 1.3 * spans[1]:
        return None
    return found[0].label, tuple(e.label for e in found[1:]), tuple(sorted(found, key=lambda e: e.start_s))


def _gap(events: Events, _: float, names: Names) -> tuple[str, Names, tuple[KnownEvent, ...]] | None:
    known = _single(events)
    if not set(names) <= set(known) or len(set(names)) < 2:
        return None
    first, second = sorted((known[name] for name in names), key=lambda e: e.start_s)
    gap_s = second.start_s - first.end_s
    if gap_s < 0.3:
        return None
    near = f"about {gap_s:.1f} seconds"
    return near, tuple(f"about {gap_s * by:.1f} seconds" for by in (2.5, 5.0, 0.3)), (first, second)


def _overlap(events: Events, _: float, names: Names) -> tuple[str, Names, tuple[KnownEvent, ...]] | None:
    known = _single(events)
    if not set(names) <= set(known) or len(set(names)) < 2:
        return None
    first, second = sorted((known[name] for name in names), key=lambda e: e.start_s)
    shared_s = first.end_s - second.start_s
    if abs(shared_s) < 0.1:
        return None
    said = ("yes, they overlap", "no, never at once")
    return said[int(shared_s < 0)], (said[int(shared_s > 0)],), (first, second)


def _place(events: Events, duration_s: float, names: Names) -> tuple[str, Names, tuple[KnownEvent, ...]] | None:
    known = _single(events)
    if names[0] not in known:
        return None
    event, parts = known[names[0]], ("in the first third", "in the middle third", "in the last third")
    first, last = (int(3 * t / duration_s - 1e-9) for t in (event.start_s, event.end_s))
    if first != last:
        return None
    return parts[first], tuple(part for i, part in enumerate(parts) if i != first), (event,)


def _change(events: Events, _: float, names: Names) -> tuple[str, Names, tuple[KnownEvent, ...]] | None:
    """What ends the recording's sounds, after a named one has begun."""
    known = _single(events)
    last = max(events, key=lambda e: e.end_s)
    if names[0] not in known or last.label not in known or last.label == names[0]:
        return None
    others = [e for e in events if e is not last]
    if known[names[0]].end_s > last.start_s or last.end_s - max(e.end_s for e in others) < 0.2:
        return None
    wrong = tuple(label for label in _labels(events) if label not in (names[0], last.label))
    return last.label, wrong, (known[names[0]], last)


def _scene(events: Events, _: float, names: Names) -> tuple[str, Names, tuple[KnownEvent, ...]] | None:
    order = [e.label for e in sorted(events, key=lambda e: (e.start_s, e.end_s))]
    known = _single(events)
    if not set(names) <= set(known) or len(set(names)) < 2:
        return None
    by_start = sorted((known[n] for n in names), key=lambda e: e.start_s)
    if by_start[1].start_s < by_start[0].end_s:
        return None
    n_between = order.index(by_start[1].label) - order.index(by_start[0].label) - 1
    said = ("nothing else starts", "one other sound starts", "several other sounds start")
    right = min(2, n_between)
    return said[right], tuple(s for i, s in enumerate(said) if i != right), tuple(by_start)


RULES: dict[str, Rule] = {
    "order": Rule(
        (
            "Which of these two is heard first, the {0} or the {1}?",
            "Between the {0} and the {1}, which one starts earlier?",
            "What begins sooner in the recording: the {0} or the {1}?",
        ),
        2,
        _order,
    ),
    "after": Rule(
        (
            "Which sound starts next once the {0} is over?",
            "What is heard directly after the {0}?",
            "As soon as the {0} has ended, what begins next?",
        ),
        1,
        _after,
    ),
    "count": Rule(
        (
            "How often is the {0} heard?",
            "How many times does the {0} occur?",
            "Over the whole recording, how often does the {0} sound?",
        ),
        1,
        _count,
    ),
    "length": Rule(
        ("Which one lasts longer, the {0} or the {1}?", "Which of the {0} and the {1} goes on for more time?"),
        2,
        _length,
    ),
    "gap": Rule(
        (
            "About how long is it from the end of the {0} to the start of the {1}?",
            "How much time passes between the {0} and the {1}?",
        ),
        2,
        _gap,
    ),
    "overlap": Rule(
        ("Do the {0} and the {1} overlap in time?", "Are the {0} and the {1} ever heard at the same time?"), 2, _overlap
    ),
    "place": Rule(
        ("In which part of the recording is the {0} heard?", "If the recording is cut into three equal parts, where is the {0}?"),
        1,
        _place,
    ),
    "change": Rule(
        ("After the {0} is over, which sound is the last to stop?", "Of all that sounds after the {0}, what ends last?"),
        1,
        _change,
    ),
    "scene": Rule(
        ("What happens between the start of the {0} and that of the {1}?", "Does anything start between the {0} and the {1}?"),
        2,
        _scene,
    ),
}


def pose(kind: str, events: Events, duration_s: float, rng: np.random.Generator) -> Posed | None:
    """A question of a kind about these events; None where there is none."""
    rule, labels = RULES[kind], _labels(events)
    if len(labels) < rule.n_names:
        return None
    wanted = "yes" if rng.random() < 0.5 else "no"
    for attempt in range(48):
        names = tuple(labels[int(i)] for i in rng.permutation(len(labels))[: rule.n_names])
        solved = rule.solve(events, duration_s, names)
        if kind == "overlap" and solved is not None and attempt < 40 and not solved[0].startswith(wanted):
            continue  # most pairs do not overlap: "no" would be right too often
        if solved is not None and solved[1]:
            text = rule.wordings[int(rng.integers(len(rule.wordings)))].format(*names)
            return Posed(text, solved[0], solved[1], solved[2])
    return None


def truth(question: str, events: Events, duration_s: float) -> str | None:
    """The answer to a question, worked out anew.

    "" where the events do not settle it; None where its wording is none of these.
    """
    for rule in RULES.values():
        for wording in rule.wordings:
            pattern = re.escape(wording).replace(r"\{0\}", "(?P<a>.+?)").replace(r"\{1\}", "(?P<b>.+?)")
            found = re.fullmatch(pattern, question)
            if found:
                names = tuple(found.groupdict().values())
                solved = rule.solve(events, duration_s, names) if set(names) <= set(_labels(events)) else None
                return solved[0] if solved else ""
    return None
