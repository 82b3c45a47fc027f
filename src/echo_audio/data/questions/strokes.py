"""How many strokes a pulsed sound has and how they follow each other; its length says neither."""

from __future__ import annotations

from dataclasses import replace

from echo_audio.data.questions.base import Asked, Canvas, Kind, NoRoomError, told
from echo_audio.data.scene import Event, Rhythm, Sound, Source
from echo_audio.data.wording import NUMBERS, capital, the

PULSES = (
    "How many strokes does {x} have?",
    "Of how many strokes does {x} consist?",
    "How many single strokes do you hear in {x}?",
    "Count the strokes of {x}. How many are there?",
    "{X} is made of how many strokes?",
    "How often is {x} struck?",
    "What is the number of strokes in {x}?",
)
RHYTHM = (
    "What is the rhythm of {x}?",
    "Is {x} steady, speeding up or slowing down?",
    "How do the strokes of {x} follow each other?",
    "Does the pace of {x} change, and how?",
    "Which word fits the pace of {x}?",
    "Listen to the pace of {x}. What does it do?",
    "How does the tempo of {x} behave?",
)

_COUNTING = (
    "I count the strokes: {run}",
    "its strokes are {run}",
    "I hear {run}",
    "it goes {run}",
    "counting along gives {run}",
    "the strokes come as {run}",
)
_CHANGE = {
    Rhythm.STEADY: (
        "the pauses are all equal",
        "each pause is like the one before",
        "the strokes come evenly",
        "nothing changes from stroke to stroke",
    ),
    Rhythm.SPEEDING: (
        "the pauses get shorter",
        "each pause is shorter than the one before",
        "the strokes come faster and faster",
        "the last strokes are closest",
    ),
    Rhythm.SLOWING: (
        "the pauses get longer",
        "each pause is longer than the one before",
        "the strokes come slower and slower",
        "the first strokes are closest",
    ),
}
_PACE = (
    "The pace is {r}.",
    "That is {r}.",
    "A rhythm like this is {r}.",
    "So its pace is {r}.",
    "I call that {r}.",
    "",
)
_STROKES = (
    "There are {k} strokes in all.",
    "That makes {k} strokes.",
    "The last one is number {k}.",
    "So it has {k} strokes.",
    "Its count is {k}.",
    "",
)
_WINDOWS = ((2, 3), (2, 4), (3, 4), (3, 5), (3, 6), (4, 5), (4, 6), (5, 6))


def _range(c: Canvas, sounds: list[Sound]) -> tuple[int, int]:
    """Lengths in tenths that all of the sounds can have."""
    ranges = [c.lengths(sound) for sound in sounds]
    return max(low for low, _ in ranges), min(high for _, high in ranges)


def _scene(c: Canvas, sound: Sound, length: int) -> tuple[list[Event], Event]:
    """The sound among others that are no strokes of the same label."""
    n = c.size(2, 7)
    n = max(1, min(n, 1 + (c.tenths - length - 2) // 8))
    sounds = [*c.sounds(n - 1, without=(sound.label,)), sound]
    order = c.shuffled(range(n))
    place = order.index(n - 1)
    events = c.line([sounds[i] for i in order], {place: length})
    return events, events[place]


def _told(c: Canvas, events: list[Event], target: Event, goal: str, clause: str) -> tuple[list[Event], list[str]]:
    """The steps: find the sound, at times by way of a neighbour, and listen."""
    x = the(target.label)
    evidence, body = [target], [c.opening(goal), c.look(target, x, clause)]
    place = events.index(target)
    if place > 0 and c.chance(0.3):
        before = events[place - 1]
        evidence.insert(0, before)
        body[1:1] = [
            c.look(
                before,
                the(before.label),
                c.pick(("{x} comes next", "then {x} begins", "{x} is the sound after it")).format(x=x),
            )
        ]
    return evidence, body


def _pulsed(c: Canvas) -> Sound:
    options = c.procedural(c.palette.pulsed)
    if not options:
        raise NoRoomError("strokes need a pulsed procedural sound; add the procedural bank to the stock")
    return c.sounds(1, options)[0]


def _pulses(c: Canvas) -> Asked:
    low, high = c.pick(_WINDOWS)
    answer = c.integer(low, high)
    base = _pulsed(c)
    shortest, longest = _range(c, [replace(base, pulses=p) for p in range(low, high + 1)])
    events, target = _scene(c, replace(base, pulses=answer), c.integer(shortest, max(shortest, longest)))
    x = the(target.label)
    run = ", ".join(NUMBERS[1 : answer + 1])
    goal = c.pick(
        (
            "count the strokes of {x}",
            "hear {x} alone and count",
            "find {x} and its strokes",
            "see of how many strokes {x} is made",
        )
    ).format(x=x)
    evidence, body = _told(c, events, target, goal, c.say(_COUNTING, run=run))
    choices = [NUMBERS[i] for i in range(low, high + 1)]
    return Asked(
        events=tuple(events),
        question=c.say(PULSES, x=x, X=capital(x)),
        choices=tuple(choices if c.chance(0.3) else c.shuffled(choices)),
        answer=NUMBERS[answer],
        reasoning=told(*body, c.say(_STROKES, k=NUMBERS[answer]), c.conclusion(NUMBERS[answer])),
        evidence=tuple(evidence),
    )


def _rhythm(c: Canvas) -> Asked:
    rhythm = c.pick(tuple(Rhythm))
    base = replace(_pulsed(c), pulses=c.integer(4, 6))
    shortest, longest = _range(c, [replace(base, rhythm=r) for r in Rhythm])
    events, target = _scene(c, replace(base, rhythm=rhythm), c.integer(shortest, max(shortest, longest)))
    x, word = the(target.label), str(rhythm.value)
    goal = c.pick(
        (
            "judge the pace of {x}",
            "hear how the strokes of {x} follow each other",
            "find {x} and its rhythm",
            "compare the pauses in {x}",
        )
    ).format(x=x)
    evidence, body = _told(c, events, target, goal, c.pick(_CHANGE[rhythm]))
    return Asked(
        events=tuple(events),
        question=c.say(RHYTHM, x=x),
        choices=tuple(c.shuffled([str(r.value) for r in Rhythm])),
        answer=word,
        reasoning=told(*body, c.say(_PACE, r=word), c.conclusion(word)),
        evidence=tuple(evidence),
    )


KINDS = (
    Kind("pulses", _pulses, weight=1.2, in_sound=True, needs=(Source.PROCEDURAL,)),
    Kind("rhythm", _rhythm, weight=1.2, in_sound=True, needs=(Source.PROCEDURAL,)),
)
