"""Intervals that hold at every look: how often they miss, how soon they find, and the sample-ratio test."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from servegate.stats.always_valid import (
    fixed_half_width,
    half_width,
    sample_ratio_log_e,
    users_fixed,
    users_sequential,
)

LOOKS = np.arange(100, 5001, 50)


def z_paths(runs: int, effect: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Estimates of a difference of two means and their variances at every look; values have variance 1."""
    rng = np.random.default_rng(seed)
    one = np.cumsum(rng.normal(0.0, 1.0, (runs, LOOKS[-1])), axis=1)[:, LOOKS - 1] / LOOKS
    other = np.cumsum(rng.normal(effect, 1.0, (runs, LOOKS[-1])), axis=1)[:, LOOKS - 1] / LOOKS
    return other - one, 2.0 / LOOKS


def test_looking_always_costs_nothing_and_the_ordinary_interval_does() -> None:
    estimates, variances = z_paths(600, 0.0, seed=1)
    widths = np.array([half_width(v, 0.1, 0.05) for v in variances])
    ordinary = np.array([fixed_half_width(v, 0.05) for v in variances])
    assert np.mean(np.any(np.abs(estimates) > widths, axis=1)) <= 0.05
    assert np.mean(np.any(np.abs(estimates) > ordinary, axis=1)) > 0.2


def test_an_effect_is_found_by_the_planned_number_of_users() -> None:
    effect = 0.1
    planned = users_sequential(1.0, effect, 0.05, 0.8, 0.5)
    estimates, variances = z_paths(400, effect, seed=2)
    last = int(np.searchsorted(LOOKS, planned / 2))
    widths = np.array([half_width(v, effect, 0.05) for v in variances[: last + 1]])
    assert np.mean(np.any(np.abs(estimates[:, : last + 1]) > widths, axis=1)) >= 0.8


def test_users_needed() -> None:
    # Two proportions of 50 %, 2 points, two-sided 5 %, 80 %: 7.85 × 2 × 0.25 / 0.0004 per arm.
    assert users_fixed(0.25, 0.02, 0.05, 0.8, 0.5) == pytest.approx(2 * 9811, abs=10)
    assert users_fixed(0.25, 0.02, 0.05, 0.8, 0.1) > 2.5 * users_fixed(0.25, 0.02, 0.05, 0.8, 0.5)
    fixed, sequential = users_fixed(1.0, 0.1, 0.05, 0.8, 0.5), users_sequential(1.0, 0.1, 0.05, 0.8, 0.5)
    assert 1.2 * fixed < sequential < 3 * fixed


def test_the_ratio_test_at_every_look() -> None:
    rng = np.random.default_rng(3)

    def fires(true: float, planned: float) -> float:
        firsts = np.cumsum(rng.random((400, 4000)) < true, axis=1)
        hits = 0
        for path in firsts:
            looks = range(50, 4001, 50)
            hits += any(
                sample_ratio_log_e(int(path[n - 1]), n - int(path[n - 1]), planned) >= math.log(100) for n in looks
            )
        return hits / 400

    assert fires(0.1, 0.1) <= 0.01
    assert fires(0.15, 0.1) >= 0.95


def test_nothing_known_is_an_interval_without_ends() -> None:
    assert half_width(0.0, 0.1, 0.05) == math.inf
    assert fixed_half_width(0.0, 0.05) == math.inf


@pytest.mark.parametrize("call", [lambda: half_width(1, 0, 0.05), lambda: half_width(1, 1, 1.5)])
def test_what_makes_no_sense_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        call()
    with pytest.raises(ValueError, match="no sense"):
        sample_ratio_log_e(-1, 2, 0.5)
