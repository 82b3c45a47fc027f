"""vLLM itself on one GPU: greedy ids and log-probabilities over three re-listens, against the local engine and one forward.

Needs vLLM 0.23. Run on a GPU: pytest -m gpu tests/parity/test_vllm.py
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from dictation import RECORDINGS, start
from helpers import noise

from echo_audio.audio import SAMPLE_RATE, Recording, Segment
from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines.local import LocalEngine
from echo_audio.engines.vllm import VllmEngine
from echo_audio.listen import Encoded, Request, Sampling, TurnStop
from echo_audio.models import published, tiny
from echo_audio.models.thinker import Thinker, published_weights, save_weights
from echo_audio.transcript import Author, Heard, Transcript, Why, Written

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here; run on a GPU: pytest -m gpu"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(540),
]
SIZES = replace(tiny.Sizes(), width=256, heads=4, kv_heads=2, layers=4, audio_width=128, audio_heads=2, audio_layers=2)
"""Heads of 64, which vLLM's attention takes."""
TOLERANCE, MEAN = 0.35, 0.03
"""bfloat16 against bfloat16 by other kernels, weights larger than at initialisation: the largest of all, and the mean."""


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in the published layout, its weights large enough for mistakes to show."""
    from helpers import SAMPLE_TEXTS

    root = tmp_path_factory.mktemp("vllm")
    tiny.write_folder(root / "thinker", tiny.train_tokenizer(SAMPLE_TEXTS, 400), SIZES)
    thinker = Thinker.load(root / "thinker")
    with torch.no_grad():
        for weight in thinker.parameters():
            if weight.dim() > 1:
                weight.mul_(2.0)
    save_weights(thinker, root / "thinker" / "model.safetensors", torch.bfloat16)
    base = published.Base.read(root / "thinker")
    published.write(published_weights(Thinker.load(root / "thinker"), torch.float32), base, root / "omni")
    return root / "omni"


@pytest.fixture(scope="module", params=[(1, True), (2, False)], ids=["first-runner", "second-runner-graphs"])
def engine(omni: Path, request: pytest.FixtureRequest) -> Iterator[VllmEngine]:
    """vLLM: its first model runner without CUDA graphs, which starts in seconds, and its second with them."""
    runner, eager = request.param
    how = {"gpu_memory": 0.1, "kv_cache_memory_bytes": 2**30}  # little, so that it runs beside others
    made = VllmEngine.load(omni, max_positions=2048, max_rows=16, enforce_eager=eager, runner=runner, **how)
    yield made
    made.close()


def test_what_is_replaced_is_there(engine: VllmEngine, request: pytest.FixtureRequest) -> None:
    """Turns are kept, and audio comes our way; what only the second runner has is there with it."""
    assert engine.whole
    second = "second-runner" in request.node.name
    (told,) = engine._call(engine.llm.collective_rpc("echo_hear"))
    assert told[:2] == ["_process_audio_input", "embed_input_ids"]
    assert told[2:] == (["execute_mm_encoder", "init_prefill_positions", "add_request"] if second else [])


def relistening(thinker: Thinker, n: int, recording: Recording) -> list[Encoded]:
    """A transcript before each of four turns: three segments have been heard by the last."""
    encoder = TranscriptEncoder(thinker.family, recording)
    transcript: Transcript = start(thinker, recording)
    found = [encoder.encode(transcript)]
    for turn in range(3):
        begin = 0.1 * (turn + n % 3)
        transcript = transcript.say(Written(f"I listen again <seg>{begin:.1f}, {begin + 0.4:.1f}</seg>", Author.HARNESS))
        transcript = transcript.hear(Segment(begin, begin + 0.4))
        found.append(encoder.encode(transcript))
    assert sum(isinstance(span, Heard) and span.why is Why.ASKED for span in transcript.spans) == 3
    return found


def gaps_of(engine: VllmEngine, thinker: Thinker, tokens: int = 24) -> list[float]:
    """Absolute differences of log-probabilities, vLLM's own greedy ids scored by one forward in bfloat16."""
    gaps: list[float] = []

    async def one(encoded: Encoded, turn: int, session: str) -> tuple[Encoded, list[float]]:
        written = await engine.generate(Request(encoded, (), tokens, Sampling(), turn, session))
        whole = replace(encoded, ids=encoded.ids + written.ids)
        return whole, list(written.logprobs)

    async def all_of_them() -> list[tuple[Encoded, list[float]]]:
        asked = [(e, t, str(n)) for n in (0, 1, 3, 5) for t, e in enumerate(relistening(thinker, n, RECORDINGS[n]))]
        return await asyncio.gather(*(one(*each) for each in asked))

    for encoded, logprobs in asyncio.run(all_of_them()):
        with torch.inference_mode():
            full = thinker.score(encoded)[-len(logprobs) :].float().cpu().numpy()
        gaps += np.abs(full - np.array(logprobs)).tolist()
    return gaps


