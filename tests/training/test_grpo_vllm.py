"""GRPO with rollout.engine=vllm, against the fake: new weights reach the live engine, adapters folded in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_vllm import FAKE, FakeLLM
from grpo_helpers import SHORT, lines_of, small
from safetensors.torch import load_file

from echo_audio.engines.vllm import VllmEngine
from echo_audio.errors import ConfigError
from echo_audio.models.thinker import Thinker, published_parts
from echo_audio.scoring import rewards
from echo_audio.training import adapters, grpo
from echo_audio.training.parallel import Crew
from echo_audio.training.policy import make_policy
from echo_audio.training.sync import VllmSampling

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def uneven(sample: rewards.Sample) -> float:
    """A reward that differs within a group, so that there is something to learn."""
    return sum(map(ord, sample.transcript.response)) % 7 / 7


class Receiving(FakeLLM):
    """Reads pushed weights as vLLM's worker does, unless it is told to ignore them."""

    ignores = False

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        await super().collective_rpc(method, args)
        new = load_file(args[0])
        if not self.ignores:
            with torch.no_grad():
                for prefix, part in published_parts(self.thinker):
                    for name, weight in part.named_parameters():
                        if (full := f"thinker.{prefix}{name}") in new:
                            weight.copy_(new.pop(full))
            assert not new, f"weights that the engine does not have: {sorted(new)}"
        return [len(load_file(args[0]))]


def loader(fakes: list[Receiving], *, ignores: bool = False):
    def load(source: str, **_: Any) -> VllmEngine:
        thinker = Thinker.load(source)
        fake = Receiving(thinker)
        fake.ignores = ignores
        fakes.append(fake)
        return VllmEngine(lambda: fake, thinker.family, FAKE, workers=1)

    return load


@pytest.fixture(autouse=True)
def _easy(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setitem(rewards.REWARDS, SHORT, uneven)


def run(folder: Path, out: Path, monkeypatch, *, ignores: bool = False, rank: int = 0) -> tuple[list[dict[str, Any]], Receiving]:
    fakes: list[Receiving] = []
    make = loader(fakes, ignores=ignores)
    monkeypatch.setattr(grpo, "sampling_of", lambda policy, settings, crew: VllmSampling(policy, settings, crew, load=make))
    how = ("rollout.engine=vllm", "rollout.exact=false", "rollout.max_new_tokens=12", "train.steps=2", "train.learning_rate=1e-2")
    grpo.train(small(folder, out, *how, f"model.lora_rank={rank}"))
    return lines_of(out), fakes[0]


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_steps_with_new_weights_in_the_live_engine(folder, tmp_path, monkeypatch, rank):
    lines, fake = run(folder, tmp_path / "run", monkeypatch, rank=rank)
    assert len(lines) == 2
    assert all(line["reward_deviation"] > 0 for line in lines)
    assert all(line["gap_max"] < 0.05 for line in lines), "the engine rounds to bfloat16, no more"
    names = [call if isinstance(call, str) else call[0] for call in fake.calls]
    assert names == ["echo_take_weights", "prefix", "encoder"] * 3 + ["shutdown"]


def test_an_engine_that_keeps_old_weights_shows_in_the_gap(folder, tmp_path, monkeypatch):
    lines, _ = run(folder, tmp_path / "run", monkeypatch, ignores=True)
    assert lines[0]["gap_max"] < 1e-3 < 0.05 < lines[1]["gap_max"]


def test_learned_weights_are_those_of_a_merge_and_leave_the_policy(folder):
    torch.manual_seed(0)
    thinker = Thinker.load(folder)
    adapters.attach(thinker, 4, 8.0)
    with torch.no_grad():
        for name, weight in thinker.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    before = {name: weight.clone() for name, weight in thinker.state_dict().items()}
    learned = dict(adapters.learned_weights(thinker))
    assert all(torch.equal(weight, before[name]) for name, weight in thinker.state_dict().items())
    adapters.merge(thinker)
    merged = {prefix + name: weight for prefix, part in published_parts(thinker) for name, weight in part.named_parameters()}
    assert len(learned) == 7 * 2
    for name, weight in learned.items():
        torch.testing.assert_close(weight, merged[name])


def test_what_it_cannot_do_is_refused(folder, tmp_path):
    settings = small(folder, tmp_path / "run", "rollout.engine=vllm", "rollout.exact=true")
    crew = Crew()
    with pytest.raises(ConfigError, match=r"rollout\.engine=local"):
        VllmSampling(make_policy(settings, crew), settings, crew)
    assert asyncio.iscoroutinefunction(VllmEngine.generate)
