"""Drawing tokens for many rows at once, each with its own temperature, top-p and random state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from echo_audio.listen import Sampling


def random_state(sampling: Sampling, turn: int) -> np.random.Generator:
    """The random state of one turn of one transcript; nothing else enters, so batches cannot change a result."""
    return np.random.default_rng([sampling.seed % 2**63, turn])


def draw(
    logits_BV: Tensor, how: Sequence[Sampling], states: Sequence[np.random.Generator]
) -> tuple[list[int], list[float]]:
    """One token a row.

    Args:
        logits_BV: float32; -inf where nothing may be drawn.
        how: temperature and top-p of each row.
        states: random state of each row; greedy rows leave theirs untouched.

    Returns:
        The ids, and their log-probabilities at temperature 1 without top-p.
    """
    logprobs = logits_BV.log_softmax(-1)
    ids = logits_BV.argmax(-1)
    hot = [i for i, s in enumerate(how) if s.temperature > 0]
    if hot:
        at = torch.tensor(hot, device=logits_BV.device)
        temperature = torch.tensor([how[i].temperature for i in hot], device=at.device)
        top_p = torch.tensor([how[i].top_p for i in hot], device=at.device)
        chance = torch.tensor([states[i].random() for i in hot], dtype=torch.float32, device=at.device)
        ids[at] = _draw_hot(logits_BV[at] / temperature[:, None], top_p, chance)
    picked = logprobs.gather(1, ids[:, None])[:, 0]
    return ids.tolist(), picked.tolist()


def _draw_hot(logits_BV: Tensor, top_p: Tensor, chance: Tensor) -> Tensor:
    """Inverse-transform sampling from the smallest set of tokens whose mass reaches top_p."""
    mass, order = torch.sort(logits_BV.softmax(-1), dim=-1, descending=True, stable=True)
    before = mass.cumsum(-1) - mass
    mass = mass.masked_fill(before >= top_p[:, None], 0.0)
    mass[:, 0] = mass[:, 0].clamp(min=1e-30)
    cumulative = mass.cumsum(-1)
    target = chance[:, None] * cumulative[:, -1:]
    index = (cumulative <= target).sum(-1, keepdim=True).clamp(max=logits_BV.shape[1] - 1)
    last = (mass > 0).sum(-1, keepdim=True) - 1
    return order.gather(1, torch.minimum(index, last))[:, 0]
