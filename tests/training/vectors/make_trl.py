"""Losses, gradients and advantages as TRL's own GRPOTrainer computes them, for tests/training/test_against_trl.py.

TRL is not among what Echo needs. Once, in an environment that has torch and transformers:

    python -m pip install trl==1.16.0 && python tests/training/vectors/make_trl.py > tests/training/vectors/trl.json

The loss is `GRPOTrainer._compute_loss`, called on a stand-in that gives it log-probabilities instead of a model. Advantages
and the correction for the engine stand inside a long method there; those statements are taken out by their syntax tree.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections import defaultdict
from types import SimpleNamespace

import torch
import trl
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

LENGTHS = (3, 1, 5, 2, 4, 6, 2, 7)
CASES = {
    "paper: one update, KL": {"beta": 0.04},
    "several updates, no KL": {"beta": 0.0, "old": True},
    "several updates, KL": {"beta": 0.04, "old": True},
    "clip with two ends": {"beta": 0.0, "old": True, "low": 0.1, "high": 0.3},
    "engine corrected, KL": {"beta": 0.04, "old": True, "engine": True, "cap": 2.0},
    "engine corrected, a low cap": {"beta": 0.0, "old": True, "engine": True, "cap": 1.1},
    "mean over tokens": {"beta": 0.04, "old": True, "loss_type": "bnpo"},
}
REWARDS = {
    "mixed": [[1.5, 0.5, 1.5, 0.4], [0.0, 0.0, 1.0, 0.0]],
    "flat": [[0.5, 0.5, 0.5, 0.5], [0.0, 1.0, 0.0, 1.0]],
    "eight": [[0.0, 1.0, 0.5, 0.0, 1.5, 1.0, 0.5, 1.0]],
}


def statement(condition: str, sets: str) -> ast.If:
    """The `if` of TRL's sampling method whose condition begins so and whose body sets this name."""
    source = textwrap.dedent(inspect.getsource(GRPOTrainer._generate_and_score_completions))
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.If) and ast.unparse(node.test).startswith(condition)):
            continue
        if any(f"{sets} = " in ast.unparse(line) for line in node.body):
            return node
    raise LookupError(f"this TRL has no such statement: if {condition}")


def run(node: ast.stmt, names: dict) -> dict:
    """Run one statement of TRL's with these names, and give all names back."""
    exec(compile(ast.Module([node], []), "trl", "exec"), vars(grpo_trainer), names)
    return names


def advantages(rewards: list[list[float]], scale: str) -> list[list[float]]:
    rows = torch.tensor(rewards, dtype=torch.float64)
    this = SimpleNamespace(
        multi_objective_aggregation="sum_then_normalize", reward_weights=torch.ones(1, dtype=torch.float64), scale_rewards=scale
    )
    names = {
        "self": this, "rewards_per_func": rows.reshape(-1, 1), "device": "cpu", "num_generations": rows.shape[1],
        "unscorable_mask": torch.zeros(rows.numel(), dtype=torch.bool),
    }  # fmt: skip
    made = run(statement("self.multi_objective_aggregation", "advantages"), names)["advantages"]
    return made.view_as(rows).tolist()


def corrected(old: torch.Tensor, engine: torch.Tensor, mask: torch.Tensor, cap: float) -> torch.Tensor:
    this = SimpleNamespace(
        use_vllm=True, vllm_importance_sampling_correction=True, vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_min=None, vllm_importance_sampling_clip_max=cap,
    )  # fmt: skip
    names = {
        "self": this, "old_per_token_logps": old, "sampling_per_token_logps": engine, "completion_mask": mask, "tool_mask": None,
    }  # fmt: skip
    ratio = "vllm_importance_sampling_ratio"
    return run(statement("self.use_vllm and self.vllm_importance_sampling_correction", ratio), names)[ratio]


def loss_of(case: dict) -> dict:
    """A loss and its gradient by the log-probabilities, with the numbers it was made from, row by row."""
    torch.manual_seed(5)
    shape = (len(LENGTHS), max(LENGTHS))
    mask = torch.stack([(torch.arange(shape[1]) < n).long() for n in LENGTHS])
    drawn = torch.randn(4, *shape, dtype=torch.float64)
    now = (drawn[0] - 3).requires_grad_()
    old = now.detach() + 0.3 * drawn[1]
    engine, reference = old + 0.5 * drawn[2], now.detach() + 0.5 * drawn[3]
    values = torch.tensor(advantages(REWARDS["eight"], "group")[0], dtype=torch.float64)
    inputs = {
        "prompt_ids": torch.zeros(shape[0], 1, dtype=torch.long), "prompt_mask": torch.ones(shape[0], 1, dtype=torch.long),
        "completion_ids": torch.zeros(shape, dtype=torch.long), "completion_mask": mask, "advantages": values,
        "ref_per_token_logps": reference,
    }  # fmt: skip
    if case.get("old"):
        inputs["old_per_token_logps"] = old
    if case.get("engine"):
        inputs["importance_sampling_ratio"] = corrected(old, engine, mask, case["cap"])
    this = stand_in(case, now)
    loss = GRPOTrainer._compute_loss(this, None, inputs)
    loss.backward()
    rows = {"logprobs": now, "old": old, "engine": engine, "reference": reference, "gradient": now.grad}
    cut = {name: [row[:n].tolist() for row, n in zip(some, LENGTHS, strict=True)] for name, some in rows.items()}
    kl = this._metrics["train"].get("kl", [0.0])[0]
    return {"how": case, **cut, "advantages": values.tolist(), "loss": loss.item(), "kl": kl,
            "clipped_low": this._metrics["train"]["clip_ratio/low_mean"][0],
            "clipped_high": this._metrics["train"]["clip_ratio/high_mean"][0]}  # fmt: skip


def stand_in(case: dict, now: torch.Tensor) -> SimpleNamespace:
    """What `_compute_loss` reads of a trainer."""
    alone = SimpleNamespace(
        num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction="sum": x,
        sync_gradients=True,
    )  # fmt: skip
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (now, torch.zeros_like(now), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token",
        beta=case["beta"], loss_type=case.get("loss_type", "grpo"), epsilon_low=case.get("low", 0.2),
        epsilon_high=case.get("high", 0.2), use_vllm=bool(case.get("engine")), vllm_importance_sampling_correction=True,
        current_gradient_accumulation_steps=1, max_completion_length=max(LENGTHS), accelerator=alone,
        model=SimpleNamespace(training=True), _metrics={"train": defaultdict(list)}, _entropy_bonus_enabled=False,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
    )  # fmt: skip


def main() -> None:
    scaled = {"group": "deviation", "none": "none"}
    made = {
        "made_by": f"trl {trl.__version__}",
        "advantages": [
            {"rewards": rows, "scale": ours, "values": advantages(rows, theirs)}
            for rows in REWARDS.values()
            for theirs, ours in scaled.items()
        ],
        "losses": {name: loss_of(case) for name, case in CASES.items()},
    }
    json.dump(made, sys.stdout, indent=None)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
