"""Procedural sounds: what a scene promises about them is what can be measured in the samples."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from echo_audio.audio import SAMPLE_RATE
from echo_audio.data.scene import Rhythm, Sound, Split
from echo_audio.data.sounds import (
    LABELS,
    N_TIMBRES,
    PULSED,
    TONAL,
    VARIANTS,
    ProceduralBank,
    SampleCache,
    pulse_times_s,
)
from echo_audio.errors import DataError

BANK = ProceduralBank()


def plain(label: str, variant: int = 0, timbre: int = 0, semitones: int = 0) -> Sound:
    return Sound(label, pulses=3 if label in PULSED else 0, variant=variant, timbre=timbre, semitones=semitones)


def drawn(label: str, seed: int, split: Split = Split.TRAIN) -> tuple[Sound, int]:
    rng = np.random.default_rng(seed)
    sound = BANK.draw(rng, label, split)
    if sound.pulses > 2:
        sound = dataclasses.replace(sound, rhythm=list(Rhythm)[seed % 3])
    low, high = BANK.length_range_s(sound)
    return sound, round(round(float(rng.uniform(low, high)), 1) * SAMPLE_RATE)


def levels_db(samples: NDArray[np.float32], frame_n: int = 320) -> NDArray[np.float64]:
    frames = samples[: samples.size // frame_n * frame_n].reshape(-1, frame_n)
    level = np.sqrt((frames**2).mean(1))
    return 20 * np.log10(level / level.max() + 1e-9)


def bands(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log power in 48 bands, 60 Hz wide at first and then wider, as a log-mel has them: the time-averaged colour."""
    power = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    edges = np.concatenate([np.arange(0, 1_200, 60), np.geomspace(1_200, 8_000, 29)]) / 8_000 * power.size
    share = np.add.reduceat(power, edges[:-1].astype(int))
    return 10 * np.log10(np.maximum(share / share.sum(), 1e-4))


def test_there_are_sixteen_kinds_of_which_at_least_five_are_pulsed() -> None:
    assert len(LABELS) == len(set(LABELS)) == 16
    assert len(PULSED) >= 5
    assert set(LABELS) >= PULSED | TONAL


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("split", list(Split))
def test_a_sound_is_exact_in_length_and_level_and_heard_from_end_to_end(label: str, split: Split) -> None:
    for seed in range(12):
        sound, n_samples = drawn(label, seed, split)
        samples = BANK.samples(sound, n_samples)
        assert samples.shape == (n_samples,)
        assert samples.dtype == np.float32
        assert float(np.sqrt(np.mean(samples**2))) == pytest.approx(1.0, abs=1e-3)
        assert float(np.abs(samples).max()) < 8.0
        levels = levels_db(samples)
        assert min(levels[0], levels[-1]) > -30.0, sound


@pytest.mark.parametrize("label", LABELS)
def test_a_sound_is_determined_by_its_value(label: str) -> None:
    sound, n_samples = drawn(label, 5)
    again = ProceduralBank().samples(sound, n_samples)
    assert np.array_equal(BANK.samples(sound, n_samples), again)
    assert not again.flags.writeable
    other = ProceduralBank().samples(dataclasses.replace(sound, variant=sound.variant + 1), n_samples)
    assert not np.array_equal(again, other)


@pytest.mark.parametrize("label", sorted(PULSED))
@pytest.mark.parametrize("rhythm", list(Rhythm))
def test_pulses_can_be_counted_from_the_envelope(label: str, rhythm: Rhythm) -> None:
    for pulses in range(1, 7):
        for timbre in range(N_TIMBRES):
            sound = Sound(label, variant=7, timbre=timbre, pulses=pulses, rhythm=rhythm)
            for length_s in BANK.length_range_s(sound):
                on = levels_db(BANK.samples(sound, round(length_s * SAMPLE_RATE)), 160) > -40.0
                assert np.count_nonzero(np.diff(np.concatenate([[False], on]).astype(int)) == 1) == pulses, sound


@pytest.mark.parametrize("pulses", [3, 4, 5, 6])
def test_rhythms_differ_clearly_and_pulses_keep_their_distance(pulses: int) -> None:
    for rhythm in Rhythm:
        sound = Sound("knock", pulses=pulses, rhythm=rhythm)
        for length_s in BANK.length_range_s(sound):
            times = pulse_times_s(sound, length_s)
            gaps = np.diff([start for start, _ in times])
            assert gaps.min() >= 0.15
            assert times[-1][1] == pytest.approx(length_s)
            expected = {Rhythm.STEADY: 1.0, Rhythm.SPEEDING: 3.0, Rhythm.SLOWING: 1 / 3}[rhythm]
            assert gaps[0] / gaps[-1] == pytest.approx(expected)


