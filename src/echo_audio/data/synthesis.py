"""How the procedural kinds sound: sixteen functions from a `Voice` to samples, in numpy.

Continuous kinds fill the span; pulsed kinds make one stroke, which `sounds.py` repeats. The four timbres are 0 plain,
1 dull, 2 hollow, 3 rough. Levels are arbitrary here: `sounds.py` brings everything to root mean square 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from echo_audio.audio import SAMPLE_RATE

_TABLE = 16_384  # points of one period; nearest-point look-up is then 70 dB clean
_NYQUIST_HZ = 7_400.0

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Voice:
    """What a kind needs to sound: details in -1..1 that are the variant's, the same for every pitch and timbre."""

    n: int
    ratio: float
    timbre: int
    detail: Floats
    rng: np.random.Generator

    def near(self, index: int, value: float, spread: float) -> float:
        """`value`, varied by up to the share `spread` from variant to variant."""
        return value * (1.0 + spread * float(self.detail[index]))


# ---------------------------------------------------------------------------------------------- building blocks


def _seconds(n: int) -> Floats:
    return np.arange(n) / SAMPLE_RATE


def _cycles(freq_hz: float | Floats, n: int) -> Floats:
    """Phase in cycles of a tone of fixed or moving frequency."""
    if isinstance(freq_hz, float):
        return np.arange(n) * (freq_hz / SAMPLE_RATE)
    return np.cumsum(freq_hz) / SAMPLE_RATE


