"""One GPU: the same features, the same log-probabilities, the same laws as on the CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from dictation import RECORDINGS, RELISTENING, Dictated, dictate, hear_all, off_by

from echo_audio.listen import Sampling
from echo_audio.models.logmel import logmel
from echo_audio.models.thinker import Thinker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here; run on a GPU: pytest -m gpu"),
]
HOW = [(i % 6, Sampling((0.0, 0.7, 1.0)[i % 3], (1.0, 0.9)[i % 2], i)) for i in range(12)]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def engine(folder: Path, request: pytest.FixtureRequest) -> Iterator[Dictated]:
    """The engine of the tiny random model on the GPU."""
    thinker = Thinker.load(folder, dtype=request.param, device="cuda")
    made = Dictated(thinker, dictate(thinker, range(12)))
    yield made
    made.close()


def test_features_equal_those_of_the_cpu() -> None:
    clips = [recording.samples for recording in RECORDINGS]
    for ours, expected in zip(logmel(clips, "cuda"), logmel(clips), strict=True):
        assert ours.is_cuda
        assert float((ours.cpu() - expected).abs().max()) < 1e-4


def test_log_probabilities_of_listening_equal_one_forward(engine: Dictated) -> None:
    tolerance = 1e-4 if engine.thinker.dtype == torch.float32 else 1.0
    for transcript, encoded in asyncio.run(hear_all(engine, HOW, RELISTENING)):
        assert len(transcript.asked) == 3
        assert off_by(engine.thinker, encoded) < tolerance


def test_greedy_writes_what_the_cpu_writes(folder: Path, engine: Dictated) -> None:
    if engine.thinker.dtype != torch.float32:
        pytest.skip("only float32 agrees to the last token")
    cpu = Thinker.load(folder)
    other = Dictated(cpu, dictate(cpu, range(12)))
    how = [(i, Sampling(seed=i)) for i in range(6)]
    try:
        ours, theirs = (asyncio.run(hear_all(one, how, RELISTENING)) for one in (engine, other))
    finally:
        other.close()
    assert [encoded.ids for _, encoded in ours] == [encoded.ids for _, encoded in theirs]
