"""The policy loss: values by hand, gradients by finite differences, and what must change nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from echo_audio.errors import ConfigError
from echo_audio.training.advantages import group_advantages
from echo_audio.training.losses import (
    LossSettings,
    Mean,
    Step,
    Tokens,
    chosen_logprobs,
    clipped_at,
    clipped_objective,
    correction,
    entropy,
    kl_low_variance,
    policy_loss,
    sequence_mean,
    token_mean,
)

LENGTHS = (3, 1, 5, 2, 4, 6, 2, 7)
V = 11


def logs(*ratios: float) -> torch.Tensor:
    return torch.tensor(ratios, dtype=torch.float64).log()


def tokens_of(rows, *, seed: int = 0) -> Tokens:
    """The tokens of some of eight transcripts of one group; each row's numbers are its own, whatever the others."""
    rewards = torch.tensor([[0.0, 1.0, 0.5, 0.0, 1.5, 1.0, 0.5, 1.0]])
    advantages = group_advantages(rewards).values[0].double()
    parts = [torch.randn(4, LENGTHS[row], generator=torch.Generator().manual_seed(seed + row)).double() for row in rows]
    drawn = torch.cat(parts, dim=1)
    now = drawn[0] - 3
    return Tokens(
        logprobs=now.requires_grad_(),
        advantages=torch.cat([advantages[row].repeat(LENGTHS[row]) for row in rows]),
        rows=torch.cat([torch.full((LENGTHS[row],), i) for i, row in enumerate(rows)]),
        old=now.detach() + 0.3 * drawn[1],
        engine=now.detach() + 0.3 * drawn[1] + 0.5 * drawn[2],
        reference=now.detach() + 0.5 * drawn[3],
    )


STEP = Step(len(LENGTHS), sum(LENGTHS))


def test_chosen_logprobs_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)], [2.0, 2.0]])
    assert torch.allclose(chosen_logprobs(logits, torch.tensor([1, 0])), torch.tensor([0.75, 0.5]).log())


def test_half_precision_is_widened():
    logits = torch.tensor([[0.0, math.log(3.0)]]).bfloat16()
    got = chosen_logprobs(logits, torch.tensor([1]))
    assert got.dtype == torch.float32
    assert torch.equal(got, chosen_logprobs(logits.float(), torch.tensor([1])))


def test_entropy_by_hand():
    never = -math.inf
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, never, never, never], [0.0, math.log(3.0), never, never]])
    mixed = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert torch.allclose(entropy(logits), torch.tensor([math.log(4), 0.0, mixed]))


def test_a_token_that_is_ruled_out_leaves_the_gradient_of_the_entropy_finite():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
    entropy(torch.cat([logits, torch.full((3, 2), -math.inf)], dim=1)).sum().backward()
    ruled_out = logits.grad.clone()
    logits.grad = None
    entropy(logits).sum().backward()
    assert logits.grad.abs().max() > 0.01
    assert torch.allclose(ruled_out, logits.grad)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "low", "high"),
    [
        (1.0, 2.0, 2.0, False, False),
        (1.5, 2.0, 2.6, False, True),  # no more than 1.3 pays
        (1.5, -2.0, -3.0, False, False),  # a bad token that grew is punished in full
        (0.5, 2.0, 1.0, False, False),
        (0.5, -2.0, -1.8, True, False),  # no less than 0.9 pays
        (0.95, -2.0, -1.9, False, False),
    ],
)
def test_clip_by_hand(ratio, advantage, value, low, high):
    now, old, a = logs(ratio), logs(1.0), torch.tensor([advantage], dtype=torch.float64)
    assert clipped_objective(now, old, a, 0.1, 0.3).item() == pytest.approx(value)
    assert [x.item() for x in clipped_at(now, old, a, 0.1, 0.3)] == [low, high]


