"""Advantages and losses against TRL's own GRPOTrainer, where it is the same formula (vectors/make_trl.py made the numbers)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from echo_audio.training.advantages import Scale, group_advantages
from echo_audio.training.losses import LossSettings, Mean, Step, Tokens, policy_loss

VECTORS = json.loads((Path(__file__).parent / "vectors/trl.json").read_text())
TRL_EPS = 1e-4
"""What TRL adds to the deviation; ours is an argument."""


@pytest.mark.parametrize("case", VECTORS["advantages"], ids=lambda case: f"{case['scale']}-{len(case['rewards'][0])}")
def test_advantages(case):
    made = group_advantages(torch.tensor(case["rewards"], dtype=torch.float64), Scale(case["scale"]), eps=TRL_EPS)
    assert torch.allclose(made.values, torch.tensor(case["values"]), atol=1e-6)


def joined(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.float64)


@pytest.mark.parametrize("name", VECTORS["losses"])
def test_losses_and_gradients(name):
    case = VECTORS["losses"][name]
    how = case["how"]
    lengths = [len(row) for row in case["logprobs"]]
    rows = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    now = joined(case["logprobs"]).requires_grad_()
    tokens = Tokens(
        logprobs=now,
        advantages=torch.tensor(case["advantages"], dtype=torch.float64)[rows],
        rows=rows,
        old=joined(case["old"]) if how.get("old") else None,
        engine=joined(case["engine"]) if how.get("engine") else None,
        reference=joined(case["reference"]) if how["beta"] else None,
    )
    settings = LossSettings(
        clip_low=how.get("low", 0.2), clip_high=how.get("high", 0.2), kl_weight=how["beta"], correction_cap=how.get("cap", 0.0),
        mean=Mean.TOKEN if how.get("loss_type") == "bnpo" else Mean.SEQUENCE,
    )  # fmt: skip
    loss, seen = policy_loss(tokens, Step(len(lengths), sum(lengths)), settings)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=1e-12)
    assert torch.allclose(now.grad, joined(case["gradient"]), atol=1e-12)
    means = seen.means()
    assert (means["clipped_low"], means["clipped_high"]) == pytest.approx((case["clipped_low"], case["clipped_high"]), abs=1e-6)
    assert means["kl"] == pytest.approx(case["kl"], abs=1e-9)


def test_the_cases_are_about_something():
    losses = VECTORS["losses"].values()
    assert any(case["clipped_low"] > 0 for case in losses) and any(case["clipped_high"] > 0 for case in losses)
    assert len({round(case["loss"], 9) for case in losses}) == len(losses)
