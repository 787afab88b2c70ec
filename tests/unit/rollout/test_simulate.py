"""The simulation: repeatable, and a sample of what benchmarks/rollout_decisions.py measures over many more runs."""

from __future__ import annotations

from dataclasses import replace

from decide_bench import Bench

from servegate.rollout.model import Phase
from servegate.rollout.simulate import Scenario, Side, simulate


def test_a_run_can_be_repeated_alone() -> None:
    plan = Bench().plan
    scenario = Scenario("errors", candidate=Side(error_rate=0.3))
    first = simulate(plan, scenario, 7)
    assert first == simulate(plan, scenario, 7)
    assert first != simulate(plan, scenario, 8)
    assert first.phase is Phase.ROLLED_BACK
    assert 0 < first.failures < first.requests
    assert first.weight == 10


def test_broken_candidates_are_caught_at_ten_percent_and_healthy_ones_are_promoted() -> None:
    plan = Bench().plan
    healthy = Side()
    for seed in range(3):
        fine = simulate(plan, Scenario("healthy", healthy, healthy), seed)
        assert (fine.phase, fine.decided) == (Phase.PROMOTED, None)
        assert fine.seconds <= 100
        for broken in (replace(healthy, ttft_median=2 * healthy.ttft_median), replace(healthy, error_rate=0.3)):
            run = simulate(plan, Scenario("broken", healthy, broken), seed)
            assert run.phase is Phase.ROLLED_BACK
            assert run.decided is not None
            assert run.decided - run.weights_at[10.0] <= 60
            assert run.weight == 10


def test_a_burst_and_a_death_in_the_simulation() -> None:
    plan = Bench().plan
    healthy = Side()
    burst = Scenario("burst", healthy, replace(healthy, burst_at=0.0), burst_anywhere=60.0)
    assert simulate(plan, burst, 1).phase is Phase.PROMOTED
    dead = simulate(plan, Scenario("dies", healthy, replace(healthy, dies_at=30.0)), 1)
    assert dead.phase is Phase.ROLLED_BACK
    assert dead.cause == "unready"
    assert dead.decided is not None
    assert 30 <= dead.decided <= 34  # the tests' plan lets it be unready for 2 s
