"""Advantages of groups, by hand and under permutation."""

from __future__ import annotations

import math

import pytest
import torch

from echo_audio.errors import TrainingError
from echo_audio.training.advantages import Scale, group_advantages


def test_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 2.5]])
    values = group_advantages(rewards, eps=0.0).values
    one = 0.5 / math.sqrt(1 / 3)  # variance with G - 1 below: 4 * 0.25 / 3
    assert torch.allclose(values, torch.tensor([[one, -one, -one, one], [-0.5, -0.5, -0.5, 1.5]]))  # deviation 1


def test_eps_is_added_to_the_deviation():
    values = group_advantages(torch.tensor([[0.0, 0.0, 0.0, 2.0]]), eps=1.0).values
    assert torch.allclose(values, torch.tensor([[-0.25, -0.25, -0.25, 0.75]]))


def test_mean_only():
    values = group_advantages(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), Scale.NONE).values
    assert torch.allclose(values, torch.tensor([[0.5, -0.5], [1.5, -1.5]]))


@pytest.mark.parametrize("scale", list(Scale))
def test_groups_without_variance_are_flagged_and_give_nothing(scale):
    parts = 0.1 + 0.2
    rewards = [[0.3, parts, 0.3], [0.0, 0.0, 1.0], [0.0, 5e-6, -8e-6]]  # the last as audio_gain measures nothing at all
    got = group_advantages(torch.tensor(rewards, dtype=torch.float64), scale)
    assert got.flat.tolist() == [True, False, True] and got.n_flat == 2
    assert got.values[0].tolist() == got.values[2].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("scale", list(Scale))
def test_permuting_a_group_permutes_its_advantages(scale):
    rewards = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    straight, permuted = group_advantages(rewards, scale), group_advantages(rewards[:, order], scale)
    assert torch.allclose(straight.values[:, order], permuted.values, atol=1e-6)
    assert torch.allclose(straight.values.sum(dim=1), torch.zeros(5), atol=1e-5)


def test_what_cannot_be_a_group_is_refused():
    with pytest.raises(TrainingError, match="at least 2"):
        group_advantages(torch.zeros(3, 1))
    with pytest.raises(TrainingError, match="at least 2"):
        group_advantages(torch.zeros(3))
    with pytest.raises(TrainingError, match="not finite"):
        group_advantages(torch.tensor([[0.0, math.nan]]))
