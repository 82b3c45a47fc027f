"""Uncertainty of scores: intervals for rates and means, and a paired test of two runs on the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

Z95 = 1.959963984540054
"""Normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval.

    Args:
        value: the point estimate; NaN without items.
        low, high: ends of the interval.
        n: items it rests on.
    """

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float]:
        """As plain numbers, rounded to four places."""
        return {name: round(number, 4) for name, number in asdict(self).items()}


def rate(outcomes: Sequence[bool]) -> Estimate:
    """Share of true outcomes, with Wilson's interval."""
    n = len(outcomes)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    p = sum(outcomes) / n
    return Estimate(p, *_wilson(p, n), n)


def mean(values: Sequence[float], *, seed: int = 0, draws: int = 2000) -> Estimate:
    """Mean, with a percentile bootstrap interval (seeded)."""
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    array = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = [array[rng.integers(0, n, n)].mean() for _ in range(draws)]
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(array.mean()), float(low), float(high), n)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same items.

    Args:
        only_first, only_second: items that only one of them got right.
        difference: accuracy of the second minus the first.
        low, high: its 95 % interval (Wald's for pairs, as adjusted by Agresti and Min, 2005).
        p_value: exact two-sided McNemar test.
        n: items.
    """

    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p_value: float
    n: int


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """McNemar's exact test and the difference of accuracies of two runs on the same items, in the same order."""
    pairs = list(zip(first, second, strict=True))
    b = sum(x and not y for x, y in pairs)
    c = sum(y and not x for x, y in pairs)
    n = len(pairs)
    if not n:
        return Paired(b, c, math.nan, math.nan, math.nan, 1.0, n)
    middle = (c - b) / (n + 2)  # half an item more in each of the four cells: small groups do not pass for certain
    reach = Z95 * math.sqrt(b + c + 1 - (c - b) ** 2 / (n + 2)) / (n + 2)
    return Paired(b, c, (c - b) / n, max(-1.0, middle - reach), min(1.0, middle + reach), _mcnemar(b, c), n)


@dataclass(frozen=True, slots=True)
class Difference:
    """Two runs, or the means over several seeds of each, on the same items.

    Args:
        value: mean of the second minus mean of the first.
        low, high: its 95 % interval (percentile bootstrap over items).
        p_value: two-sided sign-flip test over items; at least 1 / (draws + 1).
        n: items.
    """

    value: float
    low: float
    high: float
    p_value: float
    n: int


def difference(first: Sequence[float], second: Sequence[float], *, seed: int = 0, draws: int = 9999) -> Difference:
    """Test and interval of a mean difference where each item has one number from each side.

    With several seeds the number of an item is its mean over them: the answers of seeds to one question are not independent,
    and here each question counts once, whatever the number of seeds (seeded, so the same numbers give the same test).
    """
    d = np.asarray(second, float) - np.asarray(first, float)
    n = len(d)
    if n == 0:
        return Difference(math.nan, math.nan, math.nan, math.nan, 0)
    interval = mean(d.tolist(), seed=seed)
    differing = d[d != 0]
    rng = np.random.default_rng(seed)
    reached = 0
    for start in range(0, draws, 500):  # in parts, so that memory stays small
        signs = rng.integers(0, 2, (min(500, draws - start), len(differing)), dtype=np.int8) * 2 - 1
        reached += int((np.abs(signs @ differing) >= abs(differing.sum()) - 1e-9).sum())
    return Difference(interval.value, interval.low, interval.high, (reached + 1) / (draws + 1), n)


def _mcnemar(b: int, c: int) -> float:
    """Two-sided binomial test of b against c at one half, by logarithms so that large counts do not overflow."""
    n = b + c
    if n == 0:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(min(b, c) + 1)]
    return min(1.0, 2 * sum(math.exp(x) for x in logs))


def p_value(p: float) -> str:
    """A p value for people: never nought."""
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def macro(groups: Sequence[Sequence[bool]]) -> Estimate:
    """Unweighted mean of the groups' rates, with Wilson's interval at the effective number of items.

    That is the number of items of one group whose rate would vary as much as this mean does. The variance of each group is
    taken with half an item right and half a one wrong added (Jeffreys), so that a group of one item does not pass for certain.

    Empty groups are left out. `n` is the number of items over all groups.
    """
    counts = [(sum(group), len(group)) for group in groups if group]
    if not counts:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value = sum(right / n for right, n in counts) / len(counts)
    rates = [((right + 0.5) / (n + 1), n) for right, n in counts]
    variance = sum(p * (1 - p) / n for p, n in rates) / len(counts) ** 2
    where_equal = len(counts) ** 2 / sum(1 / n for _, n in counts)  # effective items where all groups have one rate
    low, high = _wilson(value, value * (1 - value) / variance if 0 < value < 1 else where_equal)
    return Estimate(value, low, high, sum(n for _, n in counts))


def share(values: Sequence[float]) -> Estimate:
    """Mean of values from 0 to 1, each a question's share of right answers, with Wilson's interval at the effective number.

    That is the number of questions, were each right or wrong, whose rate would vary as much as this mean does; its variance is
    taken with half a question right and half a one wrong added, so that equal values do not pass for certain, as they would in
    a bootstrap.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value = math.fsum(values) / n
    middle = (math.fsum(values) + 0.5) / (n + 1)
    variance = (math.fsum((v - middle) ** 2 for v in values) + 0.5 * (1 - middle) ** 2 + 0.5 * middle**2) / (n + 1)
    low, high = _wilson(value, n * value * (1 - value) / variance if 0 < value < 1 else n)
    return Estimate(value, low, high, n)


def _wilson(p: float, n: float) -> tuple[float, float]:
    """Wilson's interval of a rate over n items; n need not be whole."""
    middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    reach = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    return max(0.0, middle - reach), min(1.0, middle + reach)
