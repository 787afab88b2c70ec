"""Intervals: against scipy and statistics done by hand, at their edges, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from servegate.stats.intervals import mean, standard_error, wilson

COUNTS = [(0, 1), (1, 1), (0, 60), (48, 60), (60, 60), (1, 1000), (999, 1000), (8370, 10000)]


@pytest.mark.parametrize(("successes", "n"), COUNTS)
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_proportions_agree_with_scipy(successes: int, n: int, level: float) -> None:
    theirs = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    found = wilson(successes, n, level)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_matches_the_published_example() -> None:
    """Newcombe, Statistics in Medicine 17:857 (1998), table I, method 3: 81 of 263 and 0 of 20."""
    assert (wilson(81, 263).low, wilson(81, 263).high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (wilson(0, 20).low, wilson(0, 20).high) == pytest.approx((0.0, 0.1611), abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.01, 0.9999))
def test_a_proportion_lies_in_its_interval(counts: tuple[int, int], level: float) -> None:
    found = wilson(*counts, level)
    assert 0 <= found.low <= counts[0] / counts[1] + 1e-12
    assert counts[0] / counts[1] - 1e-12 <= found.high <= 1


@pytest.mark.parametrize("p", [0.01, 0.2, 0.85])
def test_coverage_of_wilson_is_near_the_level(p: float) -> None:
    n = 200
    weights = stats.binom.pmf(np.arange(n + 1), n, p)
    cover = sum(w for k, w in enumerate(weights) if wilson(k, n).low <= p <= wilson(k, n).high)
    assert cover == pytest.approx(0.95, abs=0.03)


def test_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).normal(3, 2, 40)
    theirs = stats.t.interval(0.9, 39, loc=values.mean(), scale=stats.sem(values))
    assert (mean(values, 0.9).low, mean(values, 0.9).high) == pytest.approx(theirs)


def test_clusters_of_one_change_nothing_and_whole_clusters_count_once() -> None:
    values = np.random.default_rng(2).normal(size=30)
    assert standard_error(values, list(range(30))) == pytest.approx(standard_error(values))
    doubled = np.repeat(values, 4)
    error, freedom = standard_error(doubled, [index // 4 for index in range(120)])
    assert error == pytest.approx(standard_error(values)[0])
    assert freedom == 29


def test_clustered_coverage() -> None:
    """Items of a cluster share an effect: the plain interval is far too narrow, the clustered one is not."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(40), 5).tolist()
    hits = {"plain": 0, "clustered": 0}
    for _ in range(1000):
        values = np.repeat(rng.normal(size=40), 5) + 0.3 * rng.normal(size=200)
        plain, clustered = mean(values), mean(values, clusters=labels)
        hits["plain"] += plain.low <= 0 <= plain.high
        hits["clustered"] += clustered.low <= 0 <= clustered.high
    assert hits["plain"] < 750
    assert 925 <= hits["clustered"] <= 975


@pytest.mark.parametrize(
    ("successes", "n", "level"), [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0)]
)
def test_impossible_proportions_are_refused(successes: int, n: int, level: float) -> None:
    with pytest.raises(ValueError, match=r"successes|observations|level"):
        wilson(successes, n, level)


def test_impossible_means_are_refused() -> None:
    for values, clusters in (
        ([1.0], None),
        ([], None),
        ([1.0, math.nan], None),
        ([1.0, 2.0], ["a", "a"]),
        ([1.0, 2.0], ["a"]),
    ):
        with pytest.raises(ValueError, match=r"at least 2|no values|finite|labels"):
            mean(values, clusters=clusters)


@pytest.mark.parametrize(("errors", "n"), [(0, 381), (1, 563)])
def test_how_many_requests_show_an_error_rate_of_at_most_one_percent(errors: int, n: int) -> None:
    """The numbers docs/gates.md gives for `judge: value`."""
    assert wilson(errors, n).high <= 0.01 < wilson(errors, n - 1).high
