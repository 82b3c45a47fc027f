"""What is heard at a time, and what sounds together."""

from __future__ import annotations

from echo_audio.data.questions.base import Asked, Canvas, Kind, told
from echo_audio.data.questions.order import overlaps
from echo_audio.data.scene import Sound
from echo_audio.data.wording import bare, capital, seconds, tag, the

AT_TIME = (
    "What is heard at {t}?",
    "Which sound is playing at {t}?",
    "At {t}, which sound do you hear?",
    "Which of these sounds covers the moment {t}?",
    "What sounds {t} after the start of the recording?",
    "If you stop the recording at {t}, in the middle of which sound are you?",
    "Which sound is there at the time {t}?",
)
TOGETHER = (
    "What sounds together with {x}?",
    "Which sound overlaps with {x}?",
    "Which sound is heard at the same time as {x}?",
    "{X} is mixed with another sound. Which one?",
    "What do you hear along with {x}?",
    "While {x} is heard, which other sound is there too?",
    "Which sound shares its time with {x}?",
)


_INSIDE = (
    "{t} falls inside it",
    "it covers {t}",
    "the moment {t} lies within",
    "that includes {t}",
    "it starts before {t} and ends after",
)
_COVERS = (
    "The sound around it{s} is {n}, and {inside}.",
    "I go to that time{s} and hear {n}; {inside}.",
    "There{s} I hear {n}: {h}, and {inside}.",
    "At that point{s} there is {n}. {H}, and {inside}.",
    "What sounds then{s} is {n}, and {h}; {inside}.",
)
_BESIDE = (
    "Beside it {b}{s} is {rel}.",
    "I also check {b}{s}, which is {rel}.",
    "{B} is no match{s}: it is {rel}.",
    "The neighbour {b}{s} is {rel}.",
)
_BESIDE_FIRST = (
    "I start with {b}{s}, which is {rel}.",
    "I first thought of {b}{s}: that one is {rel}.",
    "Near that time is {b}{s}, but it is {rel}.",
)
_AT_GOALS = (
    "find the sound at {t}",
    "hear what is there at {t}",
    "look at the time {t}",
    "go to {t} and name the sound",
)
_MIXED = (
    "Mixed into it{s} is {n}; {h}.",
    "At the same time{s} there is {n}, and {h}.",
    "Under and over it{s} I hear {n}. {H}.",
    "What shares its time{s} is {n}: {h}.",
    "What runs along with it{s} is {n}, and it {which} {x}.",
)
_TOGETHER_GOALS = (
    "find what overlaps with {x}",
    "hear which sound is mixed with {x}",
    "name the sound that goes along with {x}",
)


def _at_time(c: Canvas) -> Asked:
    n = c.size(3)
    k = c.integer(2, min(4, n))
    sounds = c.sounds(n)
    places = c.sample(range(n), k)
    events = c.line(sounds, fixed=overlaps(c, n, keep=frozenset(places)))
    place = c.pick(places)
    target = events[place]
    a = the(target.label)
    time = seconds(c.integer(round(target.start_s * 10) + 1, round(target.end_s * 10) - 1) / 10)
    inside = c.say(
        _INSIDE,
        t=time,
    )
    body = [
        c.look(
            target,
            a,
            templates=_COVERS,
            inside=inside,
        )
    ]
    evidence = [target]
    near = [i for i in (place - 1, place + 1) if 0 <= i < n]
    if c.chance(0.6):
        i = c.pick(near)
        other, b = events[i], the(events[i].label)
        rel = "already over by then" if i < place else "only to come"
        body.append(
            c.say(
                _BESIDE,
                b=b,
                B=capital(b),
                s=tag(other),
                rel=rel,
            )
        )
        evidence.append(other)
        if c.chance(0.3):
            body.reverse()
            evidence.reverse()
            body[0] = c.say(
                _BESIDE_FIRST,
                b=b,
                s=tag(other),
                rel=rel,
            )
    goal = c.pick(_AT_GOALS).format(t=time)
    return Asked(
        events=tuple(events),
        question=c.say(AT_TIME, t=time),
        choices=tuple(bare(events[p].label) for p in c.shuffled(places)),
        answer=bare(target.label),
        reasoning=told(c.opening(goal), *body, c.conclusion(a)),
        evidence=tuple(evidence),
    )


def _together(c: Canvas) -> Asked:
    """Every choice overlaps with a sound of its own; one of those is asked about."""
    k = max(2, min(c.integer(2, 4), (c.tenths - 4) // 18))
    sounds = c.sounds(2 * k)
    cap = max(7, c.tenths // (2 * k) - 4)
    lengths = {i: _length(c, sound, cap) for i, sound in enumerate(sounds)}
    fixed = {2 * i: -c.shared(lengths[2 * i], lengths[2 * i + 1]) for i in range(k)}
    events = c.line(sounds, lengths, fixed)
    sides = [2 * i + c.integer(0, 1) for i in range(k)]
    place = c.pick(sides)
    target, anchor = events[place], events[place ^ 1]
    x, a = the(anchor.label), the(target.label)
    which = "begins before" if target.start_s < anchor.start_s else "begins during"
    body = [c.look(anchor, x), c.look(target, a, templates=_MIXED, which=which, x=x)]
    goal = c.pick(_TOGETHER_GOALS).format(x=x)
    return Asked(
        events=tuple(events),
        question=c.say(TOGETHER, x=x, X=capital(x)),
        choices=tuple(bare(events[p].label) for p in c.shuffled(sides)),
        answer=bare(target.label),
        reasoning=told(c.opening(goal), *body, c.conclusion(a)),
        evidence=(anchor, target),
    )


def _length(c: Canvas, sound: Sound, cap: int) -> int:
    low, high = c.lengths(sound)
    return c.integer(low, max(low, min(high, cap)))


KINDS = (Kind("at_time", _at_time), Kind("together", _together))
