"""Procedural sounds: sixteen everyday kinds, each fully determined by its `Sound`.

Continuous kinds fill the span; pulsed kinds make one stroke that the
bank repeats with clear gaps. Every kind sounds from the first to the last 20 ms of its span, because the written times
of a scene must be what is heard. The four timbres are 0 plain, 1 dull, 2 hollow, 3 rough.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray

from echo_audio.audio import SAMPLE_RATE, Samples
from echo_audio.data.scene import Rhythm, Sound, Source, Split
from echo_audio.data.synthesis import KINDS, Kind, Voice
from echo_audio.errors import DataError

MAX_SEMITONES = 6
N_TIMBRES = 4
MAX_PULSES = 6
VARIANTS = {Split.TRAIN: range(32), Split.TEST: range(100, 132)}
"""Which synthesis seeds each split may use."""

MIN_SPACING_S = 0.18
MAX_SPACING_S = 0.45
_STROKE_SHARE = 0.55  # of the shortest spacing: the rest is an audible gap
_STROKE_S = _STROKE_SHARE * MIN_SPACING_S
"""One of several strokes. It fits the closest strokes there are and is the same for all, so that hearing one stroke
tells neither how many there are nor how they follow each other."""
_LAST_STROKE_S = 0.2  # room for the last of several strokes, in the longest length
_RHYTHM_RATIO = 3.0  # longest over shortest spacing when speeding up or slowing down
_CREST = 5.0  # peaks above this many times the root mean square are rounded off

_INDEX = {label: i for i, label in enumerate(KINDS)}

LABELS: tuple[str, ...] = tuple(KINDS)
PULSED: frozenset[str] = frozenset(label for label, kind in KINDS.items() if kind.pulsed)
"""Kinds made of 1 to 6 distinct strokes."""
TONAL: frozenset[str] = frozenset(label for label, kind in KINDS.items() if kind.tonal)
"""Kinds of one clear pitch, which no variant changes."""


def _spacings(pulses: int, rhythm: Rhythm) -> NDArray[np.float64]:
    """Shares of the time from first to last onset, one per gap; they sum to 1."""
    exponent = np.linspace(1.0, 0.0, pulses - 1) if pulses > 2 else np.zeros(pulses - 1)
    relative = np.ones(pulses - 1) if rhythm is Rhythm.STEADY else _RHYTHM_RATIO**exponent
    relative = relative[::-1] if rhythm is Rhythm.SLOWING else relative
    return relative / relative.sum()


def pulse_times_s(sound: Sound, length_s: float) -> tuple[tuple[float, float], ...]:
    """Start and end of every stroke of a pulsed sound of that length, in seconds from its start."""
    if sound.pulses == 1:
        return ((0.0, length_s),)
    shares = _spacings(sound.pulses, sound.rhythm)
    onsets = np.concatenate([[0.0], np.cumsum(shares)]) * (length_s - _STROKE_S)
    return tuple((float(onset), float(onset) + _STROKE_S) for onset in onsets)


def unit_level(samples: NDArray[np.float32]) -> Samples:
    """The samples at root mean square 1.0, peaks above five times that rounded off, with 2 ms fades, read-only."""
    out = samples.astype(np.float32)
    ramp_n = min(32, out.size // 4)
    ramp = np.linspace(0.0, 1.0, ramp_n + 2, dtype=np.float32)[1:-1]
    out[:ramp_n] *= ramp
    out[out.size - ramp_n :] *= ramp[::-1]
    out /= max(math.sqrt(float(np.dot(out, out)) / out.size), 1e-12)
    if float(np.abs(out).max()) > _CREST:
        out = np.tanh(out / np.float32(_CREST)) * np.float32(_CREST)
        out /= math.sqrt(float(np.dot(out, out)) / out.size)
    out.setflags(write=False)
    return out


class SampleCache:
    """The latest rendered sounds, bounded by number and bytes; safe to share between threads.

    Sent to another process it arrives empty.
    """

    def __init__(self, max_entries: int = 4_096, max_bytes: int = 512 * 2**20) -> None:
        self._held: OrderedDict[Hashable, Samples] = OrderedDict()
        self._lock = threading.Lock()
        self._max_entries, self._max_bytes, self._bytes = max_entries, max_bytes, 0

    def __reduce__(self) -> tuple[type[SampleCache], tuple[int, int]]:
        """For pickle."""
        return SampleCache, (self._max_entries, self._max_bytes)

    def get(self, key: Hashable, make: Callable[[], Samples]) -> Samples:
        """The samples held under `key`, made now if there are none."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
                return found
        made = make()
        with self._lock:
            if key not in self._held:
                self._held[key] = made
                self._bytes += made.nbytes
            while len(self._held) > self._max_entries or self._bytes > self._max_bytes:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
        return made


