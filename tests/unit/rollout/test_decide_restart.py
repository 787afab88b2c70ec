"""A controller may die at any instruction. What decides is the state that was saved, so it must decide the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from decide_bench import UNREAD, Bench, delta
from hypothesis import given, settings
from hypothesis import strategies as st

from servegate.rollout.decide import decide
from servegate.rollout.model import Decision, Observation, Phase, SetWeights, State
from servegate.rollout.ports import Intent, RouteStatus
from servegate.rollout.simulate import Scenario, Side, simulate, trace

moments = st.fixed_dictionaries(
    {
        "length": st.integers(1, 30),
        "ready": st.sampled_from([(1, 1)] * 6 + [(1, 0), (0, 1), (0, 0)]),
        "green": st.sampled_from([delta(2)] * 5 + [delta(2, 1), delta(2, bucket=9), delta(0), UNREAD]),
        "blue": st.sampled_from([delta(18)] * 5 + [delta(18, 1), delta(18, bucket=9), delta(0), UNREAD]),
        "route": st.sampled_from(["served"] * 6 + [None, RouteStatus(False, {"blue": 100.0}, "no")]),
        "failed": st.sampled_from([None] * 12 + ["ended with status 1"]),
        "intent": st.sampled_from([None] * 10 + ["abort", "pause", "resume", "promote"]),
        "lost": st.booleans(),
    }
)


def restarted(bench: Bench, seen: Observation) -> Decision:
    """The decision of a controller that has just read the state from the store."""
    state = State.model_validate_json(bench.state.model_dump_json())
    return decide(bench.plan, state, Observation.model_validate_json(seen.model_dump_json()), bench.now)


@settings(max_examples=25, deadline=None)
@given(st.lists(moments, min_size=1, max_size=8))
def test_a_restart_at_any_tick_has_the_same_future(story: list[dict[str, Any]]) -> None:
    bench = Bench()
    for moment in story:
        options = {key: moment[key] for key in ("ready", "green", "blue", "route", "failed")}
        kind = moment["intent"]
        for number in range(moment["length"]):
            intents = (Intent(bench.intents + 1, str(kind), "kim", 0.0),) if kind and number == 0 else ()
            bench.intents += len(intents)
            bench.now += bench.plan.tick
            seen = bench.observation(intents=intents, **options)
            expected = restarted(bench, seen)
            bench.now -= bench.plan.tick
            assert bench.tick(seen) == expected


@settings(max_examples=25, deadline=None)
@given(st.lists(moments, min_size=1, max_size=6))
def test_effects_lost_by_a_kill_are_made_up_for(story: list[dict[str, Any]]) -> None:
    # Killed after the state was saved and before the effects: the ticks marked `lost` save and do nothing.
    bench = Bench()
    for moment in story:
        options = {key: moment[key] for key in ("ready", "green", "blue", "route", "failed")}
        for _ in range(moment["length"]):
            served = dict(bench.served)
            bench.tick(**options)
            if moment["lost"]:
                bench.served = served
    for _ in range(1200):
        if bench.state.phase.finished:
            break
        bench.tick()
    bench.ticks(3)
    assert bench.state.phase in (Phase.PROMOTED, Phase.ROLLED_BACK)
    assert bench.served == bench.state.weights
    assert bench.served[bench.state.stable] == 100


def test_every_tick_of_a_simulated_rollout_decides_the_same_after_a_round_trip() -> None:
    scenario = Scenario("slow", candidate=Side(ttft_median=0.15), onset=20.0)
    bench = Bench()
    for state, tick in trace(bench.plan, scenario, seed=3):
        assert State.model_validate_json(state.model_dump_json()) == state
        assert tick.at == state.updated
    assert state.phase is Phase.ROLLED_BACK
    assert state.cause == "ttft"


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
    # A sample of what benchmarks/rollout_decisions.py measures over many more runs.
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
    assert 30 <= dead.decided <= 34


def test_the_router_serves_what_was_last_written() -> None:
    bench = Bench()
    bench.until(Phase.PROMOTED)
    written = [action for decision in bench.decisions for action in decision.actions if isinstance(action, SetWeights)]
    assert [action.weights["green"] for action in written] == [1.0, 10.0, 50.0, 95.0, 100.0]
