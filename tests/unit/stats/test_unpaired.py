"""Independent measurements: published examples and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from servegate.stats.intervals import Interval, mean, wilson
from servegate.stats.quantiles import order_statistic_interval
from servegate.stats.unpaired import difference, rate_ratio, rate_ratio_p, ratio


@pytest.mark.parametrize(
    ("new", "old", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
    ],
)
def test_proportions_match_the_published_table(
    new: tuple[int, int], old: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe, Stat. Med. 17:873 (1998), table II, method 10."""
    found = difference(new[0] / new[1], wilson(*new), old[0] / old[1], wilson(*old))
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_rate_ratio_matches_the_example_of_r() -> None:
    """`poisson.test(c(11, 6+8+7), c(800, 1083+1050+878))` in R's documentation."""
    found = rate_ratio(11, 800, 21, 3011)
    assert (found.low, found.high) == pytest.approx((0.8584264, 4.2772659), abs=1e-6)


def test_rate_ratio_at_the_edges() -> None:
    assert rate_ratio(0, 100, 0, 100).high == math.inf
    assert rate_ratio(0, 100, 5, 100).low == 0
    assert rate_ratio(5, 100, 0, 100).high == math.inf
    assert rate_ratio(5, 100, 0, 100).low > 0


@pytest.mark.parametrize(
    ("new", "old", "supposed"), [(11, 21, 1.0), (3, 9, 1.5), (0, 4, 1.0), (4, 0, 2.0), (0, 0, 1.0)]
)
def test_rate_ratio_p_values_agree_with_scipy_and_the_interval(new: int, old: int, supposed: float) -> None:
    below, above = rate_ratio_p(new, 800, old, 3011, supposed)
    share = supposed * 800 / (supposed * 800 + 3011)
    if new + old:
        assert below == pytest.approx(stats.binomtest(new, new + old, share, alternative="less").pvalue)
        assert above == pytest.approx(stats.binomtest(new, new + old, share, alternative="greater").pvalue)
    else:
        assert (below, above) == (1.0, 1.0)
    interval = rate_ratio(new, 800, old, 3011, 0.9)
    assert (above <= 0.05) == (interval.low >= supposed)
    assert (below <= 0.05) == (interval.high <= supposed)


def test_rate_ratio_covers() -> None:
    rng = np.random.default_rng(1)
    new, old = rng.binomial(1000, 0.02, 800), rng.binomial(2000, 0.01, 800)
    found = [rate_ratio(int(a), 1000, int(b), 2000) for a, b in zip(new, old, strict=True)]
    assert np.mean([interval.low <= 2 <= interval.high for interval in found]) >= 0.95


def test_quantiles_of_two_runs_cover_their_ratio() -> None:
    """p95 of lognormal latencies, the second run 10 % slower."""
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        ends = []
        for scale in (1.1, 1.0):
            values = scale * rng.lognormal(-1.2, 0.6, 400)
            bounds = order_statistic_interval(values, 0.95)
            assert bounds is not None
            ends.append((float(np.quantile(values, 0.95)), Interval(*bounds, 0.95, "order-statistic")))
        found = ratio(*ends[0], *ends[1])
        hits += found.low <= 1.1 <= found.high
    assert hits >= 0.93 * 300


def test_means_cover_like_welch() -> None:
    rng = np.random.default_rng(3)
    one, two = rng.normal(1, 1, 50), rng.normal(0, 2, 80)
    ends = [mean(values) for values in (one, two)]
    found = difference(float(one.mean()), ends[0], float(two.mean()), ends[1])
    theirs = stats.ttest_ind(one, two, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_what_cannot_be_compared_is_refused() -> None:
    wide, narrow = Interval(0.1, 0.2, 0.95, "t"), Interval(0.1, 0.2, 0.9, "t")
    with pytest.raises(ValueError, match="levels"):
        difference(0.15, wide, 0.15, narrow)
    with pytest.raises(ValueError, match="positive"):
        ratio(0.15, wide, 0.0, Interval(0.0, 0.1, 0.95, "t"))
    with pytest.raises(ValueError, match="exposures"):
        rate_ratio(1, 0, 1, 10)
