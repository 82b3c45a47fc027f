"""Rendering: levels, places and determinism of a mixed scene."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from echo_audio.audio import SAMPLE_RATE
from echo_audio.data.render import BACKGROUNDS, PEAK, Stock, render, render_int16
from echo_audio.data.scene import Event, Scene, Sound, Source, Split
from echo_audio.data.sounds import LABELS, PULSED, ProceduralBank
from echo_audio.errors import DataError

STOCK = Stock({Source.PROCEDURAL: ProceduralBank()})
BELL = Event(Sound("bell", variant=3), 1.0, 2.5, -26.0)
KNOCKS = Event(Sound("knock", variant=9, pulses=3), 3.2, 4.1, -20.0)
SCENE = Scene(5.0, (BELL, KNOCKS), "pink", -55.0, 11)


def level_db(samples: np.ndarray) -> float:
    return 20 * float(np.log10(np.sqrt(np.mean(samples.astype(np.float64) ** 2)) + 1e-12))


def test_a_recording_is_exactly_its_16_bit_samples() -> None:
    whole = render_int16(SCENE, STOCK)
    assert whole.dtype == np.int16
    assert whole.shape == (5 * SAMPLE_RATE,)
    assert np.array_equal(render(SCENE, STOCK).samples * 32_768, whole)


def test_the_same_scene_is_the_same_in_another_process() -> None:
    program = (
        "import hashlib\n"
        "from echo_audio.data.render import Stock, render_int16\n"
        "from echo_audio.data.scene import *\n"
        "from echo_audio.data.sounds import ProceduralBank\n"
        f"scene = {_source(SCENE)}\n"
        "stock = Stock({Source.PROCEDURAL: ProceduralBank()})\n"
        "print(hashlib.sha256(render_int16(scene, stock).tobytes()).hexdigest())\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == hashlib.sha256(render_int16(SCENE, STOCK).tobytes()).hexdigest()


def _source(scene: Scene) -> str:
    events = ", ".join(
        f"Event(Sound({e.label!r}, variant={e.sound.variant}, pulses={e.sound.pulses}), {e.start_s}, {e.end_s}, {e.level_db})"
        for e in scene.events
    )
    return f"Scene({scene.duration_s}, ({events}), {scene.background!r}, {scene.background_db}, {scene.seed})"


@pytest.mark.parametrize("label", LABELS)
def test_an_event_is_heard_in_its_span_and_nowhere_else(label: str) -> None:
    event = Event(Sound(label, variant=2, pulses=2 if label in PULSED else 0), 1.3, 2.0, -25.0)
    samples = render(Scene(4.0, (event,), "white", -60.0, 5), STOCK).samples
    start, end = round(1.3 * SAMPLE_RATE), round(2.0 * SAMPLE_RATE)
    assert level_db(samples[start:end]) == pytest.approx(-25.0, abs=0.1)
    assert level_db(samples[:start]) == pytest.approx(-60.0, abs=0.5)
    assert level_db(samples[end:]) == pytest.approx(-60.0, abs=0.5)
    assert level_db(samples[start : start + 320]) > -57.0
    assert level_db(samples[end - 320 : end]) > -57.0


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_background_has_the_level_asked_for(background: str) -> None:
    for duration_s in (4.0, 12.5, 75.0):
        samples = render(Scene(duration_s, (), background, -42.0, 8), STOCK).samples
        assert samples.size == round(duration_s * SAMPLE_RATE)
        assert level_db(samples) == pytest.approx(-42.0, abs=0.1)


def test_the_seed_chooses_the_background() -> None:
    other = dataclasses.replace(SCENE, seed=12)
    assert not np.array_equal(render_int16(SCENE, STOCK), render_int16(other, STOCK))


def test_a_loud_mix_is_turned_down_as_a_whole() -> None:
    loud = Scene(3.0, (Event(BELL.sound, 0.5, 1.5, 6.0), Event(Sound("hiss"), 1.8, 2.6, -4.0)), "white", -30.0, 1)
    samples = render(loud, STOCK).samples
    assert float(np.abs(samples).max()) == pytest.approx(PEAK, abs=1e-3)
    bell, hiss = samples[8_000:24_000], samples[28_800:41_600]
    assert level_db(bell) - level_db(hiss) == pytest.approx(10.0, abs=0.1)


def test_overlapping_events_add_up() -> None:
    hiss = Event(Sound("hiss"), 1.5, 3.5, -26.0)
    both = render(dataclasses.replace(SCENE, events=(BELL, hiss)), STOCK).samples
    one = render(dataclasses.replace(SCENE, events=(BELL,)), STOCK).samples
    other = render(dataclasses.replace(SCENE, events=(hiss,)), STOCK).samples
    none = render(dataclasses.replace(SCENE, events=()), STOCK).samples
    assert np.abs(both - (one + other - none)).max() < 3 / 32_768


@pytest.mark.parametrize(
    "scene",
    [
        dataclasses.replace(SCENE, duration_s=4.0),
        dataclasses.replace(SCENE, duration_s=0.0, events=()),
        dataclasses.replace(SCENE, background="disco"),
        dataclasses.replace(SCENE, events=(dataclasses.replace(BELL, sound=Sound("dog", Source.CLIP)),)),
    ],
)
def test_impossible_scenes_are_refused(scene: Scene) -> None:
    with pytest.raises(DataError):
        render_int16(scene, STOCK)


def test_a_stock_draws_from_the_bank_that_has_the_label() -> None:
    rng = np.random.default_rng(0)
    sound = STOCK.draw(rng, "siren", Split.TEST)
    assert sound.source is Source.PROCEDURAL
    assert STOCK.labels == STOCK.labels_for(Split.TRAIN) == LABELS
    assert STOCK.length_range_s(sound) == ProceduralBank().length_range_s(sound)
    with pytest.raises(DataError, match="label"):
        STOCK.draw(rng, "kazoo", Split.TEST)
    with pytest.raises(DataError, match="two banks"):
        Stock({Source.PROCEDURAL: ProceduralBank(), Source.CLIP: ProceduralBank()})
