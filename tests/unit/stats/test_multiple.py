"""Many checks at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from servegate.stats.multiple import benjamini_hochberg, holm

# Benjamini and Hochberg (1995), §3.2: 15 p-values of a thrombolysis trial; 4 rejected at 5 % by theirs, 3 by Holm's.
PUBLISHED = [
    0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0,
]  # fmt: skip


def test_the_published_example() -> None:
    assert (benjamini_hochberg(PUBLISHED) <= 0.05).sum() == 4
    assert (holm(PUBLISHED) <= 0.05).sum() == 3


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=30))
def test_benjamini_hochberg_agrees_with_scipy_and_holm_is_stricter(p: list[float]) -> None:
    adjusted = benjamini_hochberg(p)
    if p:
        assert adjusted == pytest.approx(stats.false_discovery_control(p))
    assert (holm(p) >= adjusted - 1e-12).all()
    assert (adjusted >= np.array(p) - 1e-12).all()


def test_any_false_alarm_among_twenty_healthy_checks() -> None:
    p = np.random.default_rng(1).uniform(size=(4000, 20))
    assert (p.min(axis=1) <= 0.05).mean() > 0.6
    assert np.mean([(holm(row) <= 0.05).any() for row in p]) <= 0.055


@pytest.mark.parametrize("p", [[-0.1], [1.1], [float("nan")]])
def test_what_is_no_p_value_is_refused(p: list[float]) -> None:
    for adjust in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match="p-values"):
            adjust(p)
