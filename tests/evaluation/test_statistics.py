"""Intervals and tests against values computed by hand."""

from __future__ import annotations

import math

import pytest

from echo_audio.evaluation.statistics import mean, paired, rate


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
    assert got.low == pytest.approx(0.35 - 1.959964 * math.sqrt(9 - 49 / 20) / 20)


def test_equal_runs_do_not_differ() -> None:
    assert paired([True, False], [True, False]).p_value == 1.0
    with pytest.raises(ValueError, match=r"zip"):
        paired([True], [True, False])
