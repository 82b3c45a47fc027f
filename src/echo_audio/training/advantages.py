"""Rewards of groups -> advantages. Shapes: P prompts, G transcripts of each.

A group whose rewards are all equal teaches nothing; it is flagged, so that a run can count such groups and draw others.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from echo_audio.errors import TrainingError

EPS = 1e-6
"""Added to the deviation, so that a group of almost equal rewards is not blown up without bound."""

_EQUAL = 1e-4
"""Rewards this close are equal: what differs by rounding only (sums of the same parts, a measured `audio_gain` of nothing) must
not be divided by its own deviation, which would make it an advantage of full size."""


class Scale(StrEnum):
    """What the distance from the group's mean is divided by."""

    DEVIATION = "deviation"
    """By the group's deviation: GRPO, and the paper."""
    NONE = "none"
    """By nothing: easy and hard prompts keep their own weight."""


@dataclass(frozen=True, slots=True)
class Advantages:
    """Advantages of P groups.

    Args:
        values: (P, G) float32; zero throughout a flat group.
        flat: (P,) bool, groups without variance.
    """

    values: Tensor
    flat: Tensor

    @property
    def n_flat(self) -> int:
        """Number of groups without variance."""
        return int(self.flat.sum())


def group_advantages(rewards: Tensor, scale: Scale = Scale.DEVIATION, eps: float = EPS) -> Advantages:
    """(r - mean) / (deviation + eps) within each group, or r - mean (paper: the group-normalised advantage).

    The deviation is the sample's, with G - 1 below, as torch has it by default.

    Args:
        rewards: (P, G), finite.
        scale: what to divide by.
        eps: added to the deviation.

    Raises:
        TrainingError: not (P, G), G below 2, or a reward that is not finite.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise TrainingError(f"rewards of shape {tuple(rewards.shape)}; a group needs at least 2 transcripts of one prompt")
    if not bool(torch.isfinite(rewards).all()):
        raise TrainingError("a reward is not finite; look at the transcripts of this step for the part that is not")
    exact = rewards.double()
    centred = exact - exact.mean(dim=1, keepdim=True)
    flat = exact.amax(dim=1) - exact.amin(dim=1) <= _EQUAL
    values = centred / (exact.std(dim=1, keepdim=True) + eps) if scale is Scale.DEVIATION else centred
    return Advantages(values.masked_fill(flat[:, None], 0.0).float(), flat)
