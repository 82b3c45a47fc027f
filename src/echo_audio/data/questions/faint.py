"""A faint sound beside a loud one, erased by the clamp of the log-mel in the whole recording, there in its own crop.

The log-mel keeps 80 dB below the loudest bin of the clip. The loud sound has one clear pitch or a narrow band, so its
energy is in few bins; the faint one lies 68 to 76 dB under it in all, and its energy may be spread over many. The
question tells on which side it is, and it is always one second long, 0.2 s away: that is how a listener who cannot hear
it yet knows where to listen.
"""

from __future__ import annotations

from dataclasses import replace

from echo_audio.data.questions.base import GAP, Asked, Canvas, Kind, NoRoomError, told
from echo_audio.data.scene import Event, Sound, Source
from echo_audio.data.wording import bare, capital, tag, the

FAINT_LENGTH = 10  # tenths
LOUD_DB = -12.0
FAINT_BELOW_DB = (68.0, 76.0)  # 16 bits still hold it, 12 dB and more over their rounding noise
BACKGROUND_DB = -112.0

QUESTIONS = (
    "Which faint sound is heard right {side} the loud {b}?",
    "A very faint sound comes right {side} the loud {b}. Which one?",
    "Right {side} the loud {b} there is something very soft. What is it?",
    "What is faintly heard just {side} the loud {b}?",
    "Which soft sound lies just {side} the loud {b}?",
    "Listen right {side} the loud {b}: which faint sound is there?",
    "The loud {b} hides a faint sound just {side} it. Name it.",
)
_LOUD = (
    "The loud {b} is here{s}, and the faint sound must be right {side} it.",
    "I find the loud {b}{s}; right {side} it I have to listen closely.",
    "First I need the loud {b}{s}: what I look for lies just {side} it.",
    "{B} is loud{s}, so anything soft {side} it is easily missed.",
    "I go to the loud {b}{s}, and then to what is {side} it.",
    "The loud {b} comes first in my search{s}; the rest lies {side} it.",
)
_FAINT = (
    "Alone, that stretch{s} holds {a}, very soft.",
    "I listen to the second right {side} it{s}: it is {a}.",
    "In the quiet part{s}, played alone, I now hear {a}.",
    "Heard on its own{s}, it turns out to be {a}.",
    "There, alone{s}, I make out {a}.",
    "That quiet second{s} is {a}, far softer than the {b}.",
    "I play only the quiet part{s}; it is {a}.",
)


def _faint(c: Canvas) -> Asked:
    k = c.integer(2, 5)
    loud = c.sounds(1, _loud_options(c))[0]
    low, high = c.lengths(loud)
    length = c.integer(low, max(low, min(high, c.tenths - FAINT_LENGTH - GAP - 4)))
    extra = max(0, min(c.size(2, 7) - 2, (c.tenths - length - FAINT_LENGTH - GAP - 2) // 8))
    others = c.sounds(extra, without=(loud.label,))
    used = (loud.label, *(sound.label for sound in others))
    options = _second_long(c, used, k)
    target_sound = c.pick(options)
    after = c.chance(0.5)
    pair = [loud, target_sound] if after else [target_sound, loud]
    at = c.integer(0, extra)
    sounds = [*others[:at], *pair, *others[at:]]
    loud_at, faint_at = (at, at + 1) if after else (at + 1, at)
    levels = {i: round(LOUD_DB - 8.0 + c.uniform(-8.0, 4.0), 1) for i in range(len(sounds))}
    levels[loud_at] = round(LOUD_DB + c.uniform(-1.0, 1.0), 1)
    levels[faint_at] = round(levels[loud_at] - c.uniform(*FAINT_BELOW_DB), 1)
    events = c.line(sounds, {loud_at: length, faint_at: FAINT_LENGTH}, {at: GAP}, levels)
    return _asked(c, events, events[loud_at], events[faint_at], [s.label for s in options], "after" if after else "before")


def _loud_options(c: Canvas) -> list[tuple[Source, str]]:
    """Sounds that put their energy into few bins of the log-mel; a buzzer spreads it over all of them."""
    options = c.procedural(c.palette.tonal - {"buzzer"}, continuous=True)
    if not options:
        raise NoRoomError("the loud sound must have a clear pitch; add the procedural bank to the stock")
    return options


def _second_long(c: Canvas, used: tuple[str, ...], k: int) -> list[Sound]:
    """Sounds of labels that are not in the scene yet and can last one second."""
    options = [option for option in c.procedural() if option[1] not in used]
    out: list[Sound] = []
    for source, label in c.shuffled(options):
        sound = c.sound(source, label)
        if label in c.palette.pulsed:
            sound = replace(sound, pulses=3)
        low, high = c.lengths(sound)
        if low <= FAINT_LENGTH <= high:
            out.append(sound)
        if len(out) == k:
            return out
    raise NoRoomError("too few sounds can last one second; give a larger stock")


def _asked(c: Canvas, events: list[Event], loud: Event, faint: Event, labels: list[str], side: str) -> Asked:
    a, b = the(faint.label), loud.label.removeprefix("the ")
    steps = [
        c.say(_LOUD, b=b, B=capital(the(loud.label)), s=tag(loud), side=side),
        c.say(_FAINT, a=a, b=b, s=tag(faint), side=side),
    ]
    goal = c.pick(
        ("find the faint sound {side} the {b}", "hear what is hidden {side} the loud {b}", "listen {side} the loud {b}")
    ).format(side=side, b=b)
    return Asked(
        events=tuple(events),
        question=c.say(QUESTIONS, side=side, b=b),
        choices=tuple(bare(label) for label in c.shuffled(labels)),
        answer=bare(faint.label),
        reasoning=told(c.opening(goal), *steps, c.conclusion(a)),
        evidence=(loud, faint),
        background_db=BACKGROUND_DB,
    )


KINDS = (Kind("faint", _faint, weight=1.4, in_sound=True, needs=(Source.PROCEDURAL,)),)
