"""Drawing tokens for many rows at once, each with its own temperature, top-p and random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def chances(states: Sequence[np.random.Generator], n: int) -> np.ndarray:
    """The next n uniform numbers of each turn, float32 (turns, n): one for each token it draws."""
    return np.minimum([state.random(n) for state in states], _BELOW_ONE).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Draw:
    """How the rows of a batch are drawn, on the device of their logits.

    Args:
        temperature_B: 0 is greedy.
        chance_B: uniform numbers; greedy rows ignore theirs.
        top_p_B: share of the mass that is drawn from.
        nucleus: which rows have a top-p below one; None where none has.
        hot: whether any row is not greedy.
    """

    temperature_B: Tensor
    chance_B: Tensor
    top_p_B: Tensor
    nucleus: Tensor | None = None
    hot: bool = True


def choose(logits_BV: Tensor, how: Draw) -> Tensor:
    """One id a row; nothing is read back from the device.

    Args:
        logits_BV: float32; -inf where nothing may be drawn.
    """
    ids = logits_BV.argmax(-1)
    if not how.hot:
        return ids
    mass = (logits_BV / how.temperature_B.clamp(min=_COLDEST)[:, None]).softmax(-1)
    drawn = _invert(mass, how.chance_B)
    if how.nucleus is not None:
        some = (value.index_select(0, how.nucleus) for value in (mass, how.top_p_B, how.chance_B))
        drawn = drawn.index_copy(0, how.nucleus, _draw_nucleus(*some))
    return torch.where(how.temperature_B > 0, drawn, ids)


def logprobs_of(logits_BV: Tensor, ids_B: Tensor) -> Tensor:
    """Log-probabilities at temperature 1 without top-p: not finite where the logits are not."""
    return logits_BV.gather(1, ids_B[:, None])[:, 0] - logits_BV.logsumexp(-1)


def _invert(mass_BV: Tensor, chance_B: Tensor) -> Tensor:
    """The first index at which the cumulative mass goes beyond the chance: inverse-transform sampling, in index order."""
    return _first_beyond(mass_BV.cumsum(-1), mass_BV, chance_B)


def _first_beyond(cumulative_BV: Tensor, mass_BV: Tensor, chance_B: Tensor) -> Tensor:
    """`_invert` with the sums given.

    Only an index with mass counts. A GPU sums in parallel, each index with roundings of its own: the sums can fall from one
    index to the next, and rise at one that has no mass. How many lie below the chance would then name the wrong index.
    """
    reached_BV = cumulative_BV.masked_fill(mass_BV == 0, 0.0)
    target_B = chance_B * reached_BV.amax(-1)
    return (reached_BV > target_B[:, None]).to(torch.uint8).argmax(-1)


def _draw_nucleus(mass_BV: Tensor, top_p_B: Tensor, chance_B: Tensor) -> Tensor:
    """Inverse-transform sampling from the smallest set of tokens whose mass reaches top_p."""
    mass, order = torch.sort(mass_BV, dim=-1, descending=True, stable=True)
    before = mass.cumsum(-1) - mass
    mass = mass.masked_fill(before >= top_p_B[:, None], 0.0)
    mass[:, 0] = mass[:, 0].clamp(min=1e-30)  # also where top_p is 0
    return order.gather(1, _invert(mass, chance_B)[:, None])[:, 0]
