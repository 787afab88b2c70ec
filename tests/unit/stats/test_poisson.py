"""Our quantile of the Poisson distribution against scipy's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson as theirs

from servegate.stats import poisson as ours


@given(st.floats(0.001, 0.999), st.floats(0.01, 1e5))
def test_quantile(p: float, mean: float) -> None:
    assert ours.quantile(p, mean) == theirs.ppf(p, mean)
