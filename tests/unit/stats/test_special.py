"""Our special functions against scipy's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special as theirs
from scipy.stats import binom

from servegate.stats import special as ours

PROBABILITIES = (1e-9, 1e-4, 0.01, 0.025, 0.05, 0.3, 0.5, 0.8, 0.95, 0.975, 0.999)


def same(expected: float) -> object:
    return pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("x", [-30.0, -8.2, -3.0, -1.0, 0.0, 0.3, 1.645, 5.0, 40.0])
def test_normal(x: float) -> None:
    assert ours.ndtr(x) == same(float(theirs.ndtr(x)))


@pytest.mark.parametrize("p", PROBABILITIES)
def test_quantiles(p: float) -> None:
    assert ours.ndtri(p) == same(float(theirs.ndtri(p)))
    for freedom in (1, 2, 5, 30, 199, 9_999):
        assert ours.stdtrit(freedom, p) == pytest.approx(float(theirs.stdtrit(freedom, p)), rel=1e-8, abs=1e-12)
    for a, b in ((1, 1), (1, 400), (3, 2), (50, 3), (2_000, 10_000)):
        assert ours.betaincinv(a, b, p) == pytest.approx(float(theirs.betaincinv(a, b, p)), rel=1e-8)


@given(st.floats(0.5, 20_000), st.floats(0.5, 20_000), st.floats(0, 1))
def test_beta(a: float, b: float, x: float) -> None:
    assert ours.betainc(a, b, x) == pytest.approx(float(theirs.betainc(a, b, x)), rel=1e-7, abs=1e-12)


@given(st.integers(1, 20_000), st.floats(-50, 50))
def test_student(freedom: int, t: float) -> None:
    assert ours.stdtr(freedom, t) == pytest.approx(float(theirs.stdtr(freedom, t)), rel=1e-7, abs=1e-12)


def test_ends() -> None:
    assert (ours.betainc(2, 3, 0), ours.betainc(2, 3, 1)) == (0, 1)
    assert ours.stdtrit(7, 0.5) == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 3_000), st.integers(0, 3_000), st.floats(0.001, 0.999))
def test_tail_of_the_binomial(successes: int, trials: int, p: float) -> None:
    expected = float(binom.sf(successes - 1, trials, p))
    assert ours.binomial_tail(successes, trials, p) == pytest.approx(expected, rel=1e-7, abs=1e-12)
