"""decide: what breaks on the way, in every phase, and which side is blamed for it."""

from __future__ import annotations

import re

import pytest
from decide_bench import RELEASES, UNREAD, Bench, at, delta, plan

from servegate.rollout.model import EnsureSlot, Notify, Phase, ScaleSlot, SetWeights
from servegate.rollout.ports import RouteStatus

P = Phase
BACK = SetWeights(weights={"blue": 100.0, "green": 0.0})


# --- the candidate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4])
def test_a_candidate_that_dies_is_rolled_back_from_every_step(step: int) -> None:
    bench = at(step)
    bench.tick(ready=(1, 0), green=delta(0))
    bench.expect(P.STEP if step < 3 else P.BAKING)  # one missed probe is no death
    bench.ticks(2, ready=(1, 0), green=delta(0))
    bench.expect(P.ROLLING_BACK)
    assert bench.did(SetWeights) == [BACK]
    assert "green (v2) has had no ready replica for 2 s" in bench.last.reason
    bench.until(P.ROLLED_BACK, limit=3, ready=(1, 0))
    assert (bench.state.stable, bench.state.candidate) == ("blue", "green")


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4])
def test_a_candidate_that_has_failed_is_rolled_back_at_once(step: int) -> None:
    bench = at(step)
    bench.tick(ready=(1, 0), failed="engine ended with status 137; log: out/green.log")
    bench.expect(P.ROLLING_BACK)
    assert "status 137; log: out/green.log" in bench.state.reason


@pytest.mark.parametrize("lost", [("blue",), ("blue", "green")])
def test_no_weight_goes_to_a_slot_that_cannot_be_asked(lost: tuple[str, ...]) -> None:
    """It was ready a tick ago; its pods may be gone by now."""
    bench = at(1)
    bench.now += bench.plan.tick
    known = bench.observation(failed="engine ended with status 137", ready=(1, 0))
    blind = {slot: status for slot, status in known.status.items() if slot not in lost}
    bench.now -= bench.plan.tick
    if "green" in lost:
        bench.intent("abort", ready=(0, 1))
    for _ in range(3):
        bench.now += bench.plan.tick
        seen = bench.observation().model_copy(update={"status": blind})
        bench.now -= bench.plan.tick
        bench.tick(seen)
        bench.expect(P.ROLLING_BACK)
        assert bench.did(SetWeights) == []
    assert "blue (v1), whose slot cannot be asked now: until then the weights stay" in bench.state.waiting
    bench.tick(ready=(1, 0))
    assert bench.did(SetWeights) == [BACK]


def test_a_step_waits_for_a_slot_that_cannot_be_asked() -> None:
    bench = at(0)
    step = bench.state.step
    for _ in range(100):
        bench.now += bench.plan.tick
        seen = bench.observation().model_copy(update={"status": {}})
        bench.now -= bench.plan.tick
        bench.tick(seen)
    assert (bench.state.phase, bench.state.step) == (P.STEP, step)
    assert "green (v2), whose slot cannot be asked now" in bench.state.waiting
    bench.ticks(2)
    assert bench.state.step == step + 1


def test_a_candidate_that_dies_while_held_is_rolled_back() -> None:
    bench = at(1)
    bench.intent("pause")
    bench.ticks(3, ready=(1, 0))
    bench.expect(P.ROLLING_BACK)


def test_a_candidate_that_comes_back_in_time_stays() -> None:
    bench = at(1)
    for _ in range(5):
        bench.tick(ready=(1, 0))
        bench.tick()
    bench.expect(P.STEP)


def test_nothing_read_of_the_candidate_alone_is_its_fault() -> None:
    bench = at(1)
    bench.ticks(16, green=UNREAD)
    bench.expect(P.ROLLING_BACK)
    assert "carries 10 % of the traffic and nothing could be read of it for 15 s: timed out" in bench.state.reason


def test_nothing_read_of_either_slot_is_nobodys_fault_and_passes() -> None:
    bench = at(1)
    bench.ticks(16, green=UNREAD, blue=UNREAD)
    bench.expect(P.HELD)
    assert "nothing could be read of either slot" in bench.state.reason
    assert [notice.level for notice in bench.did(Notify)] == ["critical"]
    bench.tick()
    bench.expect(P.STEP)


