"""The bound on false alarms is arithmetic: it is checked as such, then once by chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.stats.eprocess import Bets, advance, log_e

BETS = Bets(stakes=(0.1, 0.5, 0.95), prior=(0.2, 0.3, 0.5), at_once=0.6, horizon=8)


def wealth_after(bets: Bets, ratios: list[float]) -> float:
    logs: tuple[float, ...] = ()
    for n, ratio in enumerate(ratios):
        logs = advance(bets, n, logs, [(ratio, 1)])
    return log_e(bets, len(ratios), logs)


def test_before_the_first_interval_there_is_no_evidence() -> None:
    assert wealth_after(BETS, []) == 0.0


@given(st.integers(1, 40))
def test_what_is_exactly_at_its_bound_neither_gains_nor_loses(n: int) -> None:
    # All shares of the wealth are accounted for at every time: those that bet, and those that wait.
    assert wealth_after(BETS, [1.0] * n) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("high", [1.5, 4.0, 10.0])
def test_no_gain_in_expectation_over_all_paths(high: float) -> None:
    # x/m is `high` with probability 1/high, else 0: the mean is exactly the largest that the null allows.
    n, p = 6, 1 / high
    expectation = math.fsum(
        math.exp(wealth_after(BETS, list(path))) * math.prod(p if ratio else 1 - p for ratio in path)
        for path in itertools.product((0.0, high), repeat=n)
    )
    assert expectation == pytest.approx(1.0, rel=1e-9)


RESERVED = Bets(stakes=(0.1, 0.5, 0.95), prior=(0.2, 0.3, 0.5), at_once=0.6, horizon=8, reserve=0.3)


def wealth_with_calls(bets: Bets, ratios: list[float], called: Callable[[list[float]], bool]) -> float:
    logs: tuple[float, ...] = ()
    calls = 0
    for n, ratio in enumerate(ratios):
        call = called(ratios[:n])
        calls += call
        logs = advance(bets, n, logs, [(ratio, 1)], calls if call else 0)
    return log_e(bets, len(ratios), logs, calls)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_what_is_called_from_the_reserve_is_accounted_for(calls: list[bool]) -> None:
    assert wealth_with_calls(RESERVED, [1.0] * len(calls), lambda seen: calls[len(seen)]) == pytest.approx(
        0.0, abs=1e-12
    )


@pytest.mark.parametrize(
    "called",
    [
        lambda seen: bool(seen) and seen[-1] > 0,
        lambda seen: sum(seen) > 2 * len(seen),
        lambda seen: len(seen) >= 2 and seen[-1] == 0 == seen[-2],
    ],
)
def test_no_gain_in_expectation_however_the_past_calls_the_reserve(called: Callable[[list[float]], bool]) -> None:
    n, high = 7, 4.0
    expectation = math.fsum(
        math.exp(wealth_with_calls(RESERVED, list(path), called))
        * math.prod(1 / high if ratio else 1 - 1 / high for ratio in path)
        for path in itertools.product((0.0, high), repeat=n)
    )
    assert expectation == pytest.approx(1.0, rel=1e-9)


def test_a_late_outage_is_seen_as_soon_as_an_early_one_with_a_reserve() -> None:
    def intervals(bets: Bets, healthy: int) -> int:
        path = [0.9] * healthy + [8.0] * 20
        seen = range(healthy, len(path))
        return next(n for n in seen if wealth_with_calls(bets, path[:n], _after_loud) >= math.log(1000)) - healthy

    with_reserve = Bets((0.1, 0.5, 0.95), (0.2, 0.3, 0.5), 0.6, horizon=300, reserve=0.3)
    without = Bets((0.1, 0.5, 0.95), (0.2, 0.3, 0.5), 0.6, horizon=300)
    assert intervals(with_reserve, 200) < intervals(without, 200)
    assert intervals(with_reserve, 200) == intervals(with_reserve, 100)


def _after_loud(seen: list[float]) -> bool:
    return bool(seen) and seen[-1] > 5


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12))
def test_equals_the_mixture_over_stakes_and_starts_written_out(ratios: list[float]) -> None:
    harmonic = math.fsum(1 / k for k in range(1, BETS.horizon + 1))
    weights = [BETS.at_once] + [(1 - BETS.at_once) / (s * harmonic) for s in range(1, BETS.horizon + 1)]
    total = 0.0
    for stake, prior in zip(BETS.stakes, BETS.prior, strict=True):
        for begins, weight in enumerate(weights):
            total += prior * weight * math.prod(1 + stake * (ratio - 1) for ratio in ratios[begins:])
    assert wealth_after(BETS, ratios) == pytest.approx(math.log(total), abs=1e-9)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12), st.integers(0, 11), st.floats(0, 5))
def test_a_louder_interval_is_never_less_evidence(ratios: list[float], at: int, more: float) -> None:
    at %= len(ratios)
    louder = [ratio + (more if index == at else 0) for index, ratio in enumerate(ratios)]
    assert wealth_after(BETS, louder) >= wealth_after(BETS, ratios) - 1e-12


def test_several_observations_in_an_interval_multiply() -> None:
    once = advance(BETS, 0, (), [(1.2, 3), (0.0, 1)])
    factors = [(1 + stake * 0.2) ** 3 * (1 - stake) * BETS.at_once for stake in BETS.stakes]
    assert once == pytest.approx([math.log(factor) for factor in factors])


def test_a_defect_after_long_health_is_found_sooner_with_starts_that_wait() -> None:
    healthy, broken = [0.8] * 150, [1.6] * 40
    first = {}
    for at_once in (0.6, 1.0):
        bets = Bets(BETS.stakes, BETS.prior, at_once, horizon=300)
        logs: tuple[float, ...] = ()
        for n, ratio in enumerate(healthy + broken):
            logs = advance(bets, n, logs, [(ratio, 1)])
            if log_e(bets, n + 1, logs) >= math.log(100) and at_once not in first:
                first[at_once] = n + 1 - len(healthy)
    assert first[0.6] < 30
    assert 1.0 not in first


@pytest.mark.parametrize("seed", [0, 1])
def test_false_alarms_over_a_whole_run_stay_below_alpha(seed: int) -> None:
    rng, runs, alpha = np.random.default_rng(seed), 150, 0.1
    bets = Bets((0.3, 0.9), (0.5, 0.5), 0.7, horizon=60)
    alarms = 0
    for _ in range(runs):
        logs: tuple[float, ...] = ()
        for n, hit in enumerate(rng.random(60) < 0.2):
            logs = advance(bets, n, logs, [(5.0 if hit else 0.0, 1)])
            if log_e(bets, n + 1, logs) >= -math.log(alpha):
                alarms += 1
                break
    # Three standard deviations of the binomial above alpha.
    assert alarms <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))


@pytest.mark.parametrize(
    ("stakes", "prior", "at_once", "horizon"),
    [
        ((), (), 0.5, 1),
        ((0.5,), (0.5, 0.5), 0.5, 1),
        ((1.0,), (1.0,), 0.5, 1),
        ((0.0,), (1.0,), 0.5, 1),
        ((0.5, 0.6), (0.7, 0.7), 0.5, 1),
        ((0.5, 0.6), (1.5, -0.5), 0.5, 1),
        ((0.5,), (1.0,), 0.0, 1),
        ((0.5,), (1.0,), 0.5, 0),
    ],
)
def test_bets_that_would_not_be_fair_are_refused(
    stakes: tuple[float, ...], prior: tuple[float, ...], at_once: float, horizon: int
) -> None:
    with pytest.raises(ValueError, match=r"stake|prior|at_once"):
        Bets(stakes, prior, at_once, horizon)


@pytest.mark.parametrize("reserve", [-0.1, 0.5])
def test_a_reserve_is_a_part_of_what_does_not_bet_at_once(reserve: float) -> None:
    with pytest.raises(ValueError, match="reserve"):
        Bets((0.5,), (1.0,), 0.6, 8, reserve)
