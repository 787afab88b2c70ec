"""The benchmark judges many runs at once; each of them as the engine would."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decide_bench import plan
from pydantic import TypeAdapter

from servegate.rollout import bets, evidence
from servegate.rollout.checks import Check
from servegate.rollout.interval import View
from servegate.rollout.model import CheckState
from servegate.rollout.seen import Buckets, SlotDelta
from servegate.stats import eprocess, quality, shift

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
TICKS = 80


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the vectorised rules."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("rollout_bench.rules")


def engine(draws: Any, check: dict[str, Any], run: int) -> list[float]:
    """Evidence of one check after every tick of a run, from the engine."""
    made: Check = TypeAdapter(Check).validate_python({"name": "it", "share": "30%", "min_requests": 1, **check})
    base = plan()
    limits = base.limits.model_copy(update={"step": 3600.0, "held": 0.0})
    update = {"tick": 5.0, "limits": limits, "checks": (made,), "steps": base.steps[-1:]}
    the_plan = base.model_copy(update=update)
    assert the_plan.horizon(made) == 720
    edges = tuple(float(edge) for edge in importlib.import_module("rollout_bench.traffic").TTFT_EDGES)
    state, found = CheckState(), []
    for tick in range(TICKS):
        deltas = {}
        for index, slot in enumerate(("green", "blue")):
            counts = tuple(float(count) for count in draws.ttft[index][run, tick])
            deltas[slot] = SlotDelta(
                gateway=True,
                pods=1,
                counters={
                    "gateway_requests": float(draws.requests[index][run, tick]),
                    "gateway_5xx": float(draws.failures[index][run, tick]),
                },
                histograms={"ttft": Buckets(edges=edges, counts=counts)},
            )
        weight = 100 * draws.weight
        view = View(5.0 * tick + 5, 5.0 * tick, "blue", "green", weight, False, deltas, {"blue": 9, "green": 1})
        state = evidence.advance(the_plan, made, state, view)
        found.append(evidence.log_e(the_plan, made, state))
    return found


@pytest.mark.parametrize("name", ["iid", "TTFT x1.2", "errors 0.5 -> 3 %", "bursts of errors", "dead pods"])
def test_the_benchmark_judges_as_the_engine_does(bench: Any, name: str) -> None:
    traffic = importlib.import_module("rollout_bench.traffic")
    scenario = next(one for one in traffic.SCENARIOS if one.name == name)
    draws = traffic.draw(scenario, 50.0, 2, 7)
    bad, base = bench.outcomes(draws)
    errors = bench.events(draws, bad, base)
    objective = bench.objective(bad[0], base[0], bench.OBJECTIVE)
    ttft = bench.latency(draws, "ttft", bench.blocks(draws, "ttft"), bench.weather())
    weather = {"sd": "15%", "lasts": "47456.1ms"}
    slo = {"kind": "errors-slo", "at_most": f"{bench.OBJECTIVE:%}", "min_requests": bench.SLO_NEED}
    for run in range(2):
        ours = engine(draws, {"kind": "errors-vs-stable", "odds_ratio": 1.0}, run)
        assert ours == pytest.approx(list(errors[run, :TICKS]), abs=1e-6)
        ours = engine(draws, slo, run)
        assert ours == pytest.approx(list(objective[run, :TICKS]), abs=1e-6)
        check = {"kind": "latency-vs-stable", "margin": "2%", "weather": weather, "min_requests": 4, "load_ratio": 2}
        ours = engine(draws, check, run)
        assert ours == pytest.approx(list(ttft[run, :TICKS]), abs=0.02)


def test_many_wealths_at_once_are_each_the_scalar_one(bench: Any) -> None:
    how, rng = bets.bets_against(50), np.random.default_rng(1)
    wealth = bench.Wealth(how, 3)
    scalar: list[tuple[int, tuple[float, ...]]] = [(0, ())] * 3
    for _ in range(80):
        use, ratio = rng.random(3) < 0.7, rng.exponential(1.0, 3)
        wealth.advance(use, ratio)
        scalar = [
            (n + 1, eprocess.advance(how, n, log_wealth, [(float(r), 1)])) if used else (n, log_wealth)
            for (n, log_wealth), used, r in zip(scalar, use, ratio, strict=True)
        ]
        expected = [eprocess.log_e(how, n, log_wealth) for n, log_wealth in scalar]
        assert list(wealth.log_e()) == pytest.approx(expected, abs=1e-9)


def test_many_filters_at_once_are_each_the_scalar_one(bench: Any) -> None:
    filters, rng, runs = importlib.import_module("rollout_bench.filters"), np.random.default_rng(2), 4
    how = shift.weather(sd=0.15, lasts=47.5, tick=5.0, horizon=40)
    edges = [float(edge) for edge in np.log([0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0])]
    many, alone = filters.start(how, (runs,)), [shift.start(how)] * runs
    for _ in range(60):
        shown = rng.poisson(2.0, (3, runs, 8)) * rng.integers(0, 2, (3, runs, 8)) + 0.0
        shown[1:, :, 2] += 1.0
        shown[1, rng.random(runs) < 0.2, :4], shown[2, :, 6:] = 0.0, 0.0
        shown[1, :, 5] += 1.0
        nc, nb = shown[1].sum(-1), shown[2].sum(-1)
        y, v = filters.measure(np.array(edges), *shown, nc, nb)
        since = float(rng.integers(1, 4))
        many = filters.advance(how, many._replace(since=np.full(runs, since)), y, v)
        for run in range(runs):
            reference, candidate, stable = (counts[run].tolist() for counts in shown)
            found = shift.measure(edges, reference, candidate, stable, float(nc[run]), float(nb[run]))
            assert found == pytest.approx((y[run], v[run]), rel=1e-9)
            alone[run] = shift.advance(how, alone[run], since, *found)
    expected = [shift.log_e(how, state) for state in alone]
    assert list(filters.log_e(how, many)) == pytest.approx(expected, rel=1e-9)


def test_many_suites_at_once_are_each_judged_as_the_engine_does(bench: Any) -> None:
    traffic = importlib.import_module("rollout_bench.traffic")
    scenario = next(one for one in traffic.SCENARIOS if one.name == "quality -10 points")
    draws = traffic.draw(scenario, 0.1, 2, 7)
    found, how = bench.quality(draws), bets.bets_on_items(bench.HORIZON)
    for run in range(2):
        before, wealth, expected = quality.Sums(), tuple[float, ...](), []
        for tick in range(TICKS):
            worse = quality.harm(0.5 + draws.items[run, tick] / 2, 0.5 - draws.items[run, tick] / 2)
            ratio = quality.ratio_against(worse, bench.QUALITY_MARGIN, bench.SUITE, before)
            wealth = eprocess.advance(how, tick, wealth, [(ratio, 1)])
            before = quality.Sums(asked=tick + 1, scored=tick + 1, harm=before.harm + worse)
            expected.append(eprocess.log_e(how, tick + 1, wealth))
        assert expected == pytest.approx(list(found[run, :TICKS]), abs=1e-6)