def test_a_candidate_that_swallows_requests_is_rolled_back() -> None:
    bench = at(2)
    bench.ticks(14, green=delta(0))
    bench.expect(P.STEP)
    bench.tick(green=delta(0))
    bench.expect(P.ROLLING_BACK)
    assert "completed no request for" in bench.state.reason
    assert "by the pace of blue" in bench.state.reason


def test_without_traffic_nobody_is_to_blame() -> None:
    bench = at(2)
    bench.ticks(60, green=delta(0), blue=delta(0))
    bench.expect(P.STEP)
    assert "more requests" in bench.state.waiting


def test_a_plan_that_asks_for_no_evidence_promotes_nothing_that_was_never_asked() -> None:
    checks = [check for check in plan().model_dump(mode="json")["checks"] if check["kind"] == "errors-vs-stable"]
    bench = Bench(
        plan(
            checks=checks,
            bake=None,
            steps=[{"weight": "50%", "min_time": "150s"}, {"weight": "100%", "min_time": "5s"}],
        )
    )
    idle = delta(0, gauges={"running": 0.0, "waiting": 0.0})
    bench.ticks(180, green=idle, blue=idle)
    assert bench.state.weights["green"] == 100
    assert bench.state.waiting == "a first request to green (v2): nothing has been measured yet"
    bench.tick(blue=delta(0))
    bench.expect(P.PROMOTED)


def test_few_requests_are_no_silence() -> None:
    bench = at(0, plan(steps=[{"weight": "1%", "min_time": "60s"}, *plan().model_dump(mode="json")["steps"][1:]]))
    bench.ticks(30, green=delta(0))  # 10 on stable in each: 3 would have been due
    bench.expect(P.STEP)


def test_a_few_requests_of_a_small_control_are_no_pace() -> None:
    """At 95 % one request of stable stands for nineteen of the candidate's, and comes first once in twenty times."""
    bench = at(3, plan(steps=[*plan().model_dump(mode="json")["steps"][:3], {"weight": "95%", "min_time": "120s"},
                              {"weight": "100%", "min_time": "5s"}]))  # fmt: skip
    bench.ticks(30, green=delta(0), blue=delta(0))
    bench.ticks(3, green=delta(0), blue=delta(1))
    bench.expect(P.BAKING)
    bench.ticks(2, green=delta(0), blue=delta(1))  # five in a row: a chance of 3e-7
    bench.expect(P.ROLLING_BACK)
    assert "where about 95 were due by the pace of blue" in bench.state.reason


def test_hanging_at_full_weight_is_seen_without_a_control() -> None:
    the_plan = plan(steps=[*plan().model_dump(mode="json")["steps"][:-1], {"weight": "100%", "min_time": "60s"}])
    bench = at(4, the_plan)
    hanging = delta(0, gauges={"running": 9.0, "waiting": 3.0, "gateway_active": 12.0})
    bench.until(P.ROLLING_BACK, limit=20, green=hanging, blue=delta(0))
    assert "with 12 under way" in bench.state.reason


# --- the stable slot --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_stable_dying_holds_and_moves_no_weight(step: int) -> None:
    bench = at(step)
    served = dict(bench.served)
    bench.ticks(5, ready=(0, 1))
    bench.expect(P.HELD)
    assert bench.served == served
    assert bench.did(EnsureSlot) == [EnsureSlot(slot="blue", release=RELEASES["blue"].release, replicas=1)]
    assert "weights stay as they are" in bench.state.reason
    bench.tick()
    bench.expect(P.STEP if step < 3 else P.BAKING)


def test_stable_dying_does_not_save_a_broken_candidate_nor_feed_it() -> None:
    bench = at(1)
    bench.ticks(3, ready=(0, 1))
    bench.until(P.ROLLING_BACK, limit=60, ready=(0, 1), green=delta(10, 10))
    bench.tick(ready=(0, 1), green=delta(10, 10))
    assert bench.served == {"blue": 90.0, "green": 10.0}  # nothing to go back to, and no more for the broken one
    assert "a ready replica of blue (v1)" in bench.state.waiting
    bench.tick(green=delta(10, 10))
    assert bench.did(SetWeights) == [BACK]
    bench.until(P.ROLLED_BACK, limit=3)


