"""Exact quantiles and the coverage their intervals promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.stats.quantiles import (
    clustered_interval,
    order_statistic_interval,
    order_statistic_ranks,
    quantile,
)


def test_quantile_interpolates_like_every_other_load_tool() -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert quantile([10.0], 0.99) == 10.0
    assert quantile([], 0.5) is None


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.inf], [[1.0], [2.0]]])
def test_refuses_what_is_not_a_measured_value(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"finite|one dimension"):
        quantile(values, 0.5)


@pytest.mark.parametrize(("p", "level"), [(1.5, 0.95), (-0.1, 0.95), (0.5, 1.0), (0.5, 0.0)])
def test_refuses_fractions_that_are_none(p: float, level: float) -> None:
    with pytest.raises(ValueError, match="fractions"):
        order_statistic_ranks(10, p, level)


@pytest.mark.parametrize(
    ("n", "ranks"), [(100, (40, 61)), (10, (2, 9)), (20, (6, 15)), (6, (1, 6)), (5, None), (0, None)]
)
def test_ranks_of_the_median_are_the_textbook_ones(n: int, ranks: tuple[int, int] | None) -> None:
    # Conover, Practical Nonparametric Statistics: 95 % intervals for the median.
    assert order_statistic_ranks(n, 0.5) == ranks


@given(
    n=st.integers(1, 400),
    p=st.sampled_from([0.05, 0.5, 0.9, 0.95, 0.99]),
    level=st.sampled_from([0.8, 0.9, 0.95, 0.99]),
)
def test_ranks_cover_by_the_binomial_law_and_are_the_tightest(n: int, p: float, level: float) -> None:
    ranks = order_statistic_ranks(n, p, level)
    pmf = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    tail = (1 - level) / 2 + 1e-12
    if ranks is None:
        assert pmf[0] > tail - 2e-12 or pmf[n] > tail - 2e-12
        return
    low, high = ranks
    assert sum(pmf[:low]) <= tail
    assert sum(pmf[high:]) <= tail
    assert sum(pmf[: low + 1]) > tail - 2e-12
    assert sum(pmf[high - 1 :]) > tail - 2e-12


def test_interval_covers_as_often_as_it_says_for_a_skewed_law() -> None:
    generator = np.random.default_rng(7)
    truth = math.exp(1.6448536269514722)  # p95 of the standard lognormal
    hits = 0
    for _ in range(2000):
        bounds = order_statistic_interval(generator.lognormal(size=200), 0.95)
        assert bounds is not None
        hits += bounds[0] <= truth <= bounds[1]
    assert 0.945 <= hits / 2000 <= 0.985  # at least 0.95, less one standard error of this simulation


@pytest.mark.parametrize(("p", "n"), [(0.5, 6), (0.95, 72), (0.99, 368), (0.01, 368)])
def test_an_interval_exists_from_the_smallest_n_on(p: float, n: int) -> None:
    assert order_statistic_ranks(n, p) is not None
    assert order_statistic_ranks(n - 1, p) is None


def test_groups_that_move_together_widen_the_interval() -> None:
    generator = np.random.default_rng(11)
    level = generator.normal(10, 2, size=60)
    groups = [level[i] + generator.normal(0, 0.1, size=40) for i in range(60)]
    naive = order_statistic_interval(np.concatenate(groups), 0.5)
    grouped = clustered_interval(groups, 0.5)
    assert naive is not None
    assert grouped is not None
    assert grouped[1] - grouped[0] > 3 * (naive[1] - naive[0])


def test_grouped_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(13)
    hits = 0
    for _ in range(1000):
        level = generator.normal(0, 1, size=50)
        groups = [center + generator.normal(0, 0.5, size=20) for center in level]
        bounds = clustered_interval(groups, 0.5)
        assert bounds is not None
        hits += bounds[0] <= 0 <= bounds[1]
    assert 0.925 <= hits / 1000 <= 0.985


def test_grouped_interval_needs_groups_and_room() -> None:
    assert clustered_interval([], 0.5) is None
    assert clustered_interval([[1.0, 2.0], []], 0.5) is None
    assert clustered_interval([[1.0], [9.0]], 0.99) is None


def test_grouped_interval_of_singletons_is_close_to_the_plain_one() -> None:
    values = np.random.default_rng(17).exponential(size=2000)
    plain, grouped = order_statistic_interval(values, 0.5), clustered_interval([[value] for value in values], 0.5)
    assert plain is not None
    assert grouped is not None
    assert grouped == pytest.approx(plain, rel=0.02)
