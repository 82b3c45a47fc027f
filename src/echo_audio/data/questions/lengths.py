"""Which of two sounds or silences is longer, and which is as long as another one: found by times.

A comparison of two is only asked where lengths range widely, because on a narrow range one length alone tells which is
longer. Else, and half of the time, the question is which one is as long as a third: any candidate could be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from echo_audio.data.questions.base import GAP, Asked, Canvas, Kind, NoRoomError, told
from echo_audio.data.scene import Event, Sound, Source
from echo_audio.data.wording import bare, capital, length_word, seconds, tag, the

LONGER = (
    "Which sound lasts {w}?",
    "Which of the two is {w}?",
    "Which one goes on for a {w} time?",
    "Compare {x} and {y}: which is {w}?",
    "Is {x} or {y} the {w} one?",
    "Of {x} and {y}, which takes the {w} time?",
    "Which sound has the {w} duration?",
)
AS_LONG = (
    "Which sound lasts as long as {r}?",
    "Which one has the same length as {r}?",
    "{R} and another sound are equally long. Which one?",
    "Compare lengths: which sound matches {r}?",
    "Which of these takes the same time as {r}?",
    "Which sound goes on just as long as {r}?",
)
GAPS = (
    "Which pause is {w}?",
    "Which of the two silences is {w}?",
    "Where is the {w} gap?",
    "Which gap takes a {w} time?",
    "Between which sounds is the pause {w}?",
    "Two pauses are compared. Which one is {w}?",
    "Which of these silences lasts {w}?",
)
SAME_GAP = (
    "Which pause is as long as the one {r}?",
    "Which gap has the same length as the gap {r}?",
    "The silence {r} is as long as another one. Which one?",
    "Compare pauses: which one matches the pause {r}?",
    "Which of these silences takes the same time as the one {r}?",
    "Which pause lasts just as long as that {r}?",
)

_SIZE = ("it lasts {d}", "its length is {d}", "it goes on for {d}", "it takes {d}", "it is {l}, {d}")
_OTHER = (
    "The other one is {n}{s}; {h}.",
    "Against it I hold {n}{s}, and {h}.",
    "Then I measure {n}{s}: {h}.",
    "Next comes {n}{s} in my comparison; {h}.",
    "For {n}{s}, I find that {h}.",
)
_PAUSE = ("the silence {a} is here{s}, and it lasts {d}", "{a} it is quiet{s}; that takes {d}")

_LEAST = 3  # tenths by which lengths of sounds differ
_LEAST_GAP = 4  # and those of pauses
_WIDE = 5  # a comparison wants a range of that many differences
_WIDE_GAP = 7


def _pair(c: Canvas, low: int, high: int, step: int) -> tuple[int, int]:
    """Two numbers from low to high that differ by `step`, in random order."""
    small = c.integer(low, high - step)
    return (small, small + step) if c.chance(0.5) else (small + step, small)


def _apart(c: Canvas, low: int, high: int, step: int, k: int) -> list[int]:
    """k numbers from low to high, at least `step` apart, in random order."""
    slack = high - low - step * (k - 1)
    cuts = sorted(c.integer(0, slack) for _ in range(k))
    return c.shuffled([low + step * i + cut for i, cut in enumerate(cuts)])


# ---------------------------------------------------------------------------------------------- sounds


def _duration(c: Canvas) -> Asked:
    """Only procedural sounds: a recorded clip has one length, so that its name alone would tell it."""
    options = c.procedural(continuous=True)
    n = c.size(3, 7)
    k = 3 if n >= 4 and c.tenths > 60 and c.chance(0.4) else 2
    asked = c.sounds(k + 1, options)
    ranges = [c.lengths(sound) for sound in asked]
    rest = c.sounds(n - k - 1, without=[sound.label for sound in asked]) if n > k + 1 else []
    short = sum(c.lengths(sound)[0] for sound in rest)
    low = max(r[0] for r in ranges)
    high = min(*(r[1] for r in ranges), (c.tenths - short - (GAP + 1) * n) // (k + 1))
    if high - low >= _LEAST * _WIDE and c.chance(0.5):
        sizes, asked, rest = [*_pair(c, low, high, _LEAST)], asked[:2], [*rest, *asked[2:]][: n - 2]
        events, pair = _laid(c, asked, sizes, rest)
        return _compare(c, events, pair)
    if high - low < _LEAST * (k - 1):
        raise NoRoomError("the lengths of these sounds are too much alike")
    candidates = _apart(c, low, high, _LEAST, k)
    rank = c.integer(0, k - 1)
    events, (reference, *others) = _laid(c, asked, [candidates[rank], *candidates], rest)
    return _match(c, events, reference, others, rank)


def _laid(c: Canvas, asked: list[Sound], sizes: list[int], rest: list[Sound]) -> tuple[list[Event], list[Event]]:
    """The whole scene in random order, and the asked sounds in theirs."""
    sounds = [*asked, *rest]
    order = c.shuffled(range(len(sounds)))
    lengths = {at: sizes[i] for at, i in enumerate(order) if i < len(asked)}
    events = c.line([sounds[i] for i in order], lengths)
    return events, [events[order.index(i)] for i in range(len(asked))]


def _size(event: Event) -> float:
    return round(event.end_s - event.start_s, 1)


def _size_clause(c: Canvas, event: Event) -> str:
    return c.say(_SIZE, d=seconds(_size(event)), l=length_word(event))


def _judged(c: Canvas, event: Event, reference: Event, verdict: str) -> str:
    return c.against(_size_clause(c, event), seconds(_size(reference)), verdict)


def _compare(c: Canvas, events: list[Event], pair: Sequence[Event]) -> Asked:
    longer = c.chance(0.5)
    word = "longer" if longer else "shorter"
    first, second = c.shuffled(pair)
    x, y = the(first.label), the(second.label)
    sizes = [_size(first), _size(second)]
    target = first if (sizes[0] > sizes[1]) == longer else second
    body = [
        c.look(first, x, _size_clause(c, first)),
        c.look(second, y, _judged(c, second, first, "longer" if sizes[1] > sizes[0] else "shorter"), _OTHER),
    ]
    goal = c.pick(
        (
            "measure both sounds",
            "compare {x} with {y} in length",
            "find the {w} one of {x} and {y}",
            "see how long {x} and {y} last",
        )
    )
    return Asked(
        events=tuple(events),
        question=c.say(LONGER, w=word, x=x, y=y),
        choices=tuple(bare(e.label) for e in c.shuffled([first, second])),
        answer=bare(target.label),
        reasoning=told(c.opening(goal.format(x=x, y=y, w=word)), *body, c.conclusion(the(target.label))),
        evidence=(first, second),
    )


def _match(c: Canvas, events: list[Event], reference: Event, others: list[Event], rank: int) -> Asked:
    """Which other sound is as long; the search ends where it is found."""
    r, a = the(reference.label), the(others[rank].label)
    order = c.shuffled(others)
    body = [c.look(reference, r, _size_clause(c, reference))]
    order = order[: order.index(others[rank]) + 1]
    for event in order:
        verdict = "the same" if event is others[rank] else "different"
        body.append(c.look(event, the(event.label), _judged(c, event, reference, verdict), _OTHER))
    goal = c.pick(
        (
            "measure {r} and the others",
            "find a sound as long as {r}",
            "compare the lengths with {r}",
            "see how long each one lasts",
        )
    ).format(r=r)
    return Asked(
        events=tuple(events),
        question=c.say(AS_LONG, r=r, R=capital(r)),
        choices=tuple(bare(event.label) for event in c.shuffled(others)),
        answer=bare(others[rank].label),
        reasoning=told(c.opening(goal), *body, c.conclusion(a)),
        evidence=(reference, *order),
    )


# ---------------------------------------------------------------------------------------------- pauses


def _gap(c: Canvas) -> Asked:
    """Each pause lies between neighbours; other sounds may lie anywhere else."""
    n = c.size(4, 7)
    sounds = c.sounds(n)
    room = c.tenths - sum(c.lengths(sound)[0] for sound in sounds) - GAP * (n - 1)
    if room < 2 * _LEAST_GAP and n > 4:
        n, sounds = 4, sounds[:4]
        room = c.tenths - sum(c.lengths(sound)[0] for sound in sounds) - GAP * 3
    pauses = c.sample(range(n - 1), 3)
    high = min(60, GAP + room // 2)
    if high - GAP >= _LEAST_GAP * _WIDE_GAP and c.chance(0.4):
        pauses = pauses[:2]
        events = c.line(sounds, fixed=dict(zip(pauses, _pair(c, GAP, high, _LEAST_GAP), strict=True)))
        return _compare_gaps(c, events, sorted(pauses))
    high = min(60, GAP + max(_LEAST_GAP, room // 3))
    candidates = _apart(c, GAP, high, _LEAST_GAP, 2)
    rank = c.integer(0, 1)
    sizes = [candidates[rank], *candidates]
    events = c.line(sounds, fixed=dict(zip(pauses, sizes, strict=True)))
    return _match_gaps(c, events, pauses, rank)


def _pause(events: list[Event], place: int) -> float:
    return round(events[place + 1].start_s - events[place].end_s, 1)


def _between(events: list[Event], place: int) -> str:
    return f"between {the(events[place].label)} and {the(events[place + 1].label)}"


def _compare_gaps(c: Canvas, events: list[Event], pauses: list[int]) -> Asked:
    longer = c.chance(0.5)
    word = "longer" if longer else "shorter"
    first, second = pauses
    grows = _pause(events, second) > _pause(events, first)
    target = _between(events, second if grows == longer else first)
    evidence, body = _gap_steps(c, events, pauses, ["longer" if grows else "shorter"])
    goal = c.pick(
        ("measure both pauses", "compare the two silences", "find the {w} pause", "see how far apart the sounds are")
    ).format(w=word)
    final = c.say(
        (
            "The {w} pause is the one {a}.",
            "So the {w} one is {a}.",
            "Hence the answer: {a}.",
            "The {w} silence lies {a}.",
            "I choose the gap {a}.",
        ),
        w=word,
        a=target,
    )
    return Asked(
        events=tuple(events),
        question=c.say(GAPS, w=word),
        choices=tuple(_between(events, p) for p in c.shuffled(pauses)),
        answer=target,
        reasoning=told(c.opening(goal), *body, final),
        evidence=tuple(evidence),
    )


def _match_gaps(c: Canvas, events: list[Event], pauses: list[int], rank: int) -> Asked:
    reference, *candidates = pauses
    r, target = _between(events, reference), _between(events, candidates[rank])
    order = sorted(candidates)
    order = order[: order.index(candidates[rank]) + 1]
    verdicts = ["the same" if place == candidates[rank] else "different" for place in order]
    evidence, body = _gap_steps(c, events, [reference, *order], verdicts)
    goal = c.pick(
        (
            "measure all three pauses",
            "compare the silences",
            "find a pause as long as the one asked about",
            "see how far apart the sounds are",
        )
    )
    final = c.say(
        (
            "Equal to {d} is the one {a}.",
            "So the one that matches is {a}.",
            "Hence the answer: {a}.",
            "The same {d} lies {a}.",
            "I choose the gap {a}.",
        ),
        a=target,
        d=seconds(_pause(events, reference)),
    )
    return Asked(
        events=tuple(events),
        question=c.say(SAME_GAP, r=r),
        choices=tuple(_between(events, p) for p in c.shuffled(candidates)),
        answer=target,
        reasoning=told(c.opening(goal), *body, final),
        evidence=tuple(evidence),
    )


def _gap_steps(
    c: Canvas, events: list[Event], pauses: list[int], verdicts: list[str]
) -> tuple[list[Event], list[str]]:
    """What is cited and said: the pauses themselves are listened to, and each is judged against the first."""
    evidence = [_silence(events, place) for place in pauses]
    known = seconds(_pause(events, pauses[0]))
    body: list[str] = []
    for place, pause, verdict in zip(pauses, evidence, ["", *verdicts], strict=True):
        clause = c.say(_PAUSE, a=_between(events, place), s=tag(pause), d=seconds(_pause(events, place)))
        body.append(capital(c.against(clause, known, verdict) if verdict else clause) + ".")
    return evidence, body


def _silence(events: list[Event], place: int) -> Event:
    """The pause after an event as evidence: nothing in it is an event of the scene."""
    left, right = events[place], events[place + 1]
    return Event(Sound("silence"), left.end_s, right.start_s, level_db=left.level_db)


KINDS = (
    Kind("duration", _duration, needs=(Source.PROCEDURAL,), asked=frozenset({"length"})),
    Kind("gap", _gap, asked=frozenset({"pause"})),
)
