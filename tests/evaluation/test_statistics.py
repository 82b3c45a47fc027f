"""Intervals and tests against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from echo_audio.evaluation.statistics import difference, macro, mean, p_value, paired, rate, share


def test_wilson_interval() -> None:
    """8 of 10: (0.8 + 0.19207) / 1.38415 -+ 1.95996 / 1.38415 * sqrt(0.016 + 0.0096036)."""
    got = rate([True] * 8 + [False] * 2)
    assert (got.value, got.n) == (0.8, 10)
    assert got.low == pytest.approx(0.49016, abs=1e-4) and got.high == pytest.approx(0.94331, abs=1e-4)


def test_wilson_stays_inside_at_the_ends() -> None:
    assert rate([True] * 5).high == 1.0 and 0.5 < rate([True] * 5).low < 0.6
    assert rate([False] * 5).low == 0.0
    assert math.isnan(rate([]).value) and math.isnan(mean([]).low)


def test_bootstrap_of_the_mean() -> None:
    got = mean([0.0, 1.0] * 200)
    assert got.value == 0.5 and got.low == pytest.approx(0.451, abs=0.01) and got.high == pytest.approx(0.549, abs=0.01)
    assert mean([0.3] * 7).low == mean([0.3] * 7).high == pytest.approx(0.3)


def test_mcnemar_by_hand() -> None:
    """One item only the first gets, eight only the second: p = 2 (C(9,0) + C(9,1)) / 2^9 = 20 / 512."""
    first = [True] + [False] * 8 + [True] * 11
    second = [False] + [True] * 8 + [True] * 11
    got = paired(first, second)
    assert (got.only_first, got.only_second, got.n) == (1, 8, 20)
    assert got.difference == pytest.approx(7 / 20) and got.p_value == pytest.approx(20 / 512)
    assert got.low == pytest.approx((8 - 1) / 22 - 1.959964 * math.sqrt(10 - 49 / 22) / 22)


PAIRS = [(30, 0.05, 0.2), (200, 0.02, 0.02), (1000, 0.01, 0.03), (25, 0.3, 0.3)]


@pytest.mark.parametrize(("n", "only_first", "only_second"), PAIRS)
def test_intervals_of_differences_hold_the_truth_as_often_as_they_say(n, only_first, only_second) -> None:
    both = 1 - only_first - only_second
    draws = np.random.default_rng(0).multinomial(n, (only_first, only_second, both), 1000)
    held = 0
    for b, c, rest in draws:
        got = paired([True] * b + [False] * c + [True] * rest, [False] * b + [True] * c + [True] * rest)
        held += got.low <= only_second - only_first <= got.high
    assert held / len(draws) > 0.925


def test_equal_runs_do_not_differ() -> None:
    got = paired([True, False], [True, False])
    assert got.p_value == 1.0 and got.low == -got.high < -0.2, "two questions are no proof of that"
    assert paired([True] * 2, [False] * 2).high > -0.5 and math.isnan(paired([], []).low)
    with pytest.raises(ValueError, match=r"zip"):
        paired([True], [True, False])


def test_the_interval_of_a_macro_by_hand():
    """Groups 3 of 4 and 1 of 1: rates with half an item each way 0.7 and 0.75, variance (0.21 / 4 + 0.1875 / 1) / 4."""
    got = macro([[True, True, True, False], [True], []])
    variance = (0.21 / 4 + 0.1875) / 4
    n = 0.875 * 0.125 / variance
    z2 = 1.959964**2
    reach = math.sqrt(z2) * math.sqrt(0.875 * 0.125 / n + z2 / (4 * n * n)) / (1 + z2 / n)
    assert (got.value, got.n) == (0.875, 5)
    assert got.low == pytest.approx((0.875 + z2 / (2 * n)) / (1 + z2 / n) - reach, abs=1e-5)


def test_groups_of_one_item_do_not_pass_for_certain():
    """Ten items that are all right have Wilson's interval of ten items, in whatever groups they are."""
    assert macro([[True]] * 10).low == pytest.approx(rate([True] * 10).low) and macro([[True]] * 10).high == pytest.approx(1.0)
    got = macro([[True], [False]] * 5)
    assert got.high - got.low > 0.4


MMAR_SIZES = (165, 206, 294, 11, 218, 82, 24)


@pytest.mark.parametrize(
    ("sizes", "rates"),
    [
        (MMAR_SIZES, (0.7,) * 7),
        (MMAR_SIZES, (0.4, 0.6, 0.8, 0.9, 0.7, 0.5, 0.75)),
        ((1,) * 30, (0.7,) * 30),
        ((1,) * 5 + (200,) * 2, (0.5,) * 5 + (0.98,) * 2),
        ((1, 300), (0.5, 0.95)),
    ],
)
def test_intervals_of_macros_hold_the_truth_as_often_as_they_say(sizes, rates):
    draws = np.random.default_rng(0).binomial(sizes, rates, (1000, len(sizes)))
    truth, held = float(np.mean(rates)), 0
    for drawn in draws:
        got = macro([[True] * int(x) + [False] * (n - int(x)) for x, n in zip(drawn, sizes, strict=True)])
        held += got.low <= truth <= got.high
    assert held / len(draws) > 0.925


def test_a_difference_takes_each_question_once() -> None:
    """Four questions, one of which differs: a sign flip of it alone never changes the size, so p is 1."""
    got = difference([0.0, 1.0, 1.0, 0.5], [1.0, 1.0, 1.0, 0.5])
    assert (got.value, got.n, got.p_value) == (0.25, 4, 1.0)
    six = difference([0.0] * 6, [1.0] * 6)  # all six signs equal: 2 of 64 flips
    assert six.p_value == pytest.approx(2 / 64, abs=0.006) and (six.low, six.high) == (1.0, 1.0)
    assert math.isnan(difference([], []).value)
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 2, 400).astype(bool), rng.integers(0, 2, 400).astype(bool)
    assert difference(first, second).p_value == pytest.approx(paired(first, second).p_value, abs=0.03), "as McNemar's"


def test_the_interval_of_shares():
    """All right in every repeat is no more certain than all right once; shares that vary less than right and wrong are surer."""
    assert share([1.0] * 10).low == pytest.approx(rate([True] * 10).low) and share([1.0] * 10).high == pytest.approx(1.0)
    assert share([1.0, 0.0] * 50).low == pytest.approx(rate([True, False] * 50).low, abs=0.002)
    sure, unsure = share([0.6, 0.4] * 50), share([1.0, 0.0] * 50)
    assert sure.value == unsure.value == 0.5 and sure.high - sure.low < 0.4 * (unsure.high - unsure.low)
    assert share([0.5] * 4).low < 0.4 and math.isnan(share([]).value)


@pytest.mark.parametrize("rates", [(0.9,) * 12, (0.99,) * 30, (0.2, 0.9) * 20, (0.0, 1.0) * 20, (0.5,) * 100])
def test_intervals_of_shares_hold_the_truth_as_often_as_they_say(rates):
    """Three repeats of questions that are drawn anew each time."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        drawn = rng.choice(rates, len(rates))
        got = share([float(x) for x in rng.binomial(3, drawn) / 3])
        held += got.low <= float(np.mean(rates)) <= got.high
    assert held / 1000 > 0.925


def test_a_p_value_is_never_nought():
    assert (p_value(0.0), p_value(0.00009), p_value(0.03)) == ("< 0.0001", "< 0.0001", "0.0300")