def test_log_probabilities_over_three_relistens(omni: Path, engine: VllmEngine) -> None:
    thinker = Thinker.load(omni, dtype=torch.bfloat16, device="cuda")
    gaps = np.array(gaps_of(engine, thinker))
    shares = [np.quantile(gaps, share) for share in (0.5, 0.99)]
    sys.stdout.write(f"gap: mean {gaps.mean():.4f}, median and 99 % {shares}, largest {gaps.max():.4f}, of {len(gaps)}\n")
    assert gaps.mean() < MEAN and gaps.max() < TOLERANCE


def test_greedy_ids_agree_with_the_local_engine(omni: Path, engine: VllmEngine) -> None:
    """Up to a tie in bfloat16: most whole turns are equal."""
    local = LocalEngine(Thinker.load(omni, dtype=torch.bfloat16, device="cuda"))
    contexts = [(n, t, e) for n in (0, 1, 3) for t, e in enumerate(relistening(local.thinker, n, RECORDINGS[n]))]
    asked = [Request(encoded, (), 16, Sampling(), turn, f"{n}") for n, turn, encoded in contexts]

    async def both() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        return [((await engine.generate(each)).ids, (await local.generate(each)).ids) for each in asked]

    pairs = asyncio.run(both())
    local.close()
    equal = sum(a == b for a, b in pairs)
    sys.stdout.write(f"{equal} of {len(pairs)} greedy turns are equal\n")
    assert equal >= 0.7 * len(pairs)


def test_audio_is_really_inserted(omni: Path, engine: VllmEngine) -> None:
    """The same ids about another recording: other log-probabilities, by as much as the thinker says."""
    thinker = Thinker.load(omni, dtype=torch.bfloat16, device="cuda")
    hum = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
    first, second = (relistening(thinker, 0, each)[-1] for each in (noise(2.0, 50), Recording(hum.astype(np.float32))))
    assert first.ids == second.ids
    turns = [asyncio.run(engine.generate(Request(encoded, (), 12, Sampling()))) for encoded in (first, second)]
    with torch.inference_mode():
        crossed = thinker.score(replace(second, ids=second.ids + turns[0].ids))[-12:].float().cpu().numpy()
        own = thinker.score(replace(first, ids=first.ids + turns[0].ids))[-12:].float().cpu().numpy()
    heard = np.array(turns[0].logprobs)
    assert np.abs(own - heard).max() < TOLERANCE
    assert np.abs(crossed - heard).mean() > 5 * np.abs(own - heard).mean()


def test_the_same_seed_draws_the_same(omni: Path, engine: VllmEngine) -> None:
    encoded = relistening(Thinker.load(omni), 0, RECORDINGS[0])[0]
    ids = [asyncio.run(engine.generate(Request(encoded, (), 20, Sampling(1.0, seed=seed)))).ids for seed in (7, 7, 8)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("whole", [True, False])
def test_stop_texts_cut_at_the_same_place(omni: Path, engine: VllmEngine, whole: bool) -> None:
    """Where the written text first holds the stop text, whoever looks for it; the ids behind it were never drawn."""
    encoded = relistening(Thinker.load(omni), 1, RECORDINGS[1])[1]
    drawn = Sampling(1.0, seed=11)  # the likeliest ids of a random model repeat themselves
    free = asyncio.run(engine.generate(Request(encoded, (), 24, drawn)))
    stop = next(a + b for a, b in pairwise(free.pieces[6:]) if a + b not in "".join(free.pieces[:7]))
    at = next(n for n in range(1, 25) if stop in "".join(free.pieces[:n]))
    engine.whole = whole
    try:
        cut = asyncio.run(engine.generate(Request(encoded, (stop,), 24, drawn)))
    finally:
        engine.whole = True
    assert (cut.ids, cut.stop) == (free.ids[:at], TurnStop.TEXT) and len(cut.logprobs) == at
    np.testing.assert_allclose(cut.logprobs, free.logprobs[:at], atol=TOLERANCE)


def test_pushed_weights_are_those_that_sample(omni: Path, engine: VllmEngine, tmp_path: Path) -> None:
    """New weights in the live engine: its log-probabilities follow, and nothing cached of the old ones stays."""
    from safetensors.torch import save_file

    thinker = Thinker.load(omni, dtype=torch.bfloat16, device="cuda")
    kept = {name: weight.clone() for name, weight in thinker.state_dict().items()}
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in thinker.named_parameters():
            if "proj.weight" in name and "visual" not in name:
                weight.add_(torch.randn_like(weight) * weight.std() * 0.3)
    old = gaps_of(engine, thinker)
    save = {f"thinker.{n}": w for n, w in published_weights(thinker, torch.bfloat16).items() if not n.startswith("visual")}
    save_file(save, tmp_path / "new.safetensors")
    engine.push_weights(tmp_path / "new.safetensors")
    new = gaps_of(engine, thinker)
    thinker.load_state_dict(kept)
    save = {f"thinker.{n}": w for n, w in published_weights(thinker, torch.bfloat16).items() if not n.startswith("visual")}
    save_file(save, tmp_path / "old.safetensors")
    engine.push_weights(tmp_path / "old.safetensors")
    assert np.mean(new) < MEAN < np.mean(old)
