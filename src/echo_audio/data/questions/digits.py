"""Which number is spoken beside a sound or at a time."""

from __future__ import annotations

from echo_audio.data.questions.base import Asked, Canvas, Kind, told
from echo_audio.data.questions.order import spread
from echo_audio.data.scene import Source
from echo_audio.data.wording import bare, capital, seconds, tag, the

BESIDE = (
    "Which number is spoken right {side} {x}?",
    "What number do you hear directly {side} {x}?",
    "A number is said just {side} {x}. Which one?",
    "Right {side} {x}, which number does the voice say?",
    "Which number comes immediately {side} {x}?",
    "What does the speaker say right {side} {x}?",
)
AT = (
    "Which number is spoken at {t}?",
    "What number do you hear at {t}?",
    "At {t} a number is said. Which one?",
    "Which number does the voice say at the time {t}?",
    "What does the speaker say at {t}?",
    "Which spoken number covers the moment {t}?",
)
_SPOKEN = (
    "I hear the voice say {a}",
    "the word is {a}",
    "it says {a}",
    "somebody says {a}",
    "I understand {a}",
    "that is {a}",
)
_VOICE = (
    "Right {side} it a voice speaks{s}: {h}.",
    "The voice {side} it is here{s}, and {h}.",
    "I listen to the word {side} it{s}; {h}.",
    "Just {side} it lies a spoken word{s}. {H}.",
    "Then to the number {side} it{s}: {h}.",
    "I play the speech {side} it{s}, and {h}.",
)
_THERE = (
    "A voice speaks there{s}: {h}.",
    "The word around that time is here{s}, and {h}.",
    "I listen to the word at that point{s}; {h}.",
    "I go there and find speech{s}. {H}.",
    "That moment lies in a spoken word{s}; {h}.",
    "I play the speech there{s}, and {h}.",
)


def _digit(c: Canvas) -> Asked:
    """Every number offered is spoken and has a neighbour of its own that could be asked about."""
    k = max(2, min(c.integer(2, 4), c.room // 2))
    n = max(2 * k, c.size(2 * k))
    after = c.chance(0.5)
    places = spread(c, 1, n - 1, k) if after else spread(c, 0, n - 2, k)
    words = c.sounds(k, c.palette.of(Source.DIGIT))
    beside = [option for option in c.palette.of(*c.palette.labels) if option[0] is not Source.DIGIT]
    other_numbers = [o for o in c.palette.of(Source.DIGIT) if o[1] not in [w.label for w in words]]
    rest = c.sounds(n - k, beside if len(beside) >= n - k else beside + other_numbers)
    sounds = [words[places.index(i)] if i in places else rest.pop() for i in range(n)]
    events = c.line(sounds)
    place = c.pick(places)
    target, anchor = events[place], events[place - 1 if after else place + 1]
    a, x, side = bare(target.label), the(anchor.label), "after" if after else "before"
    spoken = c.say(_SPOKEN, a=a)
    if c.chance(0.3):
        time = seconds(c.integer(round(target.start_s * 10) + 1, round(target.end_s * 10) - 1) / 10)
        question, evidence = c.say(AT, t=time), (target,)
        goal = c.pick((f"hear the word at {time}", f"find the number spoken at {time}", f"go to {time} and listen"))
        body = [c.opening(goal, 1.0), c.say(_THERE, s=tag(target), h=spoken, H=capital(spoken))]
    else:
        question, evidence = c.say(BESIDE, x=x, side=side), (anchor, target)
        goal = c.pick((f"hear the number {side} {x}", f"find {x} and the number {side} it", f"listen for a voice {side} {x}"))
        body = [
            c.opening(goal),
            c.look(anchor, x),
            c.say(_VOICE, s=tag(target), side=side, h=spoken, H=capital(spoken)),
        ]
    return Asked(
        events=tuple(events),
        question=question,
        choices=tuple(bare(events[p].label) for p in c.shuffled(places)),
        answer=a,
        reasoning=told(*body, c.conclusion(a)),
        evidence=evidence,
    )


KINDS = (Kind("digit", _digit, in_sound=True, needs=(Source.DIGIT,)),)