def test_kl_by_hand():
    got = kl_low_variance(logs(0.5, 0.5, 0.25), logs(0.5, 0.25, 0.5))
    assert torch.allclose(got, torch.tensor([0.0, 0.5 + math.log(2) - 1, 2 - math.log(2) - 1], dtype=torch.float64))


def test_kl_of_a_token_that_was_all_but_given_up_stays_finite():
    """Up to ten nats it is k3; beyond, (e^10 - 11) + (e^10 - 1) (d - 10), and the gradient stays that of ten nats."""
    now = torch.tensor([-0.001, -5.0, -10.0, -200.0], requires_grad=True)
    got = kl_low_variance(now, torch.zeros(4))
    at_ten = math.exp(10) - 11
    beyond = at_ten + (math.exp(10) - 1) * 190
    assert got.tolist() == pytest.approx([math.exp(0.001) - 1.001, math.exp(5) - 6, at_ten, beyond], rel=1e-6, abs=1e-9)
    got.sum().backward()
    assert now.grad.tolist() == pytest.approx([1 - math.exp(d) for d in (0.001, 5, 10, 10)], rel=1e-4)


def test_kl_is_on_average_the_divergence():
    p, q = torch.tensor([0.2, 0.5, 0.3]).double(), torch.tensor([0.4, 0.4, 0.2]).double()
    assert (p * kl_low_variance(p.log(), q.log())).sum().item() == pytest.approx((p * (p / q).log()).sum().item())


def test_correction_is_truncated_and_has_no_gradient():
    old = logs(0.5, 0.5, 0.1).requires_grad_()
    weights = correction(old, logs(0.5, 0.1, 0.4), 2.0)
    assert torch.allclose(weights, torch.tensor([1.0, 2.0, 0.25], dtype=torch.float64))
    assert not weights.requires_grad


def test_means_by_hand():
    values, rows = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([0, 0, 0, 1])
    assert sequence_mean(values, rows, 2).item() == pytest.approx((2 + 10) / 2)
    assert sequence_mean(values, rows, 4).item() == pytest.approx((2 + 10) / 4)  # two rows are elsewhere
    assert token_mean(values, 4).item() == pytest.approx(4)


def test_the_loss_by_hand():
    tokens = Tokens(
        logprobs=logs(0.6, 0.2, 0.5),
        advantages=torch.tensor([1.0, 1.0, -1.0]).double(),
        rows=torch.tensor([0, 0, 1]),
        old=logs(0.4, 0.2, 0.5),
        engine=logs(0.4, 0.1, 0.4),
        reference=logs(0.6, 0.2, 1.0),
    )
    settings = LossSettings(kl_weight=0.1, correction_cap=1.5)
    gains = [1.2, 1.0 * 1.5, -1.25 - 0.1 * (2 - math.log(2) - 1)]
    loss, seen = policy_loss(tokens, Step(2, 3), settings)
    assert loss.item() == pytest.approx(-((gains[0] + gains[1]) / 2 + gains[2]) / 2)
    by_token, _ = policy_loss(tokens, Step(2, 3), settings.model_copy(update={"mean": Mean.TOKEN}))
    assert by_token.item() == pytest.approx(-sum(gains) / 3)
    assert seen.means() == pytest.approx(
        {
            "clipped_low": 0,
            "clipped_high": 1 / 3,
            "ratio": 3.5 / 3,
            "kl": (1 - math.log(2)) / 3,
            "entropy": 0,
            "gap": (math.log(2) + math.log(1.25)) / 3,
            "truncated": 1 / 3,
            "gap_max": math.log(2),
        }
    )


def test_the_first_update_has_the_gradient_of_reinforce():
    tokens = replace(tokens_of([0]), old=None)
    loss, _ = policy_loss(tokens, Step(1, 3), LossSettings(kl_weight=0.0, correction_cap=0.0))
    loss.backward()
    assert torch.allclose(tokens.logprobs.grad, -tokens.advantages / 3)


