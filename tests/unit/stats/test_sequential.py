"""Group-sequential limits: published tables, and the error of all looks together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from servegate.stats.sequential import Spending, limits, nominal_levels, spent


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        ("obrien-fleming", [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
        ("pocock", [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
    ],
)
def test_five_equal_looks_match_the_published_limits(spending: Spending, published: list[float]) -> None:
    """Lan–DeMets limits at one-sided 0.025 (Reboussin et al., Controlled Clinical Trials 21:190, 2000)."""
    assert limits([0.2, 0.4, 0.6, 0.8, 1.0], 0.025, spending) == pytest.approx(published, abs=5e-4)


def test_one_look_is_the_fixed_test() -> None:
    assert nominal_levels([1.0], 0.05) == pytest.approx([0.05])
    assert spent([1.0], 0.05)[0] == pytest.approx(0.05)


@pytest.mark.parametrize("shares", [[0.25, 0.5, 1.0], [0.1, 0.9, 1.0]])
@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
def test_all_looks_together_err_in_alpha(shares: list[float], spending: Spending) -> None:
    rng = np.random.default_rng(1)
    steps = np.diff(shares, prepend=0.0)
    walks = np.cumsum(rng.normal(size=(200_000, 3)) * np.sqrt(steps), axis=1) / np.sqrt(shares)
    levels = nominal_levels(shares, 0.05, spending)
    assert (special.ndtr(-walks) <= levels).any(axis=1).mean() == pytest.approx(0.05, abs=0.002)
    assert (special.ndtr(-walks) <= 0.05).any(axis=1).mean() > 0.065


def test_later_looks_do_not_change_earlier_limits() -> None:
    assert limits([0.3, 0.6, 1.0], 0.05)[:2] == pytest.approx(limits([0.3, 0.6], 0.05))


@pytest.mark.parametrize(
    ("shares", "alpha"), [([], 0.05), ([0.5, 0.5], 0.05), ([0.5, 1.1], 0.05), ([0.0], 0.05), ([1.0], 0.6)]
)
def test_impossible_plans_are_refused(shares: list[float], alpha: float) -> None:
    with pytest.raises(ValueError, match=r"rise|one-sided"):
        limits(shares, alpha)
