"""A random thinker, and settings of a run that takes a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from echo_audio.data.scene import Split
from echo_audio.data.scenes import draw_row
from echo_audio.data.stock import make_stock
from echo_audio.models import tiny
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
