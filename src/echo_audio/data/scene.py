"""What a synthetic recording is: events with exactly known times on a background. Values only; no drawing, no audio.

`sounds.py` makes the procedural sounds, `clips.py` reads folders of recorded ones, `render.py` mixes a scene into a
recording, `scenes.py` draws scenes, `questions/` asks about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from echo_audio.audio import Samples, Segment


class Source(StrEnum):
    """Where the sound of an event comes from."""

    PROCEDURAL = "procedural"
    CLIP = "clip"
    DIGIT = "digit"


class Rhythm(StrEnum):
    """How the pulses of a pulsed sound follow each other."""

    STEADY = "steady"
    SPEEDING = "speeding up"
    SLOWING = "slowing down"


@dataclass(frozen=True, slots=True)
class Sound:
    """One concrete sound: everything that makes two events sound the same, except level and length.

    Args:
        label: what a listener calls it, e.g. "bell", "dog barking", "the number seven".
        variant: which rendering: the synthesis seed of a procedural sound, the index of a recorded clip.
        semitones: pitch shift, -6 to 6.
        timbre: which of the clearly different tone colours of a procedural kind, 0 to 3.
        pulses: number of strokes of a pulsed kind (knocks, beeps), 0 for a continuous sound.
        rhythm: spacing of the pulses.
    """

    label: str
    source: Source = Source.PROCEDURAL
    variant: int = 0
    semitones: int = 0
    timbre: int = 0
    pulses: int = 0
    rhythm: Rhythm = Rhythm.STEADY


@dataclass(frozen=True, slots=True)
class Event:
    """A sound in a scene. Times lie on a 0.1 s grid; the sound is audible from start to end, and only there.

    Args:
        level_db: root-mean-square level of the event over its span, in dB relative to full scale (negative).
    """

    sound: Sound
    start_s: float
    end_s: float
    level_db: float

    @property
    def label(self) -> str:
        """What a listener calls the sound."""
        return self.sound.label

    @property
    def segment(self) -> Segment:
        """Where it is heard."""
        return Segment(self.start_s, self.end_s)


@dataclass(frozen=True, slots=True)
class Scene:
    """A recording by description: the same scene always renders to the same samples.

    Args:
        duration_s: length, on a 0.1 s grid.
        events: by start time.
        background: kind of noise under the events ("white", "pink", "brown", "hum", ...).
        background_db: root-mean-square level of the background, in dB relative to full scale.
        seed: of the background's samples.
    """

    duration_s: float
    events: tuple[Event, ...]
    background: str
    background_db: float
    seed: int


class Split(StrEnum):
    """Training never sees a variant of the test split."""

    TRAIN = "train"
    TEST = "test"


class Bank(Protocol):
    """A stock of sounds of one source, with separate variants for training and testing."""

    labels: tuple[str, ...]

    def draw(self, rng: np.random.Generator, label: str, split: Split) -> Sound:
        """A random sound of that label from the variants of that split."""
        ...

    def length_range_s(self, sound: Sound) -> tuple[float, float]:
        """Shortest and longest natural length of that sound, on the 0.1 s grid."""
        ...

    def samples(self, sound: Sound, n_samples: int) -> Samples:
        """The sound, exactly n_samples long at 16 kHz, root-mean-square 1.0, audible from first to last 20 ms."""
        ...
