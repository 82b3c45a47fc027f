"""Drawing tokens: the right distribution and log-probabilities, nothing forbidden, no dependence on other rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from echo_audio.engines.sampling import Draw, chances, choose, logprobs_of, random_state
from echo_audio.listen import Sampling

N = 4_000


def logits(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities).log()


def draw(
    logits_BV: Tensor, how: Sequence[Sampling], states: Sequence[np.random.Generator]
) -> tuple[list[int], list[float]]:
    """One token a row."""
    hot = [s.temperature > 0 for s in how]
    chance = [chances([state], 1)[0, 0] if is_hot else 0.0 for state, is_hot in zip(states, hot, strict=True)]
    cut = [i for i, s in enumerate(how) if hot[i] and s.top_p < 1]
    tensors = (torch.tensor(np.array(v, np.float32)) for v in ([s.temperature for s in how], chance, [s.top_p for s in how]))
    ids = choose(logits_BV, Draw(*tensors, torch.tensor(cut) if cut else None, any(hot)))
    return ids.tolist(), logprobs_of(logits_BV, ids).tolist()


def frequencies(row: Tensor, how: Sampling) -> list[float]:
    """How often each id is drawn in N turns."""
    states = [random_state(how, turn) for turn in range(N)]
    ids, _ = draw(row.expand(N, -1), [how] * N, states)
    return (np.bincount(ids, minlength=len(row)) / N).tolist()


def test_temperature_one_draws_from_the_distribution() -> None:
    assert frequencies(logits(0.5, 0.3, 0.15, 0.05), Sampling(1.0)) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_temperature_sharpens_and_flattens() -> None:
    p = np.array([0.5, 0.3, 0.2])
    for temperature in (0.5, 2.0):
        expected = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
        assert frequencies(logits(0.5, 0.3, 0.2), Sampling(temperature)) == pytest.approx(expected.tolist(), abs=0.03)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    row = logits(0.1, 0.5, 0.3, 0.1)
    assert frequencies(row, Sampling(1.0, 0.79)) == pytest.approx([0, 0.625, 0.375, 0], abs=0.03)
    assert frequencies(row, Sampling(1.0, 0.5)) == pytest.approx([0, 1, 0, 0])
    assert frequencies(row, Sampling(1.0, 0.0)) == pytest.approx([0, 1, 0, 0])
    assert min(frequencies(row, Sampling(1.0, 1.0))) > 0.05


def test_greedy_takes_the_first_of_the_most_likely() -> None:
    ids, logprobs = draw(logits(0.2, 0.4, 0.4)[None], [Sampling(0.0)], [random_state(Sampling(), 0)])
    assert ids == [1]
    assert logprobs == pytest.approx([math.log(0.4)])


def test_log_probabilities_are_at_temperature_one_without_top_p() -> None:
    row = logits(0.6, 0.3, 0.1)
    for how in (Sampling(0.0), Sampling(0.3), Sampling(2.0, 0.7), Sampling(1.0, 0.5)):
        for turn in range(20):
            ids, logprobs = draw(row[None] + 5.0, [how], [random_state(how, turn)])
            assert logprobs == pytest.approx([float(row[ids[0]])], abs=1e-6)


@given(st.integers(0, 2**64), st.integers(0, 50), st.floats(0, 1e6), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_what_is_forbidden_is_never_drawn(seed: int, turn: int, temperature: float, top_p: float) -> None:
    row = torch.tensor([-math.inf, 1.0, -math.inf, 0.5, -40.0, -math.inf])
    how = Sampling(temperature, top_p, seed)
    ids, logprobs = draw(row[None], [how], [random_state(how, turn)])
    assert ids[0] in (1, 3, 4)
    assert math.isfinite(logprobs[0])


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.7, 1.0]), st.sampled_from([0.3, 0.9, 1.0]), st.integers(0, 99)),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=40, deadline=None)
def test_rows_do_not_disturb_each_other(rows: list[tuple[float, float, int]]) -> None:
    how = [Sampling(*row) for row in rows]
    scores = torch.randn(len(how), 50, generator=torch.Generator().manual_seed(len(how)))
    together = draw(scores, how, [random_state(s, 3) for s in how])
    for i, sampling in enumerate(how):
        ids, logprobs = draw(scores[i : i + 1], [sampling], [random_state(sampling, 3)])
        assert ids == together[0][i : i + 1]
        assert logprobs == pytest.approx(together[1][i : i + 1])


def test_turns_and_seeds_have_their_own_random_states() -> None:
    draws = {
        (seed, turn): tuple(random_state(Sampling(1.0, 1.0, seed), turn).random(3))
        for seed in range(5)
        for turn in range(5)
    }
    assert len(set(draws.values())) == 25
    assert tuple(random_state(Sampling(1.0, 1.0, 4), 2).random(3)) == draws[4, 2]
    assert random_state(Sampling(seed=-1), 0).random() != random_state(Sampling(seed=0), 0).random()


def test_a_greedy_row_leaves_its_random_state_untouched() -> None:
    state = random_state(Sampling(), 0)
    draw(logits(0.5, 0.5)[None], [Sampling(0.0)], [state])
    assert state.random() == random_state(Sampling(), 0).random()


def in_parallel(values: Tensor, dim: int) -> Tensor:
    """Sums as a GPU makes them: four values a thread, 32 threads doubling their reach, and the warps before them."""
    assert dim == -1
    inner = values.view(-1, values.shape[-1] // 128, 32, 4).cumsum(3)
    ends = inner[..., -1].clone()
    for reach in (1, 2, 4, 8, 16):
        ends[..., reach:] = ends[..., reach:] + ends[..., :-reach]
    warps = ends[..., -1].cumsum(-1) - ends[..., -1]
    ends = ends + warps[..., None]
    before = torch.cat([warps[..., None], ends[..., :-1]], -1)
    return torch.cat([before[..., None] + inner[..., :-1], ends[..., None]], -1).view_as(values)


def test_what_is_forbidden_is_not_drawn_where_sums_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's sums can fall from one id to the next: a control token of mass 0 was once drawn, and the trainer's loss was NaN."""
    row = torch.randn(1024, generator=torch.Generator().manual_seed(0)) - 14.0
    row[20] = 4.0
    row[torch.arange(1024) % 3 == 1] = -math.inf
    chance = 1 - torch.arange(1, 400) * 2.0**-24
    ones = torch.ones_like(chance)
    sequential = choose(row.expand(len(chance), -1), Draw(ones, chance, ones))
    cumsum = Tensor.cumsum

    def rounded(values: Tensor, dim: int) -> Tensor:
        return in_parallel(values, dim) if values.shape[-1] == 1024 else cumsum(values, dim)

    monkeypatch.setattr(Tensor, "cumsum", rounded)
    assert (row.softmax(-1).expand(2, -1).cumsum(-1).diff() < 0).any()
    parallel = choose(row.expand(len(chance), -1), Draw(ones, chance, ones))
    assert row[parallel].isfinite().all()
    below = row.double().softmax(-1).cumsum(-1)
    assert (below[parallel] - below[sequential]).abs().max() < 1e-6


def test_every_quantile_gives_an_id() -> None:
    """Also the very ends of the unit interval, where rounding could step outside the kept set."""

    class Fixed(np.random.Generator):
        def __init__(self, value: float) -> None:
            super().__init__(np.random.PCG64(0))
            self.value = value

        def random(self, *_: object, **__: object) -> np.ndarray:  # type: ignore[override]
            return np.array([self.value])

    row = torch.tensor([0.0, -0.5, -1.0, -math.inf, -3.0])
    for value in (0.0, 1e-12, 0.5, 1 - 1e-9, 1.0):
        for top_p in (1.0, 0.7):
            ids, _ = draw(row[None], [Sampling(1.0, top_p)], [Fixed(value)])
            assert ids[0] in ((0, 1, 2, 4) if top_p == 1.0 else (0, 1))
