"""Loudness, timbre and pitch of a sound that is heard more than once: the answer is in the sound, not in its times.

Each is asked as a comparison of two ("which is louder") and as a match ("which is as loud as the first"). In a match
any of the candidates could be the one asked for, so that no single level, timbre or pitch tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from echo_audio.data import wording
from echo_audio.data.questions.base import Asked, Canvas, Kind, told
from echo_audio.data.scene import Event, Sound, Source
from echo_audio.data.wording import ORDINALS, capital, nth, the

LOUDER = (
    "Which {b} is {w}, the first or the second?",
    "{X} is heard twice. Which time is it {w}?",
    "Is the first or the second {b} {w}?",
    "Compare the two: which {b} is {w}?",
    "Of the first and the second {b}, which one is {w}?",
    "Which of the two is {w}, judging {x} by its level?",
    "When is {x} {w}, the first or the second time?",
)
AS_LOUD = (
    "Which {b} is as loud as the first {b}?",
    "The first {b} has the same level as a later one. Which one?",
    "Which later {b} is just as loud as the first?",
    "Compare levels: which {b} matches the first {b}?",
    "Which time is {x} again as loud as the first time?",
    "Which of the later ones has the loudness of the first {b}?",
)
SAME_OR_NOT = (
    "Are the two {b} sounds the same or different in {w}?",
    "{X} is heard twice. Is the {w} the same or different?",
    "Does the second {b} have the same {w} as the first or a different one?",
    "Compare the {w} of the first and the second {b}. Same or different?",
    "Is the {w} of {x} the same both times?",
    "Do you hear the same {w} in both, when {x} comes back?",
)
MATCH_TONE = (
    "Which {b} has the same tone as the first {b}?",
    "The tone of the first {b} comes back later. In which one?",
    "Which later {b} sounds like the first?",
    "Compare the tone: which {b} matches the first {b}?",
    "Which of the later ones has the tone of the first {b}?",
    "When does {x} have its first tone again?",
)
HIGHER = (
    "Which {b} is {w}, the first or the second?",
    "{X} is heard twice. Which time is its pitch {w}?",
    "Is the first or the second {b} {w} in pitch?",
    "Compare the pitch: which {b} is {w}?",
    "Of the first and the second {b}, which has the {w} pitch?",
    "When is the pitch of {x} {w}, the first or the second time?",
)
SAME_PITCH = (
    "Which {b} has the same pitch as the first {b}?",
    "The pitch of the first {b} comes back later. In which one?",
    "Which later {b} is as high as the first?",
    "Compare the pitch: which {b} matches the first {b}?",
    "Which of the later ones has the pitch of the first {b}?",
    "When does {x} have its first pitch again?",
)

_AGAIN = (
    "Then I listen to {n}{s}, and {h}.",
    "Next is {n}{s}; {h}.",
    "I do the same for {n}{s}: {h}.",
    "Now {n}{s}. {H}.",
    "Against it I hold {n}{s}; {h}.",
    "The next to hear is {n}{s}, and {h}.",
)
_LEVEL = ("it has {v}", "I hear {v}", "its level is {v}", "the level there is {v}", "that is {v}")
_PITCH = ("it has {v}", "I hear {v}", "its tone is at {v}", "the note there is {v}", "that is {v}")
_TONE = ("it sounds {v}", "the tone is {v}", "that is {v}")
_CHANGES = (
    "compare the {w} of both",
    "hear {x} twice",
    "judge the {w} of {x} each time",
    "find out whether the {w} changes",
)


class _Quality:
    """One audible quality: how the value of an event is named, in full and briefly; clauses that end with the value."""

    def __init__(self, name: Callable[[Event], str], brief: Callable[[Event], str], clauses: Sequence[str]) -> None:
        self.name, self.brief, self.clauses = name, brief, clauses

    def look(self, c: Canvas, event: Event, name: str) -> str:
        """Cite the first event and name its value."""
        return c.look(event, name, c.say(self.clauses, v=self.name(event)), wording.LOOKS)

    def judge(self, c: Canvas, event: Event, name: str, reference: Event, verdict: str) -> str:
        """Cite a later event, name its value, and judge it against the reference."""
        clause = c.say(self.clauses, v=self.name(event))
        return c.look(event, name, c.against(clause, self.brief(reference), verdict), _AGAIN)


_LOUDNESS = _Quality(lambda e: wording.loudness_text(e.level_db), lambda e: str(wording.loudness_level(e.level_db)), _LEVEL)
_TIMBRE = _Quality(lambda e: wording.TIMBRES[e.sound.timbre], lambda e: wording.TIMBRES[e.sound.timbre], _TONE)
_PITCHES = _Quality(lambda e: wording.pitch_text(e.sound.semitones), lambda e: str(wording.pitch_step(e.sound.semitones)), _PITCH)


def _bare(event: Event) -> str:
    return event.label.removeprefix("the ")


def _scene(c: Canvas, repeats: Sequence[Sound], levels: Sequence[float] | None, others: bool) -> tuple[list[Event], list[Event]]:
    """The repeats of one sound in order, among other sounds; the whole scene and the repeats alone."""
    n = max(len(repeats), c.size(len(repeats), 7)) if others else len(repeats)
    rest = c.sounds(n - len(repeats), without=(repeats[0].label,)) if n > len(repeats) else []
    places = sorted(c.sample(range(n), len(repeats)))
    sounds = [repeats[places.index(i)] if i in places else rest.pop() for i in range(n)]
    known = {place: levels[i] for i, place in enumerate(places)} if levels is not None else {}
    if levels is not None:
        known = {i: known.get(i, _level(c, c.integer(0, wording.N_LOUDNESS_LEVELS - 1), 0.0)) for i in range(n)}
    events = c.line(sounds, levels=known)
    return events, [events[place] for place in places]


def _level(c: Canvas, step: int, offset: float) -> float:
    return round(wording.LOUDNESS_FLOOR_DB + wording.LOUDNESS_STEP_DB * (step + 0.5) + offset, 1)


def _ordinal_choices(c: Canvas, label: str, ranks: Sequence[int]) -> dict[int, str]:
    """The choices by rank, in one of three wordings."""
    form = c.integer(0, 2)
    names = {0: lambda i: nth(label, i), 1: lambda i: f"the {ORDINALS[i]} one", 2: lambda i: f"the {ORDINALS[i]}"}[form]
    return {rank: names(rank) for rank in ranks}


def _compare(
    c: Canvas,
    quality: _Quality,
    values: tuple[float, float],
    events: list[Event],
    pair: list[Event],
    texts: tuple[Sequence[str], str, str],
) -> Asked:
    """Which of two has more; asked for more or for less equally often."""
    templates, more, less = texts
    want_more = c.chance(0.5)
    word = more if want_more else less
    rank = 0 if (values[0] > values[1]) == want_more else 1
    label = pair[0].label
    order = [0, 1] if c.chance(0.7) else [1, 0]
    known, other = pair[order[0]], pair[order[1]]
    verdict = more if values[order[1]] > values[order[0]] else less
    body = [
        quality.look(c, known, nth(label, order[0])),
        quality.judge(c, other, nth(label, order[1]), known, verdict),
    ]
    choices = _ordinal_choices(c, label, (0, 1))
    goal = c.pick(
        ("compare both times {x} is heard", "find the {w} {b}", "judge {x} twice", "hear each {b} alone and compare")
    ).format(x=the(label), w=word, b=_bare(pair[0]))
    return Asked(
        events=tuple(events),
        question=c.say(templates, x=the(label), X=capital(the(label)), b=_bare(pair[0]), w=word),
        choices=tuple(c.shuffled(list(choices.values()))),
        answer=choices[rank],
        reasoning=told(c.opening(goal), *body, c.conclusion(choices[rank])),
        evidence=tuple(pair[i] for i in order),
    )


def _match(c: Canvas, quality: _Quality, events: list[Event], repeats: list[Event], rank: int, templates: Sequence[str]) -> Asked:
    """Which later one equals the first; the search ends where it is found."""
    label = repeats[0].label
    choices = _ordinal_choices(c, label, range(1, len(repeats)))
    body = [quality.look(c, repeats[0], nth(label, 0))]
    for i in range(1, rank + 1):
        body.append(quality.judge(c, repeats[i], nth(label, i), repeats[0], "the same" if i == rank else "different"))
    goal = c.pick(
        (
            "compare each later {b} with the first",
            "find the {b} that equals the first",
            "hear each {b} alone",
            "judge every {b} and match them",
        )
    )
    return Asked(
        events=tuple(events),
        question=c.say(templates, x=the(label), X=capital(the(label)), b=_bare(repeats[0])),
        choices=tuple(c.shuffled(list(choices.values()))),
        answer=choices[rank],
        reasoning=told(c.opening(goal.format(b=_bare(repeats[0]))), *body, c.conclusion(choices[rank])),
        evidence=tuple(repeats[: rank + 1]),
    )


def _loudness(c: Canvas) -> Asked:
    """Levels run over 40 dB in steps of 4, and two that are compared are neighbours.

    The ends of any range tell which is louder (the softest level of all is never the louder one), so comparisons are the
    fewer part.
    """
    sound = c.sounds(1, c.repeatable())[0]
    offset = c.uniform(-1.4, 1.4)
    top = wording.N_LOUDNESS_LEVELS - 1
    if c.chance(0.3):
        low = c.integer(0, top - 1)
        values = (low, low + 1) if c.chance(0.5) else (low + 1, low)
        events, pair = _scene(c, [sound] * 2, [_level(c, v, offset) for v in values], others=True)
        return _quiet(_compare(c, _LOUDNESS, values, events, pair, (LOUDER, "louder", "softer")))
    k = 3 if c.room >= 5 and c.chance(0.4) else 2
    candidates = c.sample(range(top + 1), k)
    rank = c.integer(1, k)
    values = [candidates[rank - 1], *candidates]
    events, repeats = _scene(c, [sound] * (k + 1), [_level(c, v, offset) for v in values], others=True)
    return _quiet(_match(c, _LOUDNESS, events, repeats, rank, AS_LOUD))


def _quiet(asked: Asked) -> Asked:
    """With a background that stays under the softest level."""
    return replace(asked, background_db=wording.LOUDNESS_FLOOR_DB - 22.0)


def _varied(c: Canvas, labels: frozenset[str] | None = None) -> Sound:
    return c.sounds(1, c.procedural(labels))[0]


def _timbre(c: Canvas) -> Asked:
    sound = _varied(c)
    n = len(wording.TIMBRES)
    if c.chance(0.5):
        first = c.integer(0, n - 1)
        same = c.chance(0.5)
        second = first if same else (first + c.integer(1, n - 1)) % n
        events, pair = _scene(c, [replace(sound, timbre=t) for t in (first, second)], None, others=True)
        return _same_or_not(c, _TIMBRE, events, pair, same)
    k = 3 if c.room >= 5 and c.chance(0.4) else 2
    candidates = c.sample(range(n), k)
    rank = c.integer(1, k)
    events, repeats = _scene(c, [replace(sound, timbre=t) for t in (candidates[rank - 1], *candidates)], None, others=True)
    return _match(c, _TIMBRE, events, repeats, rank, MATCH_TONE)


def _same_or_not(c: Canvas, quality: _Quality, events: list[Event], pair: list[Event], same: bool) -> Asked:
    label, w = pair[0].label, "tone" if quality is _TIMBRE else "pitch"
    choices = c.pick(
        (
            ("the same", "different"),
            ("same", "different"),
            (f"the same {w}", f"a different {w}"),
            ("one and the same", "two different ones"),
        )
    )
    answer = choices[0 if same else 1]
    body = [
        quality.look(c, pair[0], nth(label, 0)),
        quality.judge(c, pair[1], nth(label, 1), pair[0], "the same" if same else "different"),
    ]
    goal = c.pick(_CHANGES)
    return Asked(
        events=tuple(events),
        question=c.say(SAME_OR_NOT, x=the(label), X=capital(the(label)), b=_bare(pair[0]), w=w),
        choices=tuple(c.shuffled(choices)),
        answer=answer,
        reasoning=told(c.opening(goal.format(x=the(label), w=w)), *body, c.conclusion(answer)),
        evidence=tuple(pair),
    )


_CLOSE = 3  # semitones between two pitches of which one is the higher


def _apart(c: Canvas, k: int) -> list[int]:
    """k pitches in semitones, at least 5 apart, in random order."""
    slack = 12 - 5 * (k - 1)
    cuts = sorted(c.integer(0, slack) for _ in range(k))
    return c.shuffled([5 * i + cut - 6 for i, cut in enumerate(cuts)])


def _pitch(c: Canvas) -> Asked:
    """Seldom as higher or lower: on 13 steps one pitch alone goes far in telling which is higher."""
    sound = _varied(c, c.palette.tonal)
    form = c.random()
    if form < 0.4:
        values = _apart(c, 2)
        same = c.chance(0.5)
        second = values[0] if same else values[1]
        events, pair = _scene(c, [replace(sound, semitones=v) for v in (values[0], second)], None, others=True)
        return _same_or_not(c, _PITCHES, events, pair, same)
    if form < 0.48:
        low = c.integer(-6, 6 - _CLOSE)
        values = c.shuffled([low, low + _CLOSE])
        events, pair = _scene(c, [replace(sound, semitones=v) for v in values], None, others=True)
        return _compare(c, _PITCHES, (values[0], values[1]), events, pair, (HIGHER, "higher", "lower"))
    k = 3 if c.room >= 5 and c.chance(0.3) else 2
    candidates = _apart(c, k)
    rank = c.integer(1, k)
    events, repeats = _scene(c, [replace(sound, semitones=v) for v in (candidates[rank - 1], *candidates)], None, others=True)
    return _match(c, _PITCHES, events, repeats, rank, SAME_PITCH)


KINDS = (
    Kind("loudness", _loudness, weight=1.4, in_sound=True),
    Kind("timbre", _timbre, weight=1.4, in_sound=True, needs=(Source.PROCEDURAL,)),
    Kind("pitch", _pitch, weight=1.4, in_sound=True, needs=(Source.PROCEDURAL,)),
)