@pytest.mark.parametrize("label", LABELS)
def test_the_four_timbres_differ(label: str) -> None:
    n_samples = SAMPLE_RATE
    for variant, semitones in ((0, 0), (100, 0), (7, 6), (110, -6)):
        sounds = [BANK.samples(plain(label, variant, t, semitones), n_samples) for t in range(N_TIMBRES)]
        tremolo = [np.std(levels_db(s, 160)[5:-5]) for s in sounds]
        for a in range(N_TIMBRES):
            for b in range(a):
                colour = float(np.sort(np.abs(bands(sounds[a]) - bands(sounds[b])))[-4:].mean())
                assert colour > 6.0 or abs(tremolo[a] - tremolo[b]) > 2.0, (label, variant, a, b, colour)


@pytest.mark.parametrize("label", sorted(TONAL))
def test_the_pitch_of_a_tonal_kind_does_not_depend_on_the_variant_and_follows_the_semitones(label: str) -> None:
    def lowest_peak_hz(variant: int, semitones: int) -> float:
        sound = Sound(label, variant=variant, semitones=semitones, timbre=1, pulses=int(label in PULSED))
        n = 6_400
        power = np.abs(np.fft.rfft(BANK.samples(sound, n) * np.hanning(n), 1 << 17))
        return float(np.argmax(power) * SAMPLE_RATE / (1 << 17))

    reference = lowest_peak_hz(0, 0)
    for variant in (3, 17, 105, 131):
        assert 12 * abs(np.log2(lowest_peak_hz(variant, 0) / reference)) < 0.35  # a vibrato of 0.2
    for semitones in (-6, -1, 1, 6):
        assert 12 * np.log2(lowest_peak_hz(0, semitones) / reference) == pytest.approx(semitones, abs=0.35)


def test_kinds_are_told_apart_by_colour_and_envelope_on_unseen_variants() -> None:
    def features(label: str, variant: int) -> NDArray[np.float64]:
        samples = BANK.samples(plain(label, variant=variant), 19_200)
        return np.concatenate([bands(samples), np.sort(levels_db(samples, 800))])

    centres = {label: np.mean([features(label, v) for v in range(8)], axis=0) for label in LABELS}
    for label in LABELS:
        for variant in (100, 110, 120):
            here = features(label, variant)
            assert min(LABELS, key=lambda other: float(np.abs(here - centres[other]).sum())) == label


def test_splits_share_no_variant_and_draws_cover_the_values() -> None:
    assert not set(VARIANTS[Split.TRAIN]) & set(VARIANTS[Split.TEST])
    rng = np.random.default_rng(0)
    for split in Split:
        sounds = [BANK.draw(rng, "knock", split) for _ in range(400)]
        assert {s.variant for s in sounds} <= set(VARIANTS[split])
        assert {s.pulses for s in sounds} == set(range(1, 7))
        assert {s.semitones for s in sounds} == set(range(-6, 7))
        assert {s.timbre for s in sounds} == set(range(4))
        assert all(s.rhythm is Rhythm.STEADY for s in sounds)
    assert BANK.draw(rng, "bell", Split.TRAIN).pulses == 0


@pytest.mark.parametrize(
    "sound",
    [
        Sound("kazoo"),
        Sound("bell", pulses=2),
        Sound("knock"),
        Sound("knock", pulses=7),
        Sound("bell", semitones=7),
        Sound("bell", timbre=4),
        Sound("bell", variant=-1),
    ],
)
def test_impossible_sounds_are_refused(sound: Sound) -> None:
    with pytest.raises(DataError):
        BANK.samples(sound, SAMPLE_RATE)


def test_a_span_too_short_for_its_pulses_is_refused() -> None:
    with pytest.raises(DataError, match="length_range_s"):
        BANK.samples(Sound("knock", pulses=6), SAMPLE_RATE // 2)


def test_the_cache_stays_within_its_bounds() -> None:
    cache = SampleCache(max_entries=3, max_bytes=1_000)
    for key in range(10):
        cache.get(key, lambda: np.zeros(100, dtype=np.float32))
    made: list[int] = []

    def make() -> NDArray[np.float32]:
        made.append(1)
        return np.zeros(100, dtype=np.float32)

    cache.get(9, make)
    cache.get(8, make)
    assert made == []
    cache.get(7, make)
    assert made == [1]


def test_one_stroke_tells_neither_their_number_nor_their_rhythm() -> None:
    lengths = {
        round(end - start, 6)
        for pulses in range(2, 7)
        for rhythm in Rhythm
        for sound in [Sound("knock", pulses=pulses, rhythm=rhythm)]
        for length_s in BANK.length_range_s(sound)
        for start, end in pulse_times_s(sound, length_s)
    }
    assert len(lengths) == 1
