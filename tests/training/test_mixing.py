"""Scenes mixed from the table are the scenes that the renderer makes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from echo_audio.data.render import Stock, render_int16
from echo_audio.data.scene import Scene, Source, Split
from echo_audio.data.scenes import draw_row
from echo_audio.data.sounds import LABELS
from echo_audio.errors import DataError
from echo_audio.training import mixing
from echo_audio.training.mixing import Mixer, SoundTable, collate_mixes, mix_of, silence


def known(scene: Scene) -> Scene:
    """The scene with the synthesis seeds that the table has."""
    return replace(scene, events=tuple(replace(e, sound=replace(e.sound, variant=0)) for e in scene.events))


def test_a_mixed_batch_is_what_the_renderer_makes(stock: Stock, table: SoundTable) -> None:
    scenes = [draw_row(7, i, Split.TRAIN, stock)[1] for i in range(12)]
    batch = collate_mixes([*(mix_of(scene, table) for scene in scenes), silence()])
    mixed = Mixer(table, torch.device("cpu"))(batch)
    for line, scene in zip(mixed, scenes, strict=False):
        expected = render_int16(known(scene), stock).astype(np.float32) / 32_768
        assert len(line) >= len(expected) and not line[len(expected) :].any()
        # the table holds 16 bits of each sound: a loud one is off by a rounding step of its own
        loudest = float(np.abs(expected).max())
        assert np.abs(line[: len(expected)].numpy() - expected).max() < 1.5 / 32_768 + 2e-4 * loudest
    assert not mixed[-1].any()


def test_the_same_table_is_not_rendered_again(stock: Stock, table: SoundTable, monkeypatch) -> None:
    monkeypatch.setattr(mixing, "_entries", lambda stock, n: iter(table._entries.values()))
    before = (table.folder / "table.i16").stat().st_mtime_ns
    SoundTable.build(stock, table.folder, 1, workers=1)
    assert (table.folder / "table.i16").stat().st_mtime_ns == before


def test_a_sound_that_is_not_there_is_refused(stock: Stock, table: SoundTable) -> None:
    sound = stock.draw(np.random.default_rng(0), LABELS[0], Split.TRAIN)
    with pytest.raises(DataError, match="build it from this stock"):
        table.find(replace(sound, label="no such"), 16_000)


def test_every_training_sound_has_a_place(stock: Stock) -> None:
    whole = SoundTable.__new__(SoundTable)
    whole.n_variants = 2
    whole._entries = {entry.sound: entry for entry in mixing._entries(stock, 2)}
    ends = [entry.end for entry in whole._entries.values()]
    assert ends == sorted(ends)
    for i in range(300):
        for event in draw_row(11, i, Split.TRAIN, stock)[1].events:
            assert event.sound.source is Source.PROCEDURAL
            at = whole.find(event.sound, round((event.end_s - event.start_s) * 16_000))
            assert 0 <= at < ends[-1]
