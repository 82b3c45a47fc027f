"""Drawing tokens for many rows at once, each with its own temperature, top-p and random state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from echo_audio.listen import Sampling

_COLDEST = 1e-4
"""Lower temperatures are greedy in float32, but would overflow on the way."""


_BELOW_ONE = 1 - 2**-23
"""Highest chance: in float32 its product with a mass is always under the mass, so that a token with mass is found."""


def random_state(sampling: Sampling, turn: int) -> np.random.Generator:
    """The random state of one turn of one transcript; nothing else enters, so batches cannot change a result."""
    return np.random.default_rng([sampling.seed % 2**63, turn])


def seed_of(sampling: Sampling, turn: int) -> int:
    """The seed of one turn of one transcript, for engines that draw themselves."""
    state = np.random.SeedSequence([sampling.seed % 2**63, turn]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def draw(
    logits_BV: Tensor, how: Sequence[Sampling], states: Sequence[np.random.Generator]
) -> tuple[list[int], list[float]]:
    """One token a row.

    Args:
        logits_BV: float32; -inf where nothing may be drawn.
        how: temperature and top-p of each row.
        states: random state of each row; greedy rows leave theirs untouched.

    Returns:
        The ids, and their log-probabilities at temperature 1 without top-p: not finite where the logits are not.
    """
    logprobs = logits_BV.log_softmax(-1)
    ids = logits_BV.argmax(-1)
    hot = [i for i, s in enumerate(how) if s.temperature > 0]
    if hot:
        at = torch.tensor(hot, device=logits_BV.device)
        temperature = torch.tensor([max(how[i].temperature, _COLDEST) for i in hot], device=at.device)
        chance = torch.tensor([min(states[i].random(), _BELOW_ONE) for i in hot], dtype=torch.float32, device=at.device)
        mass = (logits_BV[at] / temperature[:, None]).softmax(-1)
        ids[at] = _invert(mass, chance)
        cut = [n for n, i in enumerate(hot) if how[i].top_p < 1]
        if cut:
            among = torch.tensor(cut, device=at.device)
            top_p = torch.tensor([how[hot[n]].top_p for n in cut], device=at.device)
            ids[at[among]] = _draw_nucleus(mass[among], top_p, chance[among])
    picked = logprobs.gather(1, ids[:, None])[:, 0]
    return ids.tolist(), picked.tolist()


def _invert(mass_BV: Tensor, chance_B: Tensor) -> Tensor:
    """The first index at which the cumulative mass goes beyond the chance: inverse-transform sampling, in index order."""
    cumulative = mass_BV.cumsum(-1)
    target = chance_B[:, None] * cumulative[:, -1:]
    return (cumulative <= target).sum(-1).clamp(max=mass_BV.shape[1] - 1)


def _draw_nucleus(mass_BV: Tensor, top_p_B: Tensor, chance_B: Tensor) -> Tensor:
    """Inverse-transform sampling from the smallest set of tokens whose mass reaches top_p."""
    mass, order = torch.sort(mass_BV, dim=-1, descending=True, stable=True)
    before = mass.cumsum(-1) - mass
    mass = mass.masked_fill(before >= top_p_B[:, None], 0.0)
    mass[:, 0] = mass[:, 0].clamp(min=1e-30)  # also where top_p is 0
    return order.gather(1, _invert(mass, chance_B)[:, None])[:, 0]