@lru_cache(maxsize=1024)
def _table(weights: tuple[float, ...]) -> Floats:
    """One period of a sum of harmonics; the quadratic phases keep the crest low."""
    spectrum = np.zeros(_TABLE // 2 + 1, dtype=np.complex128)
    k = np.arange(1, len(weights) + 1)
    spectrum[1 : len(weights) + 1] = np.asarray(weights) * np.exp(-1j * (np.pi / 2 + np.pi * k * k / max(len(k), 2)))
    return np.asarray(np.fft.irfft(spectrum) * (_TABLE / 2), dtype=np.float32)


def _wave(cycles: Floats, weights: tuple[float, ...], top_hz: float) -> Floats:
    """The harmonics `weights` (of 1, 2, 3, ... times the frequency) that stay under the band limit at `top_hz`."""
    kept = max(1, min(len(weights), int(_NYQUIST_HZ / top_hz)))
    index = ((cycles % 1.0) * _TABLE).astype(np.int32)
    return _table(weights[:kept])[index]


def _harmonics(count: int, slope: float, timbre: int) -> tuple[float, ...]:
    """Weights k**-slope, coloured: dull keeps nearly the first alone, hollow keeps the odd ones."""
    match timbre:
        case 1:
            return tuple(k ** -(slope + 2.6) for k in range(1, count + 1))
        case 2:
            return tuple(k ** (-0.5 * slope) if k % 2 else 0.0 for k in range(1, count + 1))
        case _:
            return tuple(k**-slope for k in range(1, count + 1))


def _decay(n: int, end_db: float) -> Floats:
    """An exponential envelope from 0 dB to `end_db`."""
    return np.exp(np.linspace(0.0, end_db * math.log(10) / 20, n, dtype=np.float32))


def _noise(rng: np.random.Generator, n: int, low_hz: float, high_hz: float, order: int = 4) -> Floats:
    """Gaussian noise of root mean square about 1 in a band with smooth edges."""
    spectrum = np.fft.rfft(rng.standard_normal(n, dtype=np.float32))
    freq = np.linspace(20.0, SAMPLE_RATE / 2, spectrum.size)
    gain = 1.0 / np.sqrt((1.0 + (low_hz / freq) ** (2 * order)) * (1.0 + (freq / high_hz) ** (2 * order)))
    out = np.fft.irfft(spectrum * gain, n).astype(np.float32)
    return out / max(float(np.sqrt(np.mean(out * out))), 1e-9)


def _flutter(n: int, rate_hz: float, depth: float) -> Floats:
    """A tremolo that starts loud."""
    swing = np.cos(2 * np.pi * rate_hz * _seconds(n)).astype(np.float32)
    return (1.0 - depth / 2) + (depth / 2) * swing


def _roughen(voice: Voice, tone: Floats) -> Floats:
    """Timbre 3 of the continuous tones: a fast tremolo and breath."""
    if voice.timbre != 3:
        return tone
    breath = _noise(voice.rng, voice.n, 1_500.0, 6_500.0) * (0.4 * float(np.sqrt(np.mean(tone * tone))))
    return (tone + breath) * _flutter(voice.n, voice.near(7, 16.0, 0.15), 0.85)


def _dirty(voice: Voice, stroke: Floats, low_hz: float, high_hz: float, share: float = 0.9) -> Floats:
    """Timbre 3 of the strokes: noise under the same envelope (a tremolo would count as strokes)."""
    if voice.timbre != 3:
        return stroke
    level = share * float(np.sqrt(np.mean(stroke * stroke)))
    shape = _decay(voice.n, -14.0)
    return stroke + _noise(voice.rng, voice.n, low_hz, high_hz) * shape * (level / float(np.sqrt(np.mean(shape * shape))))


def _modes(voice: Voice, freqs_hz: tuple[float, ...], weights: tuple[float, ...], ends_db: tuple[float, ...]) -> Floats:
    """Damped inharmonic partials, each with its own decay over the span."""
    out = np.zeros(voice.n, dtype=np.float32)
    for freq, weight, end_db in zip(freqs_hz, weights, ends_db, strict=True):
        if freq * voice.ratio < _NYQUIST_HZ:
            out += _wave(_cycles(freq * voice.ratio, voice.n), (1.0,), 1.0) * _decay(voice.n, end_db) * np.float32(weight)
    return out


# ---------------------------------------------------------------------------------------------- continuous kinds


def _bell(v: Voice) -> Floats:
    """Inharmonic partials that ring out; the higher the sooner."""
    f = 640.0
    ratios = (
        1.0,
        v.near(0, 2.0, 0.01),
        v.near(1, 2.76, 0.03),
        v.near(2, 4.1, 0.03),
        v.near(3, 5.4, 0.03),
        v.near(4, 7.1, 0.03),
    )
    ends = (-16.0, -18.0, -22.0, -26.0, -32.0, -40.0)
    weights = {
        1: (1.0, 0.25, 0.02, 0.0, 0.0, 0.0),
        2: (0.8, 0.0, 0.0, 1.0, 0.0, 0.7),
    }.get(v.timbre, (1.0, 0.7, 0.8, 0.6, 0.5, 0.4))
    return _roughen(v, _modes(v, tuple(f * r for r in ratios), weights, ends))


def _whistle(v: Voice) -> Floats:
    """A high, nearly steady tone with a slow vibrato and some breath."""
    t = _seconds(v.n)
    f = 1_500.0 * v.ratio
    vibrato = 0.012 * np.sin(2 * np.pi * v.near(0, 6.0, 0.2) * t + 3 * v.detail[1])
    moving = f * (1.0 + vibrato - 0.08 * np.exp(-t / 0.03))
    weights = {1: (1.0,), 2: (1.0, 0.0, 0.9), 3: (1.0, 0.3)}.get(v.timbre, (1.0, 0.7, 0.4, 0.25))
    tone = _wave(_cycles(moving, v.n), weights, f * 1.02)
    return _roughen(v, tone + _noise(v.rng, v.n, f, 3 * f, 2) * np.float32(0.06))


def _siren(v: Voice) -> Floats:
    """A tone that wails up and down."""
    swing = np.sin(2 * np.pi * v.near(0, 1.9, 0.2) * _seconds(v.n) + np.pi * v.detail[1])
    f = v.near(2, 850.0, 0.05) * v.ratio
    moving = f * 2.0 ** (0.55 * swing)
    tone = _wave(_cycles(moving, v.n), _harmonics(6, 0.8, v.timbre), f * 1.47)
    return _roughen(v, tone)


def _horn(v: Voice) -> Floats:
    """Two brassy notes, a major third apart, held."""
    f = 330.0 * v.ratio
    weights = _harmonics(14, v.near(0, 0.75, 0.1), v.timbre)
    tone = _wave(_cycles(f, v.n), weights, f) + _wave(_cycles(f * v.near(1, 1.26, 0.002), v.n), weights, f * 1.26)
    attack = 1.0 - 0.8 * np.exp(-_seconds(v.n) / v.near(2, 0.03, 0.4))
    return _roughen(v, tone * attack.astype(np.float32))


def _buzzer(v: Voice) -> Floats:
    """A low, harsh tone with harmonics all the way up."""
    f = 150.0 * v.ratio
    tone = _wave(_cycles(f, v.n), _harmonics(48, v.near(0, 0.25, 0.3), v.timbre), f)
    if v.timbre == 1:  # a buzzer with one harmonic is a hum: keep some
        tone = _wave(_cycles(f, v.n), _harmonics(48, 1.3, 0), f)
    return _roughen(v, tone)


def _engine(v: Voice) -> Floats:
    """A low chug: firing strokes at about twelve a second, rumble and exhaust noise."""
    chug = v.near(0, 12.0, 0.15) * v.ratio
    f = chug * (11 if v.timbre == 2 else 5)
    weights = {1: _harmonics(10, 1.6, 0), 2: _harmonics(16, 0.2, 2)}.get(v.timbre, _harmonics(20, 0.7, 0))
    tone = _wave(_cycles(f, v.n), weights, f)
    level = np.float32(np.sqrt(np.mean(tone * tone)))
    high = {1: 350.0, 3: 4_000.0}.get(v.timbre, 900.0)
    exhaust = _noise(v.rng, v.n, 120.0, high, 2) * level * np.float32(1.5 if v.timbre == 3 else 0.5)
    return (tone + exhaust) * _flutter(v.n, chug, v.near(1, 0.75, 0.1))


def _hiss(v: Voice) -> Floats:
    """Steady noise from a high band, as of a valve or a spray."""
    low = v.near(0, 3_600.0, 0.06) * v.ratio
    if v.timbre == 1:
        return _noise(v.rng, v.n, low * 0.45, low * 0.75, 6)
    if v.timbre == 2:  # two narrow bands and nothing between
        return _noise(v.rng, v.n, low * 0.5, low * 0.55, 8) + _noise(v.rng, v.n, low * 1.3, low * 1.4, 8)
    noise = _noise(v.rng, v.n, low, 9_000.0, 6)
    return noise * _flutter(v.n, v.near(2, 15.0, 0.15), 0.85) if v.timbre == 3 else noise


def _whoosh(v: Voice) -> Floats:
    """Noise whose band and level rise and fall once, as of something that flies past."""
    t = np.linspace(0.0, 1.0, v.n)
    bump = np.exp(-(((t - v.near(0, 0.5, 0.25)) / 0.28) ** 2))
    centre, width = {1: (0.5, 150.0), 2: (1.2, 40.0)}.get(v.timbre, (1.0, 350.0))
    moving = v.near(1, 450.0, 0.1) * v.ratio * centre * 2.0 ** (v.near(2, 1.8, 0.1) * bump)
    cycles = 2 * np.pi * (_cycles(moving, v.n) % 1.0)
    real, imag = _noise(v.rng, v.n, 1.0, width, 2), _noise(v.rng, v.n, 1.0, width, 2)
    band = real * np.cos(cycles).astype(np.float32) + imag * np.sin(cycles).astype(np.float32)
    out = band * (0.3 + 0.7 * bump).astype(np.float32)
    return out * _flutter(v.n, v.near(3, 14.0, 0.15), 0.92) if v.timbre == 3 else out


def _rattle(v: Voice) -> Floats:
    """Small hard strokes, too dense and irregular to count."""
    rate = v.near(0, 17.0, 0.1) * (1.6 if v.timbre == 3 else 1.0)
    grain_n = min(v.n, round(0.07 * SAMPLE_RATE))
    modes, ends = {
        1: ((620.0, 980.0, 1_500.0), (-22.0, -26.0, -30.0)),
        2: ((1_250.0, 3_750.0), (-14.0, -18.0)),
    }.get(v.timbre, ((2_500.0, 3_900.0, 5_300.0), (-22.0, -24.0, -26.0)))
    modes = tuple(v.near(1 + i, m, 0.04) for i, m in enumerate(modes))
    grain_voice = Voice(grain_n, v.ratio, v.timbre, v.detail, v.rng)
    grain = _modes(grain_voice, modes, (1.0, 0.8, 0.7)[: len(modes)], ends)
    grain = _dirty(grain_voice, grain, 1_000.0, 7_000.0, 1.5)
    last = v.n - grain_n
    count = max(2, round(rate * last / SAMPLE_RATE) + 1)
    times = np.linspace(0.0, last, count) + v.rng.uniform(-0.3, 0.3, count) * (last / (count - 1))
    out = np.zeros(v.n, dtype=np.float32)
    for start, level in zip(np.clip(times, 0, last).astype(int), v.rng.uniform(0.6, 1.0, count), strict=True):
        out[start : start + grain_n] += grain * np.float32(level)
    out[:grain_n] += grain * np.float32(0.7)
    out[last:] += grain * np.float32(0.7)
    return out


def _gurgle(v: Voice) -> Floats:
    """Water: rising blips of random pitch that overlap."""
    grain_n = min(v.n, round(v.near(0, 0.09, 0.15) * SAMPLE_RATE))
    shape = np.hanning(grain_n + 2)[1:-1].astype(np.float32) ** np.float32(0.5)
    rise = 1.0 + 0.7 * np.linspace(0.0, 1.0, grain_n)
    weights = {1: (1.0,), 2: (0.6, 0.0, 1.0, 0.0, 0.7)}.get(v.timbre, (1.0, 0.35))
    span = (180.0, 420.0) if v.timbre == 1 else (380.0, 1_100.0)
    out = np.zeros(v.n, dtype=np.float32)
    count = max(3, round(v.near(1, 22.0, 0.12) * v.n / SAMPLE_RATE))
    starts = np.clip(np.linspace(0, v.n - grain_n, count) + v.rng.uniform(-0.02, 0.02, count) * SAMPLE_RATE, 0, v.n - grain_n)
    starts[0], starts[-1] = 0, v.n - grain_n
    for start in starts.astype(int):
        f = float(np.exp(v.rng.uniform(math.log(span[0]), math.log(span[1])))) * v.ratio
        out[start : start + grain_n] += _wave(_cycles(f * rise, grain_n), weights, f * 1.7) * shape
    if v.timbre == 3:
        out += _noise(v.rng, v.n, 2_500.0, 6_000.0) * np.float32(0.7 * np.sqrt(np.mean(out * out)))
    return out


# ---------------------------------------------------------------------------------------------- strokes


def _knock(v: Voice) -> Floats:
    """Knuckles on wood."""
    modes = {
        1: (210.0, 330.0, 470.0),
        2: (430.0, 1_290.0, 2_150.0),
    }.get(v.timbre, (360.0, v.near(0, 640.0, 0.05), v.near(1, 1_050.0, 0.06)))
    out = _modes(v, modes, (1.0, 0.9, 0.8), (-20.0, -26.0, -34.0))
    thud = _noise(v.rng, v.n, 150.0, 1_200.0, 2) * _decay(v.n, -60.0)
    return _dirty(v, out + thud * np.float32(0.4), 800.0, 4_000.0)


def _beep(v: Voice) -> Floats:
    """An even electronic tone."""
    f = 1_000.0 * v.ratio
    weights = {1: (1.0,), 2: (0.7, 0.0, 1.0, 0.0, 0.8)}.get(v.timbre, (1.0, 0.8, 0.65, 0.5, 0.4, 0.3))
    tone = _wave(_cycles(f, v.n), weights, f)
    if v.timbre == 3:
        return tone + _noise(v.rng, v.n, 1_500.0, 7_000.0) * np.float32(0.8 * np.sqrt(np.mean(tone * tone)))
    return tone * np.exp(np.float32(0.2 * v.detail[0]) * np.linspace(0.0, 1.0, v.n, dtype=np.float32))


def _click(v: Voice) -> Floats:
    """A hard, bright tick."""
    modes = {
        1: (1_300.0, 1_750.0, 2_300.0),
        2: (2_000.0, 6_000.0, 6_300.0),
    }.get(v.timbre, (v.near(0, 2_700.0, 0.05), v.near(1, 3_900.0, 0.05), v.near(2, 5_100.0, 0.05)))
    out = _modes(v, modes, (0.8, 1.0, 1.0), (-22.0, -26.0, -28.0))
    snap = _noise(v.rng, v.n, 2_000.0, 7_500.0) * _decay(v.n, -70.0)
    return _dirty(v, out + snap, 800.0, 7_500.0, 1.2)


def _drum(v: Voice) -> Floats:
    """A skin that drops in pitch as it dies away, with a slap at the start."""
    f = v.near(0, 95.0, 0.05) * v.ratio * (1.0 + v.near(1, 0.9, 0.2) * np.exp(-_seconds(v.n) / 0.03))
    weights = {1: (1.0,), 2: (0.4, 0.0, 1.0, 0.0, 1.0, 0.0, 0.8)}.get(v.timbre, (1.0, 0.5, 0.25))
    boom = _wave(_cycles(f, v.n), weights, 200.0) * _decay(v.n, -18.0)
    slap = _noise(v.rng, v.n, 100.0, 1_000.0, 2) * _decay(v.n, -60.0)
    slap_share = 0.1 if v.timbre == 1 else 0.5
    return _dirty(v, boom + slap * np.float32(slap_share), 1_500.0, 7_000.0, 1.0)


def _chirp(v: Voice) -> Floats:
    """A bird: one quick rise."""
    f = v.near(0, 1_250.0, 0.04) * v.ratio
    path = np.linspace(0.0, 1.0, v.n) ** v.near(1, 1.4, 0.2)
    octaves = v.near(2, 0.75, 0.08)
    cycles, top_hz = _cycles(f * 2.0 ** (octaves * path), v.n), f * 2.0**octaves
    if v.timbre == 2:
        # a second voice a fifth up, as the harmonics of half the frequency: a third harmonic would not fit
        tone = _wave(cycles * 0.5, (0.0, 0.8, 1.0), top_hz * 0.5)
    else:
        tone = _wave(cycles, (1.0,) if v.timbre == 1 else (1.0, 0.8, 0.5), top_hz)
    shape = np.sin(np.pi * np.linspace(0.06, 0.94, v.n, dtype=np.float32)) ** np.float32(0.7)
    return _dirty(v, tone * shape, 1_500.0, 7_500.0)


def _pluck(v: Voice) -> Floats:
    """A string: bright at first, then mellow."""
    f = 392.0 * v.ratio
    first = _harmonics(16, v.near(0, 0.5, 0.2), v.timbre)
    later = _harmonics(8, 1.5, v.timbre)
    cycles = _cycles(f, v.n)
    out = _wave(cycles, first, f) * _decay(v.n, v.near(1, -45.0, 0.2)) + _wave(cycles, later, f) * _decay(v.n, -18.0)
    return _dirty(v, out, 1_500.0, 6_500.0)


@dataclass(frozen=True, slots=True)
class Kind:
    """How a label sounds; the lengths are those of a continuous kind."""

    make: Callable[[Voice], Floats]
    shortest_s: float = 0.4
    longest_s: float = 2.5
    pulsed: bool = False
    tonal: bool = False


KINDS: dict[str, Kind] = {
    "bell": Kind(_bell, tonal=True),
    "whistle": Kind(_whistle, tonal=True),
    "siren": Kind(_siren, shortest_s=0.6),
    "horn": Kind(_horn, tonal=True),
    "buzzer": Kind(_buzzer, tonal=True),
    "engine": Kind(_engine, shortest_s=0.5),
    "hiss": Kind(_hiss),
    "whoosh": Kind(_whoosh, shortest_s=0.5, longest_s=1.8),
    "rattle": Kind(_rattle, shortest_s=0.5),
    "gurgle": Kind(_gurgle, shortest_s=0.5),
    "knock": Kind(_knock, pulsed=True),
    "beep": Kind(_beep, pulsed=True, tonal=True),
    "click": Kind(_click, pulsed=True),
    "drum": Kind(_drum, pulsed=True),
    "chirp": Kind(_chirp, pulsed=True),
    "pluck": Kind(_pluck, pulsed=True, tonal=True),
}