def test_both_dead_waits_for_stable() -> None:
    bench = at(1)
    bench.ticks(20, ready=(0, 0), green=UNREAD, blue=UNREAD)
    bench.expect(P.ROLLING_BACK)
    assert not bench.did(SetWeights)
    assert bench.did(EnsureSlot)
    bench.tick(ready=(1, 0))
    assert bench.did(SetWeights) == [BACK]


def test_no_step_is_taken_while_stable_is_down() -> None:
    bench = Bench()
    bench.until(P.PREPARING)
    bench.ticks(5, ready=(0, 1))
    bench.expect(P.PREPARING)
    assert bench.state.weights["green"] == 0
    assert "a ready replica of blue" in bench.state.waiting


def test_stable_dying_at_full_weight_does_not_stop_the_promotion() -> None:
    bench = at(4)
    bench.until(P.PROMOTED, ready=(0, 1), blue=UNREAD)


def test_stable_unread_holds_because_the_control_is_gone() -> None:
    bench = at(1)
    bench.ticks(17, blue=UNREAD)
    bench.expect(P.HELD)
    assert "no control to compare with" in bench.state.reason


# --- the router -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (RouteStatus(False, {"blue": 100.0}, "cluster green is unknown"), "does not serve.*cluster green is unknown"),
        (RouteStatus(True, {"blue": 100.0, "green": 0.0}), "does not serve"),
        (None, "cannot be asked for"),
    ],
)
def test_a_router_that_does_not_follow_holds_until_it_does(route: RouteStatus | None, words: str) -> None:
    bench = at(0)
    bench.until(P.STEP, 1)
    bench.ticks(12, route=route)
    bench.expect(P.HELD)
    assert bench.state.held is not None
    assert bench.state.held.cause == "route"
    assert re.search(words, bench.state.reason)
    assert bench.did(SetWeights) == [SetWeights(weights={"blue": 90.0, "green": 10.0})]
    bench.tick()
    bench.expect(P.STEP)


def test_rolled_back_only_when_the_router_serves_it() -> None:
    bench = at(2)
    bench.intent("abort")
    bench.ticks(30, route=RouteStatus(False, {"blue": 50.0, "green": 50.0}, "rejected"))
    bench.expect(P.ROLLING_BACK)
    assert bench.did(SetWeights) == [BACK]
    assert not bench.did(ScaleSlot)
    warnings = [n for d in bench.decisions for n in d.actions if isinstance(n, Notify) and "by hand" in n.message]
    assert len(warnings) == 1
    bench.until(P.ROLLED_BACK, limit=3)
    assert bench.did(ScaleSlot) == [ScaleSlot(slot="green", replicas=0)]


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "phase"), [("hold", P.HELD), ("rollback", P.ROLLING_BACK)])
def test_a_step_that_never_gets_its_requests_ends_as_the_plan_says(policy: str, phase: Phase) -> None:
    bench = at(1, plan(on_inconclusive=policy))
    bench.ticks(300, green=delta(0), blue=delta(0))
    bench.expect(phase)
    assert "10 % for 5 min, and still waits for 40 more requests at 10 %" in bench.state.reason


def test_promotion_without_its_evidence_is_not_made() -> None:
    bench = at(3)
    bench.state = bench.state.model_copy(
        update={
            "checks": {
                name: gathered.model_copy(update={"promote_reached": False, "promote": None, "shift_for": None})
                for name, gathered in bench.state.checks.items()
            }
        }
    )
    bench.ticks(60, blue=delta(gauges={"running": 9.0, "waiting": 40.0}))  # stable queues: no comparison counts
    bench.expect(P.BAKING)
    assert bench.state.weights["green"] == 95
    assert "evidence of check ttft that the candidate is not worse" in bench.state.waiting


def test_standing_still_has_a_time_limit() -> None:
    bench = at(1)
    bench.intent("pause")
    bench.ticks(299)
    bench.expect(P.HELD)
    bench.until(P.ROLLED_BACK, limit=6)
    assert "stood still for 5 min: paused by kim" in bench.state.reason
