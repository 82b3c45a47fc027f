"""What a rule that does not listen may see of a row and of each of its choices.

Of the row: a level, a length, a time, a pitch, the number of events, a label, the words of the question. Of a choice: its
text, its place among the choices, its rank in the scene by start, length or level, and what lies beside it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Hashable, Iterable

from echo_audio.data.questions import KINDS
from echo_audio.data.rows import Row
from echo_audio.data.scene import Event, Scene
from echo_audio.data.sounds import pulse_times_s
from echo_audio.data.wording import bare, the

Marks = dict[str, list[Hashable]]
"""By name: one mark for each choice."""


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


def direction(row: Row) -> Hashable:
    """The word of the question that says which way to choose."""
    found = re.search(r"louder|softer|longer|shorter|higher|lower|before|after|as loud|same|tone", row.question)
    return found[0] if found else None


def length_of(event: Event) -> float:
    """Length in seconds, on the grid."""
    return round(event.end_s - event.start_s, 1)


def event_of(row: Row, scene: Scene, choice: int) -> Event | None:
    """The only event that a choice names (of a pause, the one before it), or None."""
    name = row.choices[choice].removeprefix("between the ").split(" and the ")[0]
    found = [event for event in scene.events if bare(event.label) == name]
    return found[0] if len(found) == 1 else None


def asked_about(row: Row, scene: Scene) -> list[Event]:
    """Events that the question names, by start; those that are answers are left out: to know them is to have found them."""
    cited = {(e.label, e.start_s) for e in row.evidence if bare(e.label) not in row.choices}
    if "count" in KINDS[row.kind].asked:
        named = [event for event in scene.events if (event.label, event.start_s) in cited]
    else:  # a reasoning stops citing where it finds the answer, so what it cites of several like sounds would tell it
        labels = {label for label, _ in cited}
        pauses = [choice for choice in row.choices if choice.startswith("between ")]
        named = [e for e in scene.events if e.label in labels or any(the(e.label) in choice for choice in pauses)]
    return sorted(named, key=lambda e: e.start_s)


# ---------------------------------------------------------------------------------------------- of the row


def numbers(row: Row, scene: Scene) -> dict[str, float]:
    """Single numbers of the scene, of the sounds that the question names, and of the first and last choice in time.

    The second of several sounds that are counted is left out: that there is one says how many there are. The spacing of
    strokes is left out as well: with the length it is their number.
    """
    events = scene.events
    levels = [event.level_db for event in events]
    out = {
        "duration": scene.duration_s,
        "events": float(len(events)),
        "labels": float(len({event.label for event in events})),
        "total length": sum(map(length_of, events)),
        "filled share": sum(map(length_of, events)) / scene.duration_s,
        "overlaps": float(sum(a.end_s > b.start_s + 0.01 for a, b in itertools.pairwise(events))),
        "background level": scene.background_db,
        "first start": events[0].start_s,
        "first length": length_of(events[0]),
        "first level": events[0].level_db,
        "last length": length_of(events[-1]),
        "last level": events[-1].level_db,
        "silence at the end": scene.duration_s - max(event.end_s for event in events),
        "loudest level": max(levels),
        "softest level": min(levels),
    }
    chosen = sorted((e for i in range(len(row.choices)) if (e := event_of(row, scene, i))), key=lambda e: e.start_s)
    for rank, event in {"earliest": chosen[:1], "latest": chosen[-1:]}.items():
        for one in event:
            out |= {f"{rank} choice {name}": value for name, value in _of_event(one, scene).items()}
    asked = asked_about(row, scene)
    second = [] if "count" in KINDS[row.kind].asked else asked[1:2]
    for rank, event in {"first": asked[:1], "second": second, "last": asked[-1:]}.items():
        for one in event:
            out |= {f"{rank} asked {name}": value for name, value in _of_event(one, scene).items()}
    return out


def _of_event(event: Event, scene: Scene) -> dict[str, float]:
    sound = event.sound
    out = {
        "start": event.start_s,
        "length": length_of(event),
        "level": event.level_db,
        "pitch": float(sound.semitones),
        "timbre": float(sound.timbre),
        "place": float(scene.events.index(event)),
        "pause": min((e.start_s - event.end_s for e in scene.events if e.start_s > event.start_s), default=0.0),
    }
    if sound.pulses > 1:
        begin, end = pulse_times_s(sound, length_of(event))[0]
        out["stroke"] = end - begin
    return out


def texts(row: Row, scene: Scene) -> dict[str, Hashable]:
    """What a row may be told by in words: labels, background, the wording of the question."""
    asked = asked_about(row, scene)
    return {
        "nothing": None,
        "background": scene.background,
        "first label": None if bare(scene.events[0].label) in row.choices else scene.events[0].label,
        "events and duration": (len(scene.events), int(scene.duration_s / 3)),
        "asked label": asked[0].label if asked else None,
        "asked label and timbre": (asked[0].label, asked[0].sound.timbre) if asked else None,
        "sources": tuple(sorted({event.sound.source.value for event in scene.events})),
    }


def words(row: Row) -> dict[str, Hashable]:
    """What the bare text shows of a row."""
    return {
        "nothing": None,
        "question": masked(row.question, row),
        "direction": direction(row),
        "first word": row.question.split()[0],
        "choices": tuple(sorted(row.choices)),
        "choices in order": row.choices,
    }


# ---------------------------------------------------------------------------------------------- of the choices


def _ranks(values: Iterable[float]) -> list[Hashable]:
    found = list(values)
    return [sum(other < value for other in found) for value in found]


def text_marks(row: Row) -> Marks:
    """What the bare text shows of each choice."""
    question = row.question.lower()
    at = [question.find(choice.lower()) for choice in row.choices]
    ordinals = [re.search(r"first|second|third|fourth|fifth", choice) for choice in row.choices]
    return {
        "text": list(row.choices),
        "place": list(range(len(row.choices))),
        "text length": _ranks(map(len, row.choices)),
        "alphabet": [sum(other < choice for other in row.choices) for choice in row.choices],
        "mentioned": [sum(0 <= other < own for other in at) if own >= 0 else None for own in at],
        "ordinal": [found[0] if found else choice for found, choice in zip(ordinals, row.choices, strict=True)],
    }


def sound_marks(row: Row, scene: Scene) -> Marks:
    """What one look at the scene shows of each choice that names one event; without those that the kind asks about."""
    found = [event_of(row, scene, i) for i in range(len(row.choices))]
    own = [event for event in found if event is not None]
    if len(own) < len(found):
        return {}
    events = list(scene.events)
    places = [events.index(event) for event in own]

    def beside(step: int, key: Callable[[Event], float]) -> list[Hashable]:
        return _ranks(key(events[p + step]) if 0 <= p + step < len(events) else -99.0 for p in places)

    middles = [(event.start_s + event.end_s) / 2 / scene.duration_s for event in own]
    marks: dict[str, Marks] = {
        "start": {
            "start rank": _ranks(event.start_s for event in own),
            "place in scene": list(places),
            "place from the end": [len(events) - place for place in places],
            "sixth of the recording": [int(6 * middle) for middle in middles],
            **{
                f"nearest {share:g}": [abs(m - share) == min(abs(other - share) for other in middles) for m in middles]
                for share in (0.2, 0.35, 0.5, 0.65, 0.8)
            },
        },
        "length": {"length rank": _ranks(map(length_of, own)), "length": [length_of(event) for event in own]},
        "level": {
            "level rank": _ranks(event.level_db for event in own),
            "level": [int(event.level_db // 3) for event in own],
            "loudest": [event.level_db == max(e.level_db for e in events) for event in own],
        },
        "pause": {
            "pause before": _ranks(e.start_s - (events[p - 1].end_s if p else -99.0) for e, p in zip(own, places, strict=True)),
            "pause after": _ranks(
                (events[p + 1].start_s if p + 1 < len(events) else 99.0) - e.end_s for e, p in zip(own, places, strict=True)
            ),
        },
        "": {
            "pitch rank": _ranks(event.sound.semitones for event in own),
            "timbre": [event.sound.timbre for event in own],
            "source": [event.sound.source.value for event in own],
            "level before": beside(-1, lambda e: e.level_db),
            "level after": beside(1, lambda e: e.level_db),
            "length before": beside(-1, length_of),
            "length after": beside(1, length_of),
        },
    }
    asked = KINDS[row.kind].asked
    # whoever knows that nothing lies before an event knows that it is the first
    hidden = asked | {"pause"} if "start" in asked else asked
    out = {name: mark for group, some in marks.items() if group not in hidden for name, mark in some.items()}
    if "start" in asked:
        out = {name: mark for name, mark in out.items() if not name.endswith(("before", "after"))}
    return out
