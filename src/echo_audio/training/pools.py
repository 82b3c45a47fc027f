"""The order of training: rows of similar length together, batches of nearly equal size, exact resume.

How long a row is in tokens is only known when it has been drawn and encoded, which is half of the work of making it. So
a worker makes a pool of rows that are likely to be similar, sorts them by their true length, and cuts the pool into
batches. The number of batches is known beforehand, and with it the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from echo_audio.training.batch import Example, collate

BATCHES = 8
"""Batches cut from one pool."""
MIXED = 8
"""Pools whose batches are shuffled together, so that steps in a row see all lengths."""
STRETCH = 32
"""Pools that are sorted against each other: more pads less and mixes less."""

_SAMPLE = 256  # rows drawn to learn how many tokens a second of recording takes


class Rows(Protocol):
    """Rows as examples: several for each index, when one recording is asked about more than once."""

    durations_s: NDArray[np.float64]
    n_first: int
    """So many indices come before all others in each pass."""

    def __len__(self) -> int:
        """Number of indices."""
        ...

    def examples(self, index: int) -> list[Example]:
        """What is made of an index; always the same."""
        ...


@dataclass(frozen=True, slots=True)
class Pool:
    """Indices of rows that are likely to be of similar length, and into how many batches they are cut."""

    indices: NDArray[np.int64]
    n_batches: int


def plan_pools(rows: Rows, budget: int, seed: int, epochs: float) -> list[Pool]:
    """The pools of a run, each of about BATCHES times `budget` tokens.

    Args:
        budget: tokens of a batch.
        epochs: passes over the rows, each in an order of its own; the last may be cut short.
    """
    rng = np.random.default_rng([seed, 1])
    tokens = _estimated_tokens(rows)
    parts = (np.arange(rows.n_first), np.arange(rows.n_first, len(rows)))
    order = [rng.permutation(part) for _ in range(math.ceil(epochs)) for part in parts]
    left = max(1, round(epochs * len(rows)))
    pools: list[Pool] = []
    for part in order:
        if len(some := part[:left]):
            pools += _cut(some, tokens, budget, rng)
        left -= len(some)
    return pools


def _cut(order: NDArray[np.int64], tokens: NDArray[np.float64], budget: int, rng: np.random.Generator) -> list[Pool]:
    """Pools of similar length from stretches of the order."""
    n_pools = max(1, round(float(tokens[order].sum()) / (budget * BATCHES)))
    pools: list[Pool] = []
    for stretch in np.array_split(order, math.ceil(n_pools / STRETCH)):
        by_length = stretch[np.argsort(tokens[stretch], kind="stable")]
        n = max(1, round(float(tokens[stretch].sum()) / (budget * BATCHES)))
        parts = np.split(by_length, _borders(tokens[by_length], n))
        pools += [_pool(part, tokens, budget) for i in rng.permutation(len(parts)) if len(part := parts[i])]
    return pools


def _pool(indices: NDArray[np.int64], tokens: NDArray[np.float64], budget: int) -> Pool:
    wanted = max(1, round(float(tokens[indices].sum()) / budget))
    return Pool(indices, min(wanted, len(indices)))


def _borders(sizes: NDArray[np.floating], n: int) -> NDArray[np.int64]:
    """Where to cut so that n parts have nearly the same total."""
    total = np.cumsum(sizes)
    return np.searchsorted(total, total[-1] * np.arange(1, n) / n)


def _estimated_tokens(rows: Rows) -> NDArray[np.float64]:
    """Tokens of each index by its duration: a straight line through some that were counted."""
    some = np.unique(np.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows))).astype(int))
    counted = np.array([sum(len(e.ids) for e in rows.examples(int(i))) for i in some], float)
    durations = rows.durations_s[some]
    if np.ptp(durations) < 0.5:
        return np.full(len(rows), counted.mean())
    slope, offset = np.polyfit(durations, counted, 1)
    return np.maximum(slope * rows.durations_s + offset, counted.min() / 2)


class _Drawn(Dataset[list[dict[str, Any]]]):
    """Pool i as its batches."""

    def __init__(self, rows: Rows, pools: Sequence[Pool]) -> None:
        self.rows, self.pools = rows, pools

    def __len__(self) -> int:
        return len(self.pools)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        """Draw the rows, sort them by length, cut."""
        pool = self.pools[index]
        examples = [e for row in pool.indices for e in self.rows.examples(int(row))]
        examples.sort(key=lambda e: len(e.ids))
        borders = _borders(np.array([len(e.ids) for e in examples], float), pool.n_batches)
        parts = np.split(np.arange(len(examples)), _without_empty(borders, len(examples)))
        return [collate([examples[i] for i in part]) for part in parts]


def _without_empty(borders: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The borders of n things, moved so that no part is empty."""
    up = np.arange(len(borders))
    borders = np.maximum.accumulate(np.maximum(borders, 1) - up) + up
    return np.minimum(borders, n - len(borders) + up)


class Batches:
    """All batches of a run, in order; what a Trainer takes for its data loader.

    Args:
        rows: where they come from.
        pools: from `plan_pools`.
        seed: of the order in which pools are mixed.
        accumulate: batches of one step; the last step is never a short one.
        workers: processes that make them.
        skip: batches that an earlier run has done.
        rank, world: the share of this process among several.
    """

    def __init__(
        self,
        rows: Rows,
        pools: Sequence[Pool],
        *,
        seed: int,
        accumulate: int = 1,
        workers: int = 0,
        skip: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.drawn, self.pools = _Drawn(rows, pools), pools
        self.seed, self.workers, self.skip = seed, workers, skip
        self.rank, self.world = rank, world
        self._n = sum(pool.n_batches for pool in pools) // (world * accumulate) * accumulate

    def __len__(self) -> int:
        """Batches of this process, those skipped included."""
        return self._n

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches from `skip` on."""
        done, group = 0, 0  # batches of all processes in the groups passed over
        while group * MIXED < len(self.pools) and done + self._in_group(group) <= self.skip * self.world:
            done += self._in_group(group)
            group += 1
        at = done
        for batch in self._from_group(group):
            mine = at % self.world == self.rank and self.skip <= at // self.world < self._n
            at += 1
            if mine:
                yield batch

    def _in_group(self, group: int) -> int:
        return sum(pool.n_batches for pool in self.pools[group * MIXED : (group + 1) * MIXED])

    def _from_group(self, first: int) -> Iterator[dict[str, Any]]:
        """All batches from a group on, those of MIXED pools shuffled together."""
        loader = DataLoader(
            self.drawn,
            batch_size=None,
            sampler=range(first * MIXED, len(self.pools)),
            num_workers=self.workers,
            prefetch_factor=2 if self.workers else None,
            pin_memory=torch.cuda.is_available(),
        )
        held: list[dict[str, Any]] = []
        group = first
        for index, pool in enumerate(loader, first * MIXED):
            held += pool
            if (index + 1) % MIXED == 0 or index + 1 == len(self.pools):
                order = np.random.default_rng([self.seed, 2, group]).permutation(len(held))
                yield from (held[i] for i in order)
                held, group = [], group + 1
