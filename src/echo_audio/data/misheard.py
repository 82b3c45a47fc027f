"""Training scenes whose first hearing differs from what is heard again: the second hearing is to be believed.

Where a model hears everything well the first time, it has no reason to listen to what is played to it again: the
reasoning would be right without. So in some training rows the sounds that the reasoning names only after their segment
sound otherwise in the first hearing: another sound at the same time, or the same sound at another pitch, level, timbre or
rhythm where the question is about those. Times and everything named beforehand stay. What is heard again is the row's
own scene, and its reasoning and answer are true of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from echo_audio.data.questions import KINDS
from echo_audio.data.render import Stock
from echo_audio.data.rows import KnownEvent, Row
from echo_audio.data.scene import Event, Rhythm, Scene, Sound, Split
from echo_audio.data.wording import the
from echo_audio.tags import find_tags

_TRIES = 12
_LEVELS_DB = (-18.0, 18.0)
_LOUDEST_DB = -14.0


def first_hearing(row: Row, scene: Scene, stock: Stock, rng: np.random.Generator) -> Scene | None:
    """The scene as it is to be heard at first; None where the row leaves nothing to be misheard.

    Not for faint sounds, which the first hearing does not have, nor for rows that doubt or are spoilt.
    """
    kind = KINDS[row.kind]
    marked = {"doubt", "corrupt"} & row.provenance.keys()
    if row.reasoning is None or kind.training_only or row.kind == "faint" or marked:
        return None
    asked = {event.start_s for event in (row.evidence if kind.in_sound else _named_later(row))}
    change = _other_quality if kind.in_sound else _other_label
    taken = {event.label for event in scene.events}
    events = [change(event, taken, stock, rng) if event.start_s in asked else event for event in scene.events]
    return None if events == list(scene.events) else replace(scene, events=tuple(events))


def _named_later(row: Row) -> Sequence[KnownEvent]:
    """The cited events whose name comes neither in the question nor in the reasoning before their segment."""
    assert row.reasoning is not None
    cited = zip(find_tags(row.reasoning), row.evidence, strict=True)
    return [event for tag, event in cited if the(event.label) not in (row.question + row.reasoning[: tag.begin]).lower()]


def _other_label(event: Event, taken: set[str], stock: Stock, rng: np.random.Generator) -> Event:
    """Another sound of the same bank in its place, of a label that the scene does not have."""
    bank = stock.bank(event.sound.source)
    options = [label for label in bank.labels_for(Split.TRAIN) if label not in taken]
    for label in rng.permutation(options)[:_TRIES].tolist():
        sound = bank.draw(rng, label, Split.TRAIN)
        if _lasts(sound, event, stock):
            return replace(event, sound=sound)
    return event


def _other_quality(event: Event, taken: set[str], stock: Stock, rng: np.random.Generator) -> Event:
    """The same sound drawn anew, at another level."""
    level_db = round(event.level_db + float(rng.uniform(*_LEVELS_DB)), 1)
    for _ in range(_TRIES):
        sound = stock.draw(rng, event.label, Split.TRAIN)
        if sound.pulses > 3:
            sound = replace(sound, rhythm=tuple(Rhythm)[int(rng.integers(len(Rhythm)))])
        if _lasts(sound, event, stock):
            return replace(event, sound=sound, level_db=min(level_db, _LOUDEST_DB))
    return event


def _lasts(sound: Sound, event: Event, stock: Stock) -> bool:
    """Whether the sound can be as long as the event."""
    low_s, high_s = stock.length_range_s(sound)
    return low_s - 1e-6 <= event.end_s - event.start_s <= high_s + 1e-6
