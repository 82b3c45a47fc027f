"""The policy loss, in pure functions. Shapes: S sampled tokens of all rows end to end, V vocabulary, scalars ().

Only tokens the transcript marks as sampled come here (law 3), gathered before the logits are made, so there is no padding
and no second mask. Every mean is a sum over what the whole step holds, so that parts of a step add up to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import StrEnum

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from echo_audio.errors import ConfigError
from echo_audio.settings import Settings


class Mean(StrEnum):
    """Over what the loss is averaged."""

    SEQUENCE = "sequence"
    """Each transcript counts the same: the mean of its tokens, then the mean of transcripts (the paper's loss)."""
    TOKEN = "token"
    """Each token counts the same, so long transcripts weigh more."""


class LossSettings(Settings):
    """How the policy loss is made.

    Attributes:
        clip_low: the ratio is held above 1 - clip_low where that would pay.
        clip_high: the ratio is held below 1 + clip_high where that would pay.
        kl_weight: of the distance to the reference; 0 needs no reference (paper: 0.04).
        entropy_weight: of the entropy, which is encouraged (paper: 0).
        mean: over transcripts ("sequence") or over tokens ("token").
        correction_cap: largest weight that corrects for the engine; 0 for no correction.
    """

    clip_low: float = Field(default=0.2, ge=0, le=1)
    clip_high: float = Field(default=0.2, ge=0)
    kl_weight: float = Field(default=0.04, ge=0)
    entropy_weight: float = 0.0
    mean: Mean = Mean.SEQUENCE
    correction_cap: float = Field(default=2.0, ge=0)


def chosen_logprobs(logits: Tensor, chosen: Tensor) -> Tensor:
    """Natural log-probability of each chosen token, at temperature 1.

    Args:
        logits: (S, V); half precision is widened to float32 first.
        chosen: (S,) int64.

    Returns:
        (S,) float32, or float64 for such logits.
    """
    return -F.cross_entropy(_wide(logits), chosen, reduction="none")


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each distribution in nats: (S, V) -> (S,). A logit of -inf, a token ruled out, adds nothing."""
    logs = F.log_softmax(_wide(logits), dim=-1)
    # not torch.special.entr: its gradient at probability 0 is infinite, and infinity times 0 is NaN
    return -(logs.exp() * logs.masked_fill(logs.isneginf(), 0.0)).sum(-1)


def clipped_objective(logprobs: Tensor, old: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """min(rho A, clip(rho, 1 - low, 1 + high) A) of each token (the paper's loss has low = high = eps); to be raised.

    Args:
        logprobs: (S,), of the policy that learns.
        old: (S,), of the policy before this step's updates, computed by the trainer; gets no gradient.
        advantages: (S,), that of its transcript for each token.
    """
    ratio = (logprobs - old.detach()).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def clipped_at(logprobs: Tensor, old: Tensor, advantages: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Where the clip holds the objective, and so stops the gradient: at its low end, at its high end; both (S,) bool."""
    ratio = (logprobs - old).exp()
    return (ratio < 1 - low) & (advantages < 0), (ratio > 1 + high) & (advantages > 0)


_KL_KNEE = 10.0
"""Nats beyond which exp goes on along its tangent: e^88 is infinite in float32, and one such token would end the run."""


def kl_low_variance(logprobs: Tensor, reference: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = reference - logprobs: never negative, its mean over samples is KL(policy || reference).

    (S,), (S,) -> (S,). The estimator called k3; the paper's KL. Where the policy finds a token more than e^10 times less
    likely than the reference does, exp goes on along its tangent: finite for every finite d, and the gradient stays, where
    holding d or the sum to a largest value would let just those tokens go. The other way round it grows as d does.
    """
    d = reference.detach() - logprobs
    below = d.clamp(max=_KL_KNEE)  # so that what is not chosen is finite too, and so is its gradient
    tangent = math.expm1(_KL_KNEE) * (d - _KL_KNEE) + (math.expm1(_KL_KNEE) - _KL_KNEE)
    return torch.where(d > _KL_KNEE, tangent, torch.expm1(below) - below)


def correction(old: Tensor, engine: Tensor, cap: float) -> Tensor:
    """Weights that make up for an engine whose numbers differ from the trainer's: min(exp(old - engine), cap).

    The tokens were drawn by the engine, the gradient takes them for the trainer's; truncation bounds the variance.

    Args:
        old: (S,), log-probabilities by the trainer, of the same weights that the engine had.
        engine: (S,), log-probabilities by the engine as it sampled.
        cap: largest weight.

    Returns:
        (S,), without gradient.
    """
    return (old - engine).detach().exp().clamp(max=cap)


def sequence_mean(values: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """Mean over each row's tokens, summed over rows, divided by the number of rows of the whole step.

    Args:
        values: (S,).
        rows: (S,) int64, from 0, the row of each token; rows are not split between calls.
        n_rows: rows of the whole step, on all processes, those without a token included.

    Returns:
        (), and over the parts of a step these add up to its mean.
    """
    sizes = torch.bincount(rows)
    return (values / sizes[rows]).sum() / n_rows


def token_mean(values: Tensor, n_tokens: int) -> Tensor:
    """The sum of (S,) values divided by the number of sampled tokens of the whole step, on all processes."""
    return values.sum() / n_tokens


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the loss needs of S sampled tokens.

    Args:
        logprobs: (S,), by the policy that learns, with gradient.
        advantages: (S,), of each token's transcript.
        rows: (S,) int64, from 0, each token's transcript.
        old: (S,), by the trainer before this step's updates; None in the first update, where it is `logprobs`.
        engine: (S,), by the engine as it sampled; None without correction.
        reference: (S,), by the reference; None where its weight is 0.
        entropy: (S,), where it is known.
    """

    logprobs: Tensor
    advantages: Tensor
    rows: Tensor
    old: Tensor | None = None
    engine: Tensor | None = None
    reference: Tensor | None = None
    entropy: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Size of a whole optimiser step: over all its micro-batches, and all processes.

    Args:
        n_rows: transcripts.
        n_tokens: sampled tokens.
    """

    n_rows: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Sums over tokens, each (); those of two parts add up.

    Args:
        tokens: how many there are.
        clipped_low: how many the low end of the clip holds.
        clipped_high: how many the high end holds.
        ratio: of probabilities, now to before the step's updates.
        kl: distance to the reference, low-variance.
        entropy: in nats.
        gap: |log-probability by the trainer - by the engine|.
        truncated: how many corrections were cut to the cap.
        gap_max: the largest gap; of two parts, the larger one.
    """

    tokens: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    ratio: Tensor
    kl: Tensor
    entropy: Tensor
    gap: Tensor
    truncated: Tensor
    gap_max: Tensor

    def __add__(self, other: Diagnostics) -> Diagnostics:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Diagnostics(**sums | {"gap_max": torch.maximum(self.gap_max, other.gap_max)})

    def means(self) -> dict[str, float]:
        """Means over tokens by name, and `gap_max`; this waits for the device."""
        n = max(1.0, float(self.tokens))
        means = {f.name: float(getattr(self, f.name)) / n for f in fields(self) if f.name not in ("tokens", "gap_max")}
        return means | {"gap_max": float(self.gap_max)}


def policy_loss(tokens: Tokens, step: Step, settings: LossSettings) -> tuple[Tensor, Diagnostics]:
    """The loss of part of a step, to be lowered, and what to log of it (paper: L of stage 2).

    Returns:
        the loss (), which over the parts of a step adds up to the step's; the sums to log, without gradient.

    Raises:
        ConfigError: the settings need log-probabilities that are not there.
    """
    _check(tokens, settings)
    old = tokens.logprobs.detach() if tokens.old is None else tokens.old
    gains = clipped_objective(tokens.logprobs, old, tokens.advantages, settings.clip_low, settings.clip_high)
    if settings.correction_cap and tokens.engine is not None:
        gains = gains * correction(old, tokens.engine, settings.correction_cap)
    if settings.kl_weight and tokens.reference is not None:
        gains = gains - settings.kl_weight * kl_low_variance(tokens.logprobs, tokens.reference)
    if settings.entropy_weight and tokens.entropy is not None:
        gains = gains + settings.entropy_weight * tokens.entropy
    by_token = settings.mean is Mean.TOKEN
    mean = token_mean(gains, step.n_tokens) if by_token else sequence_mean(gains, tokens.rows, step.n_rows)
    return -mean, diagnose(tokens, settings)


@torch.no_grad()
def diagnose(tokens: Tokens, settings: LossSettings) -> Diagnostics:
    """The sums to log for S tokens; 0 for what is not known."""
    now = tokens.logprobs
    nothing = torch.zeros_like(now)
    old = now if tokens.old is None else tokens.old
    low, high = clipped_at(now, old, tokens.advantages, settings.clip_low, settings.clip_high)
    gap = nothing if tokens.engine is None else old - tokens.engine
    cut = gap.exp() > settings.correction_cap if settings.correction_cap else nothing
    return Diagnostics(
        tokens=torch.ones_like(now).sum(),
        clipped_low=low.sum(),
        clipped_high=high.sum(),
        ratio=(now - old).exp().sum(),
        kl=nothing.sum() if tokens.reference is None else kl_low_variance(now, tokens.reference).sum(),
        entropy=nothing.sum() if tokens.entropy is None else tokens.entropy.sum(),
        gap=gap.abs().sum(),
        truncated=cut.sum() if tokens.engine is not None else nothing.sum(),
        gap_max=torch.cat([gap.abs(), now.new_zeros(1)]).max(),  # a part may hold no token
    )


def _check(tokens: Tokens, settings: LossSettings) -> None:
    if settings.kl_weight and tokens.reference is None:
        raise ConfigError("kl_weight needs the reference's log-probabilities; compute them, or set kl_weight to 0")
    if settings.correction_cap and tokens.engine is None:
        raise ConfigError("correction_cap needs the engine's log-probabilities; keep them, or set it to 0")
    if settings.entropy_weight and tokens.entropy is None:
        raise ConfigError("entropy_weight needs the entropy of each token; compute it, or set entropy_weight to 0")


def _wide(values: Tensor) -> Tensor:
    """At least float32: log-probabilities in half precision are off by whole percents."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