def test_a_clipped_token_has_no_gradient():
    now = logs(1.5, 1.1).requires_grad_()
    clipped_objective(now, logs(1.0, 1.0), torch.ones(2).double(), 0.2, 0.2).sum().backward()
    assert now.grad.tolist() == pytest.approx([0.0, 1.1])


@pytest.mark.parametrize("mean", list(Mean))
def test_gradients_by_finite_differences(mean):
    tokens = tokens_of([0, 1, 3])
    logits = torch.randn(6, V, generator=torch.Generator().manual_seed(9)).double().requires_grad_()
    chosen = torch.arange(6)
    before = chosen_logprobs(logits, chosen).detach()
    settings = LossSettings(mean=mean, entropy_weight=0.1)

    def loss(values):
        moved = replace(tokens, logprobs=chosen_logprobs(values, chosen), old=before - 0.05, engine=before,
                        reference=before + 0.2, entropy=entropy(values))  # fmt: skip
        return policy_loss(moved, STEP, settings)[0]

    assert torch.autograd.gradcheck(loss, (logits,))


@pytest.mark.parametrize("mean", list(Mean))
def test_eight_parts_of_one_row_are_one_of_eight(mean):
    settings = LossSettings(mean=mean)
    whole = tokens_of(range(8))
    loss, seen = policy_loss(whole, STEP, settings)
    loss.backward()
    parts = [tokens_of([row]) for row in range(8)]
    losses, sums = zip(*(policy_loss(part, STEP, settings) for part in parts), strict=True)
    for one in losses:
        one.backward()
    assert torch.allclose(sum(losses), loss)
    assert torch.allclose(torch.cat([part.logprobs.grad for part in parts]), whole.logprobs.grad)
    assert sum(sums[1:], sums[0]).means() == pytest.approx(seen.means())


@pytest.mark.parametrize("mean", list(Mean))
def test_permuting_a_group_changes_nothing(mean):
    settings = LossSettings(mean=mean)
    straight, _ = policy_loss(tokens_of(range(8)), STEP, settings)
    permuted, _ = policy_loss(tokens_of([5, 2, 7, 0, 1, 6, 4, 3]), STEP, settings)
    assert torch.allclose(straight, permuted)


def test_padding_changes_nothing():
    logits = torch.randn(2, 4, V, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    sampled = torch.tensor([[True] * 4, [True, True, False, False]])
    longer = torch.cat([logits, torch.full((2, 3, V), 99.0)], dim=1)
    wide = torch.cat([sampled, torch.zeros(2, 3, dtype=torch.bool)], dim=1)

    def loss(scores, mask):
        now = chosen_logprobs(scores[mask], ids[sampled])
        tokens = Tokens(now, torch.tensor([1.0, -1.0])[mask.nonzero()[:, 0]], mask.nonzero()[:, 0])
        return policy_loss(tokens, Step(2, 6), LossSettings(kl_weight=0.0, correction_cap=0.0))[0]

    assert torch.equal(loss(logits, sampled), loss(longer, wide))


def test_a_part_without_tokens_adds_nothing():
    empty = torch.zeros(0)
    loss, seen = policy_loss(Tokens(empty, empty, empty.long(), engine=empty, reference=empty), STEP, LossSettings())
    assert loss.item() == 0 and seen.means()["gap_max"] == 0


def test_what_is_missing_is_named():
    tokens = tokens_of([0])
    with pytest.raises(ConfigError, match="kl_weight"):
        policy_loss(replace(tokens, reference=None), STEP, LossSettings())
    with pytest.raises(ConfigError, match="correction_cap"):
        policy_loss(replace(tokens, engine=None), STEP, LossSettings())
    with pytest.raises(ConfigError, match="entropy_weight"):
        policy_loss(tokens, STEP, LossSettings(entropy_weight=0.1))


@pytest.mark.parametrize("wrong", ["clip_low=1.5", "clip_high=-0.1", "kl_weight=-1.0", "correction_cap=-1.0", "mean=row"])
def test_a_setting_out_of_range_is_named(wrong):
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        LossSettings.parse("", [wrong])
