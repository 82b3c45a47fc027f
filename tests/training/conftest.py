"""A random thinker, and settings of a run that takes a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from echo_audio.data.render import Stock
from echo_audio.data.scene import Split
from echo_audio.data.scenes import draw_row
from echo_audio.data.stock import make_stock
from echo_audio.models import tiny
from echo_audio.training import mixing
from echo_audio.training.mixing import SoundTable
from echo_audio.training.settings import DataSettings, ModelSettings, SftSettings, TrainSettings


@pytest.fixture(scope="session")
def stock():
    return make_stock(())


@pytest.fixture(scope="session")
def folder(tmp_path_factory, stock) -> Path:
    path = tmp_path_factory.mktemp("models") / "random"
    rows = (draw_row(5, i, Split.TRAIN, stock)[0] for i in range(100))
    tokenizer = tiny.train_tokenizer((f"{r.question} {r.choices} {r.reasoning} {r.answer}" for r in rows), 500)
    tiny.write_folder(path, tokenizer, tiny.RANDOM)
    return path


@pytest.fixture
def settings(tmp_path, folder) -> SftSettings:
    return SftSettings(
        out=str(tmp_path / "run"),
        model=ModelSettings(source=str(folder)),
        data=DataSettings(n_rows=16, seed=3, modes={"interleaved": 1.0, "conditioned": 1.0}),
        train=TrainSettings(batch_tokens=2500, learning_rate=3e-3, warmup_steps=1, log_every=1, answer_weight=3.0),
    )


@pytest.fixture(scope="session")
def table(tmp_path_factory, stock: Stock) -> SoundTable:
    """A table of only the sounds that some drawn scenes need: the whole one takes 2 GB."""
    wanted = {
        replace(e.sound, variant=0) for i in range(12) for e in draw_row(7, i, Split.TRAIN, stock)[1].events
    }
    every = mixing._sounds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixing, "_sounds", lambda stock, n: (s for s in every(stock, n) if s in wanted))
        return SoundTable.build(stock, tmp_path_factory.mktemp("table"), 1, workers=2)
