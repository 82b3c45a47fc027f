"""Settings of GRPO runs that take seconds, and a reward that even a random model earns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from echo_audio.scoring import rewards
from echo_audio.training import grpo
from echo_audio.training.grpo_settings import GrpoSettings
from echo_audio.training.grpo_state import Position
from echo_audio.training.parallel import Crew, whole
from echo_audio.training.update import learned

SHORT = "short"


def short(sample: rewards.Sample) -> float:
    """Ending early: 1 for nothing, 0 for 40 tokens."""
    return 1.0 - sample.transcript.n_sampled / 40


def small(folder: Path, out: Path, *overrides: str) -> GrpoSettings:
    """Two prompts of two transcripts of 24 tokens, exact, so that a run can be compared with another."""
    given = (
        f"out={out}", f"model.source={folder}", "data.longest_s=4.5", "data.n_rows=50",
        "rollout.prompts=2", "rollout.group=2", "rollout.max_new_tokens=24", "rollout.exact=true",
        "train.steps=4", "train.learning_rate=1e-3", "train.batch_tokens=1024", "train.save_every=1",
        "reward.weights={short=1.0}", *overrides,
    )  # fmt: skip
    return GrpoSettings.parse("", given)


def lines_of(out: str | Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """A JSON-lines file of a run."""
    return [json.loads(line) for line in (Path(out) / name).read_text(encoding="utf-8").splitlines()]


def untimed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What does not depend on the machine, nor on where the run was stopped."""
    return [
        {k: v for k, v in line.items() if not k.endswith("_s") or k == "heard_s" if k not in ("tokens_per_s", "reused_rollouts")}
        for line in lines
    ]


def gradients_of(folder: Path, out: Path, *overrides: str) -> dict[str, Any]:
    """Loss, gradients and their norm for six transcripts, each with an advantage that follows from its place."""
    out.mkdir(exist_ok=True)
    how = ("rollout.prompts=2", "rollout.group=3", "rollout.max_new_tokens=30")
    run = grpo.GrpoRun(small(folder, out, *how, *overrides), Crew(), None, grpo.Watch())
    run.sampling.sync()
    groups, _ = run.sample(0)
    items = [learned(r, 1.5 * r.key.slot - r.key.number, run.family.token_bytes) for group in groups for r in group.rollouts]
    run.updater.score(items)
    loss, _ = run.updater.accumulate(items)
    run.close()
    gradients = {name: whole(weight.grad) for name, weight in run.policy.trained().items() if weight.grad is not None}
    norm = torch.nn.utils.clip_grad_norm_(run.updater.parameters, 1e9)
    return {"loss": loss, "gradients": gradients, "norm": float(whole(norm)), "restored": _restored(run)}


def _restored(run: grpo.GrpoRun) -> bool:
    """Whether a checkpoint brings back weights and moments after both were changed."""
    updater = run.updater
    updater.optimiser.step()
    run.checkpoints.save(updater, Position(1, 1))
    states = [whole(state[kind]).clone() for state in updater.optimiser.state.values() for kind in ("exp_avg", "exp_avg_sq")]
    before = [*(whole(weight).clone() for weight in updater.parameters), *states]
    with torch.no_grad():
        for weight in updater.parameters:
            weight.mul_(2.0)
    updater.optimiser.state.clear()
    place = run.checkpoints.load(updater)
    states = [whole(state[kind]) for state in updater.optimiser.state.values() for kind in ("exp_avg", "exp_avg_sq")]
    after = [*map(whole, updater.parameters), *states]
    return place == Position(1, 1) and len(after) == len(before) and all(map(torch.equal, before, after))
