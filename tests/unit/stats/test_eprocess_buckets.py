"""Bucket vectors: what is exact, and what is only for showing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.stats.histogram import fraction_over, quantile, slower

counts = st.lists(st.integers(0, 6), min_size=4, max_size=4)


@given(counts, counts)
def test_slower_counts_pairs(candidate: list[int], stable: list[int]) -> None:
    one = [bucket for bucket, count in enumerate(candidate) for _ in range(count)]
    other = [bucket for bucket, count in enumerate(stable) for _ in range(count)]
    if not one or not other:
        assert slower(candidate, stable) is None
        return
    wins = sum((a > b) + (a == b) / 2 for a, b in itertools.product(one, other))
    assert slower(candidate, stable) == pytest.approx(wins / (len(one) * len(other)))


@given(counts, counts)
def test_slower_is_antisymmetric(candidate: list[int], stable: list[int]) -> None:
    forth, back = slower(candidate, stable), slower(stable, candidate)
    assert (forth is None) == (back is None)
    if forth is not None and back is not None:
        assert forth + back == pytest.approx(1.0)


def test_slower_refuses_other_buckets() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        slower([1, 2, 3], [1, 2])


def test_share_above_an_edge_is_exact_and_other_times_are_refused() -> None:
    edges, values = (0.1, 0.25, 0.5), (6, 2, 1, 1)
    assert fraction_over(edges, values, 0.1) == pytest.approx(0.4)
    assert fraction_over(edges, values, 0.5) == pytest.approx(0.1)
    assert fraction_over(edges, (0, 0, 0, 0), 0.1) is None
    with pytest.raises(ValueError, match="not a bucket edge"):
        fraction_over(edges, values, 0.3)


def test_quantile_interpolates_and_stops_at_the_last_edge() -> None:
    edges = (0.1, 0.2, 0.4)
    assert quantile(edges, (0, 10, 0, 0), 0.5) == pytest.approx(0.15)
    assert quantile(edges, (10, 0, 10, 0), 0.75) == pytest.approx(0.3)
    assert quantile(edges, (0, 0, 0, 5), 0.5) == 0.4
    assert quantile(edges, (0, 0, 0, 0), 0.5) is None
    assert quantile(edges, (4, 0, 0, 0), 0.0) == 0.0
