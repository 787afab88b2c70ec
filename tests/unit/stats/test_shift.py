"""A lasting shift of latency is told from passing weather; one interval never decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import norm

from servegate.stats import shift

HOW = shift.weather(sd=0.15, lasts=47.5, tick=5.0, horizon=720)


def run(y: list[float], noise: float, how: shift.Weather = HOW) -> list[float]:
    state, found = shift.start(how), []
    for value in y:
        state = shift.advance(how, state, 1.0, value, noise)
        found.append(shift.log_e(how, state))
    return found


def ar1(rng: np.random.Generator, n: int, sd: float, rho: float) -> np.ndarray:
    found = [rng.normal(0, sd)]
    for _ in range(n - 1):
        found.append(rho * found[-1] + rng.normal(0, sd * math.sqrt(1 - rho * rho)))
    return np.array(found)


@given(st.floats(0, 20))
def test_the_cumulant_is_that_of_a_clipped_normal(stake: float) -> None:
    clip = shift.CLIP
    inside, _ = integrate.quad(lambda z: math.exp(stake * (z - clip)) * norm.pdf(z), -clip, clip, epsabs=1e-13)
    ends = norm.cdf(-clip) * (1 + math.exp(-2 * stake * clip))
    expected = stake * clip + math.log(inside + ends)
    assert shift.cumulant(stake) == pytest.approx(expected, abs=1e-6)


def test_a_lasting_shift_is_seen_and_none_or_a_faster_release_is_not() -> None:
    noise = 0.05**2
    rng = np.random.default_rng(1)
    scatter = rng.normal(0, 0.05, 60)
    assert run(list(math.log(1.5) + scatter), noise)[30] > math.log(400)
    assert max(run(list(scatter), noise)) < math.log(20)
    assert run(list(math.log(0.7) + scatter), noise)[-1] < 0


def test_weather_on_the_grid_is_hardly_ever_an_alarm() -> None:
    rng, runs, ticks = np.random.default_rng(2), 100, 360
    y = [ar1(rng, ticks, 0.15, 0.9) + rng.normal(0, 0.05, ticks) for _ in range(runs)]
    highest = [max(run(list(row), 0.05**2)) for row in y]
    assert sum(value >= math.log(100) for value in highest) <= 4  # one in a hundred is allowed: 1 expected at most


@given(st.floats(-5, 5), st.floats(1e-4, 1.0))
def test_no_single_interval_decides(value: float, noise: float) -> None:
    quiet = [0.0] * 5
    before = run(quiet, noise)[-1]
    assert run([*quiet, value], noise)[-1] - max(before, 0.0) <= -math.log(norm.cdf(-shift.CLIP)) + 1e-9
    assert run([value], noise)[0] < math.log(333)


@settings(max_examples=30)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=12), st.floats(1e-6, 1.0))
def test_whatever_is_measured_the_state_is_finite(y: list[float], noise: float) -> None:
    assert all(math.isfinite(value) for value in run(y, noise))


EDGES = [math.log(edge) for edge in (0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0)]


def histogram(rng: np.random.Generator, n: int, factor: float) -> list[float]:
    values = np.log(0.3 * factor) + 0.6 * rng.standard_normal(n)
    counts: list[float] = np.histogram(values, np.concatenate([[-np.inf], EDGES, [np.inf]]))[0].astype(float).tolist()
    return counts


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2, 1.5])
def test_the_log_ratio_is_measured_from_buckets(factor: float) -> None:
    rng = np.random.default_rng(4)
    reference = histogram(rng, 20_000, 1.0)
    found = np.array(
        [
            shift.measure(EDGES, reference, histogram(rng, 50, factor), histogram(rng, 450, 1.0), 50.0, 450.0)
            for _ in range(400)
        ]
    )
    # Wide buckets bend it a little: 4 % of a shift of 50 %.
    assert found[:, 0].mean() == pytest.approx(math.log(factor), abs=0.05)
    assert found[:, 0].var() == pytest.approx(found[:, 1].mean(), rel=0.35)


def test_slots_that_are_far_apart_are_measured_by_their_gap() -> None:
    fast, slow = [0.0, 20.0, 0, 0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0, 0, 20.0, 0]
    y, v = shift.measure(EDGES, fast, slow, fast, 20.0, 20.0)
    assert y == pytest.approx(math.log(2.5 / 0.25))
    assert v > 0
    back, _ = shift.measure(EDGES, slow, fast, slow, 20.0, 20.0)
    assert back == pytest.approx(-math.log(2.5 / 0.25))
