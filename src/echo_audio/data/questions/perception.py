"""Training-only kinds without choices, which teach what is heard and when: name every sound, find one by name."""

from __future__ import annotations

from echo_audio.data.questions.base import Asked, Canvas, Kind, told
from echo_audio.data.questions.order import overlaps
from echo_audio.data.scene import Event
from echo_audio.data.wording import bare, capital, event_names, listed, seconds, tag

LIST = (
    "List every sound and when it is heard.",
    "Which sounds are in the recording, and when?",
    "Name all the sounds in order.",
    "What do you hear, from start to end?",
    "Tell me every sound in the recording.",
    "Write down all the sounds that are heard.",
    "Go through the recording and name each sound.",
)
LOCATE = (
    "When is {x} heard?",
    "At what time is {x} heard?",
    "Where in the recording is {x}?",
    "Find {x}: when is it heard?",
    "From when to when do you hear {x}?",
    "When does {x} start and end?",
    "Give the time of {x}.",
)
_ITEM = (
    "Then {n}{s}.",
    "Next is {n}{s}.",
    "After that {n}{s}.",
    "Now {n}{s}.",
    "{N} follows{s}.",
    "I hear {n}{s}.",
    "Then comes {n}{s}.",
    "{N}{s}.",
)
_FIRST_ITEM = (
    "The first sound is {n}{s}.",
    "It starts with {n}{s}.",
    "First comes {n}{s}.",
    "I begin with {n}{s}.",
    "{N} opens it{s}.",
    "At first I hear {n}{s}.",
)


def _crowd(c: Canvas) -> list[Event]:
    """A scene with anything in it: repeats, overlaps, all lengths and strokes."""
    n = c.size(1 if c.chance(0.1) else 3)
    sounds = c.sounds(n)
    for i in range(1, n):
        earlier = sounds[c.integer(0, i - 1)]
        if c.chance(0.15) and earlier.label not in c.palette.pulsed:
            sounds[i] = earlier
    apart = frozenset(j for i in range(n - 1) for j in (i, i + 1) if sounds[i].label == sounds[i + 1].label)
    return c.line(sounds, fixed=overlaps(c, n, keep=apart))


def list_of(c: Canvas, events: list[Event]) -> Asked:
    """Name every event of a scene, with its time."""
    plain = c.chance(0.5)
    names = event_names(events)
    body: list[str] = []
    for i, event in enumerate(events):
        name = bare(event.label) if plain else names[i]
        if i == 0 and not plain:
            body.append(c.say(_FIRST_ITEM, n=name, N=capital(name), s=tag(event)))
        elif plain:
            body.append(f"{capital(name)}{tag(event)}.")
        else:
            body.append(c.say(_ITEM, n=name, N=capital(name), s=tag(event)))
    goal = c.pick(("name every sound", "go from start to end", "list all the sounds"))
    return Asked(
        events=tuple(events),
        question=c.pick(LIST),
        choices=(),
        answer=listed([bare(event.label) for event in events]),
        reasoning=told(c.opening(goal, 0.4), *body),
        evidence=tuple(events),
    )


def locate_one(c: Canvas, events: list[Event]) -> Asked:
    """Find one event of a scene by its name."""
    names = event_names(events)
    i = c.integer(0, len(events) - 1)
    target, name = events[i], names[i]
    span = f"{target.start_s:.1f} to {seconds(target.end_s)}"
    goal = c.pick(("find {x}", "search for {x}", "see when {x} is heard")).format(x=name)
    return Asked(
        events=tuple(events),
        question=c.say(LOCATE, x=name),
        choices=(),
        answer=span,
        reasoning=told(c.opening(goal, 0.6), c.look(target, name)),
        evidence=(target,),
    )


KINDS = (
    Kind("list", lambda c: list_of(c, _crowd(c)), weight=3.0, training_only=True),
    Kind("locate", lambda c: locate_one(c, _crowd(c)), weight=2.0, training_only=True),
)
