"""From a scene to samples: every event at its level and place, over a background, as 16-bit audio.

The same scene gives the same samples in every process: the background is a stretch of a fixed noise, chosen by the
scene's seed, and the sounds follow from their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from echo_audio.audio import SAMPLE_RATE, Recording, Samples
from echo_audio.data.scene import Bank, Event, Scene, Sound, Source, Split
from echo_audio.errors import DataError

PEAK = 0.99
"""A mix that would exceed this is turned down as a whole."""

_NOISE_S = 60
_FULL_SCALE = 32_768


class SplitBank(Bank, Protocol):
    """A bank that can say which labels a split has."""

    def labels_for(self, split: Split) -> tuple[str, ...]:
        """Labels with at least one sound in that split."""
        ...


class Stock:
    """Several banks behind one: a drawn sound goes to the bank of its source, a label to the bank that has it.

    Raises:
        DataError: two banks have the same label, so that a draw would be ambiguous.
    """

    def __init__(self, banks: Mapping[Source, SplitBank]) -> None:
        self.banks = dict(banks)
        self._by_label: dict[str, SplitBank] = {}
        for bank in self.banks.values():
            for label in bank.labels:
                if label in self._by_label:
                    raise DataError(f"two banks have the label '{label}'; rename it in the manifest of one of them")
                self._by_label[label] = bank
        self.labels: tuple[str, ...] = tuple(self._by_label)

    def bank(self, source: Source) -> SplitBank:
        """The bank of that source.

        Raises:
            DataError: there is none.
        """
        if source not in self.banks:
            raise DataError(f"this stock has no {source} sounds; add a bank for them")
        return self.banks[source]

    def labels_for(self, split: Split) -> tuple[str, ...]:
        """Labels of all banks with at least one sound in that split."""
        return tuple(label for bank in self.banks.values() for label in bank.labels_for(split))

    def draw(self, rng: np.random.Generator, label: str, split: Split) -> Sound:
        """A random sound of that label, from the bank that has it."""
        if label not in self._by_label:
            raise DataError(f"no bank of this stock has the label '{label}'; choose from its labels")
        return self._by_label[label].draw(rng, label, split)

    def length_range_s(self, sound: Sound) -> tuple[float, float]:
        """Shortest and longest natural length of that sound, on the 0.1 s grid."""
        return self.bank(sound.source).length_range_s(sound)

    def samples(self, sound: Sound, n_samples: int) -> Samples:
        """The sound, exactly n_samples long at 16 kHz, root mean square 1.0."""
        return self.bank(sound.source).samples(sound, n_samples)


# ---------------------------------------------------------------------------------------------- backgrounds


def _shaped(rng: np.random.Generator, gain: Callable[[NDArray[np.floating]], NDArray[np.floating]]) -> Samples:
    """One minute of noise whose spectrum follows `gain`; it repeats without a seam."""
    spectrum = np.fft.rfft(rng.standard_normal(_NOISE_S * SAMPLE_RATE))
    freq = np.linspace(0.0, SAMPLE_RATE / 2, spectrum.size)
    return np.asarray(np.fft.irfft(spectrum * gain(freq)), dtype=np.float32)


def _white(rng: np.random.Generator) -> Samples:
    return _shaped(rng, np.ones_like)


def _pink(rng: np.random.Generator) -> Samples:
    return _shaped(rng, lambda f: np.maximum(f, 30.0) ** -0.5 * (f > 15))


def _brown(rng: np.random.Generator) -> Samples:
    return _shaped(rng, lambda f: np.maximum(f, 50.0) ** -1.0 * (f > 15))


def _hum(rng: np.random.Generator) -> Samples:
    """Mains: harmonics of 50 Hz over a little noise."""
    t = np.arange(_NOISE_S * SAMPLE_RATE) / SAMPLE_RATE
    tone = sum(np.sin(2 * np.pi * (50 * k * t + rng.random())) / k for k in (1, 2, 3, 4, 6))
    noise = _pink(rng)
    return np.asarray(tone + noise * (0.25 / np.std(noise)), dtype=np.float32)


def _wind(rng: np.random.Generator) -> Samples:
    """Low noise that swells and falls over seconds."""
    swell = _shaped(rng, lambda f: (f < 0.5) * 1.0)
    level = 10.0 ** (4.0 * swell / np.std(swell) / 20)
    return np.asarray(_shaped(rng, lambda f: 1.0 / (1.0 + (f / 300.0) ** 1.5) * (f > 15)) * level, dtype=np.float32)


_BACKGROUNDS: dict[str, Callable[[np.random.Generator], Samples]] = {
    "white": _white,
    "pink": _pink,
    "brown": _brown,
    "hum": _hum,
    "wind": _wind,
}
BACKGROUNDS: tuple[str, ...] = tuple(_BACKGROUNDS)


@lru_cache(maxsize=len(_BACKGROUNDS))
def _minute(kind: str) -> Samples:
    """The fixed minute of a background, written twice so that any stretch up to a minute is one slice."""
    rng = np.random.default_rng([60, BACKGROUNDS.index(kind)])
    return np.tile(_BACKGROUNDS[kind](rng), 2)


def warm_up(kinds: Iterable[str] = BACKGROUNDS) -> None:
    """Make the noises now (some 0.1 s each), for instance before worker processes are forked."""
    for kind in kinds:
        _minute(kind)


def background_minute(kind: str) -> Samples:
    """A background's fixed minute, twice: any scene's background is a slice of it, brought to its level.

    Raises:
        DataError: there is no such background.
    """
    if kind not in _BACKGROUNDS:
        raise DataError(f"there is no background '{kind}'; choose one of {', '.join(BACKGROUNDS)}")
    return _minute(kind)


def background_start(seed: int) -> int:
    """Where in its minute a scene's background begins, in samples: neighbouring seeds start far apart (Knuth's hash)."""
    return (int(seed) * 2_654_435_761) % 2**32 * (_NOISE_S * SAMPLE_RATE) // 2**32


def _background(kind: str, level_db: float, seed: int, n_samples: int) -> Samples:
    minute = background_minute(kind)
    n_minute = minute.size // 2
    start = background_start(seed)
    part = minute[start : start + n_samples] if n_samples <= n_minute else np.resize(minute[start : start + n_minute], n_samples)
    rms = float(np.sqrt(np.dot(part, part) / n_samples))
    return part * np.float32(_gain(level_db) / max(rms, 1e-12))


def _gain(level_db: float) -> float:
    return 10.0 ** (level_db / 20)


# ---------------------------------------------------------------------------------------------- mixing


def _span(event: Event, n_samples: int) -> tuple[int, int]:
    start, end = round(event.start_s * SAMPLE_RATE), round(event.end_s * SAMPLE_RATE)
    if not 0 <= start < end <= n_samples:
        raise DataError(
            f"{event.label} at {event.start_s:g} to {event.end_s:g} s does not fit in a scene of {n_samples / SAMPLE_RATE:g} s; "
            "draw its times inside the scene"
        )
    return start, end


def render_int16(scene: Scene, stock: Stock) -> NDArray[np.int16]:
    """The scene as 16-bit samples at 16 kHz, shape (round(duration_s * 16000),).

    Raises:
        DataError: an event outside the scene, or a sound, length or background that there is not.
    """
    n_samples = round(scene.duration_s * SAMPLE_RATE)
    if n_samples <= 0:
        raise DataError(f"a scene of {scene.duration_s:g} s has no samples; give it a positive duration")
    mix = _background(scene.background, scene.background_db, scene.seed, n_samples)
    for event in scene.events:
        start, end = _span(event, n_samples)
        mix[start:end] += stock.samples(event.sound, end - start) * np.float32(_gain(event.level_db))
    peak = max(float(mix.max()), -float(mix.min()))
    mix *= np.float32(_FULL_SCALE * min(1.0, PEAK / max(peak, 1e-9)))
    return np.rint(mix, out=mix).astype(np.int16)


def render(scene: Scene, stock: Stock) -> Recording:
    """The scene as a recording: exactly the 16-bit samples, so that FLAC keeps it unchanged.

    Raises:
        DataError: as for `render_int16`.
    """
    return Recording(render_int16(scene, stock).astype(np.float32) / np.float32(_FULL_SCALE))
