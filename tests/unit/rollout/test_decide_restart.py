"""A controller may die at any instruction. What decides is the state that was saved, so it must decide the same."""

from __future__ import annotations

from typing import Any

from decide_bench import UNREAD, Bench, delta
from hypothesis import given, settings
from hypothesis import strategies as st

from servegate.rollout.decide import decide
from servegate.rollout.model import Decision, Observation, Phase, SetWeights, State
from servegate.rollout.ports import Intent, RouteStatus
from servegate.rollout.simulate import Scenario, Side, trace

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


def test_the_router_serves_what_was_last_written() -> None:
    bench = Bench()
    bench.until(Phase.PROMOTED)
    written = [action for decision in bench.decisions for action in decision.actions if isinstance(action, SetWeights)]
    assert [action.weights["green"] for action in written] == [1.0, 10.0, 50.0, 95.0, 100.0]