class ProceduralBank:
    """The sixteen procedural kinds as a `Bank`."""

    labels: tuple[str, ...] = LABELS

    def __init__(self, cache: SampleCache | None = None) -> None:
        self._cache = cache or SampleCache()

    def labels_for(self, split: Split) -> tuple[str, ...]:
        """Every kind has variants in both splits."""
        return self.labels if split in VARIANTS else ()

    def draw(self, rng: np.random.Generator, label: str, split: Split) -> Sound:
        """A random sound of that kind: variant of the split, pitch, timbre, and for a pulsed kind 1 to 6 steady strokes."""
        variants = VARIANTS[split]
        return Sound(
            label=label,
            source=Source.PROCEDURAL,
            variant=int(rng.integers(variants.start, variants.stop)),
            semitones=int(rng.integers(-MAX_SEMITONES, MAX_SEMITONES + 1)),
            timbre=int(rng.integers(N_TIMBRES)),
            pulses=int(rng.integers(1, MAX_PULSES + 1)) if _kind(label).pulsed else 0,
        )

    def length_range_s(self, sound: Sound) -> tuple[float, float]:
        """Shortest and longest length, on the 0.1 s grid; for a pulsed kind it follows from strokes and rhythm."""
        kind = _checked(sound)
        if not kind.pulsed:
            return kind.shortest_s, kind.longest_s
        if sound.pulses == 1:
            return 0.2, 0.4
        smallest = float(_spacings(sound.pulses, sound.rhythm).min())
        shortest_s = MIN_SPACING_S * (1.0 / smallest + _STROKE_SHARE)
        longest_s = min(2.5, _LAST_STROKE_S + MAX_SPACING_S * (sound.pulses - 1) + 0.15)
        return math.ceil(shortest_s * 10 - 1e-9) / 10, math.floor(longest_s * 10 + 1e-9) / 10

    def samples(self, sound: Sound, n_samples: int) -> Samples:
        """The sound, exactly n_samples long at 16 kHz, root mean square 1.0, read-only.

        Raises:
            DataError: a label, pitch, timbre or stroke count that no kind has, or a span too short for the strokes.
        """
        shortest_s = self.length_range_s(sound)[0]
        if n_samples < round(shortest_s * SAMPLE_RATE):
            raise DataError(
                f"{sound.label} ({sound.pulses} strokes, {sound.rhythm}) needs {shortest_s:g} s, not "
                f"{n_samples / SAMPLE_RATE:g} s; choose the length from length_range_s"
            )
        return self._cache.get((sound, n_samples), lambda: _render(sound, n_samples))


def _kind(label: str) -> Kind:
    if label not in KINDS:
        raise DataError(f"there is no procedural sound '{label}'; choose one of {', '.join(LABELS)}")
    return KINDS[label]


def _checked(sound: Sound) -> Kind:
    kind = _kind(sound.label)
    if abs(sound.semitones) > MAX_SEMITONES or not 0 <= sound.timbre < N_TIMBRES or sound.variant < 0:
        raise DataError(f"{sound} is out of range; use semitones -6 to 6, timbre 0 to 3 and a variant of 0 or more")
    if not (1 <= sound.pulses <= MAX_PULSES if kind.pulsed else sound.pulses == 0):
        wanted = f"1 to {MAX_PULSES} pulses" if kind.pulsed else "0 pulses, it is continuous"
        raise DataError(f"a {sound.label} cannot have {sound.pulses} pulses; give it {wanted}")
    return kind


def _render(sound: Sound, n_samples: int) -> Samples:
    kind = KINDS[sound.label]
    rng = np.random.default_rng([_INDEX[sound.label], sound.variant])
    detail = rng.uniform(-1.0, 1.0, 8)
    ratio = 2.0 ** (sound.semitones / 12)
    if not kind.pulsed:
        return unit_level(kind.make(Voice(n_samples, ratio, sound.timbre, detail, rng)))
    spans = pulse_times_s(sound, n_samples / SAMPLE_RATE)
    stroke_n = min(n_samples, round((spans[0][1] - spans[0][0]) * SAMPLE_RATE))
    stroke = unit_level(kind.make(Voice(stroke_n, ratio, sound.timbre, detail, rng)))
    out = np.zeros(n_samples, dtype=np.float32)
    for start_s, _ in spans:
        start = min(round(start_s * SAMPLE_RATE), n_samples - stroke_n)
        out[start : start + stroke_n] = stroke
    return unit_level(out)
