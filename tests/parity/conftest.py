"""A tiny random model folder, loaded once. Its weights are larger than at initialisation, so that mistakes show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import SAMPLE_TEXTS

from echo_audio.engines.local import LocalEngine
from echo_audio.models import tiny
from echo_audio.models.thinker import Thinker, save_weights


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thinker folder in float32, some 0.13 M parameters."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("models") / "random"
    tiny.write_folder(path, tiny.train_tokenizer(SAMPLE_TEXTS, 400), tiny.RANDOM)
    thinker = Thinker.load(path)
    with torch.no_grad():
        for weight in thinker.parameters():
            if weight.dim() > 1:
                weight.mul_(5.0)
    save_weights(thinker, path / "model.safetensors", torch.float32)
    return path


@pytest.fixture(scope="session")
def thinker(folder: Path) -> Thinker:
    """The loaded model, float32 on the CPU."""
    return Thinker.load(folder)


@pytest.fixture
def engine(thinker: Thinker) -> Iterator[LocalEngine]:
    """A fresh engine, closed afterwards."""
    made = LocalEngine(thinker)
    yield made
    made.close()
