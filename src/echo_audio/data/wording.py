"""Words: names of sounds and events, numbers, lengths, places, and the sentences that every kind of question shares.

Texts are templates with {fields}; a kind picks one at random and fills it, so that one thing is said in many ways.
"""

from __future__ import annotations

from collections.abc import Sequence

from echo_audio.data.scene import Event, Scene

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
TIMBRES = ("plain", "dull", "hollow", "rough")
"""Names of the four timbres of a procedural sound, by index."""

SPOKEN = "the number "
"""How the label of a spoken digit begins."""

LOUDNESS_STEP_DB = 4.0
LOUDNESS_FLOOR_DB = -54.0
N_LOUDNESS_LEVELS = 10
N_PITCHES = 13


def the(label: str) -> str:
    """The label with its article."""
    return label if label.startswith("the ") else f"the {label}"


def bare(label: str) -> str:
    """The label as a choice: a spoken digit by its number word, anything else as it is."""
    return label.removeprefix(SPOKEN)


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def nth(label: str, position: int) -> str:
    """Which of several, counted from 0: "the second bell"."""
    return f"the {ORDINALS[position]} {label.removeprefix('the ')}"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """The parts as one phrase: "a, b and c"."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def seconds(value_s: float) -> str:
    """A length or time: "1.2 s"."""
    return f"{value_s:.1f} s"


def tag(event: Event) -> str:
    """A space and the segment of the event, ready to follow a word."""
    return f" <seg>{event.start_s:.1f}, {event.end_s:.1f}</seg>"


def length_word(event: Event) -> str:
    """Length in one word."""
    length_s = event.end_s - event.start_s
    return "short" if length_s < 0.65 else "long" if length_s > 1.45 else "medium long"


def place(event: Event, duration_s: float) -> str:
    """Where in the recording its middle lies, in words."""
    share = (event.start_s + event.end_s) / (2 * duration_s)
    return "early on" if share < 0.33 else "in the middle" if share < 0.67 else "near the end"


def loudness_level(level_db: float) -> int:
    """Level in steps of 4 dB, 1 (softest) to 10 (loudest)."""
    step = int((level_db - LOUDNESS_FLOOR_DB) // LOUDNESS_STEP_DB) + 1
    return min(max(step, 1), N_LOUDNESS_LEVELS)


def loudness_text(level_db: float) -> str:
    """The level as it is named in a reasoning."""
    return f"loudness {loudness_level(level_db)} of {N_LOUDNESS_LEVELS}"


def pitch_step(semitones: int) -> int:
    """The pitch in semitone steps, 1 (lowest) to 13 (highest)."""
    return semitones + 7


def pitch_text(semitones: int) -> str:
    """The pitch as it is named in a reasoning."""
    return f"pitch {pitch_step(semitones)} of {N_PITCHES}"


def event_names(events: Sequence[Event]) -> dict[int, str]:
    """How each event (by index) is called: "the bell", or "the second bell" where its label occurs more than once."""
    total: dict[str, int] = {}
    for event in events:
        total[event.label] = total.get(event.label, 0) + 1
    seen: dict[str, int] = {}
    names: dict[int, str] = {}
    for index in sorted(range(len(events)), key=lambda i: events[i].start_s):
        label = events[index].label
        names[index] = the(label) if total[label] == 1 else nth(label, seen.get(label, 0))
        seen[label] = seen.get(label, 0) + 1
    return names


def named_scene(scene: Scene) -> list[tuple[Event, str]]:
    """The events of a scene with their names."""
    names = event_names(scene.events)
    return [(event, names[i]) for i, event in enumerate(scene.events)]


OPENINGS = (
    "To {goal} I go through the recording.",
    "I want to {goal}.",
    "The task is to {goal}.",
    "I have to {goal}.",
    "My plan is to {goal}.",
    "To answer this I need to {goal}.",
    "Let me {goal}.",
    "I am asked to {goal}.",
    "The question is clear: I should {goal}.",
    "Here I must {goal}, so I listen closely.",
)

LOOKS = (
    "I look for {n}{s}, and {h}.",
    "I listen to {n}{s}; {h}.",
    "I go back to {n}{s}: {h}.",
    "I find {n}{s}, and {h}.",
    "I play {n} again{s}. {H}.",
    "Here is {n}{s}: {h}.",
    "Now to {n}{s}; {h}.",
    "I turn to {n}{s}, where {h}.",
    "Let me hear {n}{s}. {H}.",
)

HEARD = (
    "it is {the}, clear and {length}",
    "{the} sounds {length}",
    "it is {length} and lies {place}",
    "that is {the}, {length}",
    "{the} is heard {place}",
    "this is indeed {the}",
    "the sound is {length}, {the} as I thought",
)

VERDICTS = ("{h}, against {r}: {w}", "{h}, beside {r}: {w}")
"""What is heard, set against what was heard before, and what comes of it. The judgement stands right behind both values,
always at the same distance: with five wordings of it the small model had not learned to compare (docs/log.md)."""

CONCLUSIONS = (
    "So the answer is {a}.",
    "That makes it {a}.",
    "I choose {a}.",
    "The answer must be {a}.",
    "This points to {a}.",
    "Therefore I answer {a}.",
    "It has to be {a}.",
    "Hence {a}.",
    "My answer is {a}.",
    "So I settle on {a}.",
)
