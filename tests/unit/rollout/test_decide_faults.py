"""decide: what breaks on the way, in every phase, and which side is blamed for it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from decide_bench import RELEASES, SLOW, UNREAD, Bench, delta, plan

from servegate.rollout.model import Buckets, EnsureSlot, Notify, Phase, ScaleSlot, SetWeights, SlotDelta
from servegate.rollout.ports import RouteStatus

P = Phase
BACK = SetWeights(weights={"blue": 100.0, "green": 0.0})


def at(step: int, the_plan: Any = None) -> Bench:
    """A healthy rollout that has come to a step, which its router serves."""
    bench = Bench(the_plan)
    bench.until(P.STEP if step < 3 else P.BAKING, step)
    bench.tick()
    return bench


def quiet(bench: Bench, **options: Any) -> SlotDelta:
    """A tick without requests."""
    return delta(0, **options)


# --- the candidate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4])
def test_a_candidate_that_dies_is_rolled_back_from_every_step(step: int) -> None:
    bench = at(step)
    bench.tick(ready=(1, 0), green=quiet(bench))
    bench.expect(P.STEP if step < 3 else P.BAKING)  # one missed probe is no death
    bench.ticks(2, ready=(1, 0), green=quiet(bench))
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
    bench.ticks(14, green=quiet(bench))
    bench.expect(P.STEP)
    bench.tick(green=quiet(bench))
    bench.expect(P.ROLLING_BACK)
    assert "completed no request for" in bench.state.reason
    assert "by the pace of blue" in bench.state.reason


def test_without_traffic_nobody_is_to_blame() -> None:
    bench = at(2)
    bench.ticks(60, green=quiet(bench), blue=quiet(bench))
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
    idle = quiet(bench, gauges={"running": 0.0, "waiting": 0.0})
    bench.ticks(180, green=idle, blue=idle)
    assert bench.state.weights["green"] == 100
    assert bench.state.waiting == "a first request to green (v2): nothing has been measured yet"
    bench.tick(blue=quiet(bench))
    bench.expect(P.PROMOTED)


def test_few_requests_are_no_silence() -> None:
    bench = at(0, plan(steps=[{"weight": "1%", "min_time": "60s"}, *plan().model_dump(mode="json")["steps"][1:]]))
    bench.ticks(30, green=quiet(bench))  # 10 on stable in each: 3 would have been due
    bench.expect(P.STEP)


def test_a_few_requests_of_a_small_control_are_no_pace() -> None:
    """At 95 % one request of stable stands for nineteen of the candidate's, and comes first once in twenty times."""
    bench = at(3, plan(steps=[*plan().model_dump(mode="json")["steps"][:3], {"weight": "95%", "min_time": "120s"},
                              {"weight": "100%", "min_time": "5s"}]))  # fmt: skip
    bench.ticks(30, green=quiet(bench), blue=quiet(bench))
    bench.ticks(3, green=quiet(bench), blue=delta(1))
    bench.expect(P.BAKING)
    bench.ticks(2, green=quiet(bench), blue=delta(1))  # five in a row: a chance of 3e-7
    bench.expect(P.ROLLING_BACK)
    assert "where about 95 were due by the pace of blue" in bench.state.reason


def test_hanging_at_full_weight_is_seen_without_a_control() -> None:
    the_plan = plan(steps=[*plan().model_dump(mode="json")["steps"][:-1], {"weight": "100%", "min_time": "60s"}])
    bench = at(4, the_plan)
    hanging = quiet(bench, gauges={"running": 9.0, "waiting": 3.0, "gateway_active": 12.0})
    bench.until(P.ROLLING_BACK, limit=20, green=hanging, blue=quiet(bench))
    assert "with 12 under way" in bench.state.reason


# --- why it could not be read -----------------------------------------------------------------------------------------


def unread(kind: Any = None) -> SlotDelta:
    return SlotDelta(gateway=True, missing={"green/0": "said so"}, faults={} if kind is None else {"green/0": kind})


DOGS = {"no_data": "15s", "stale": "20s", "target_down": "8s"}


@pytest.mark.parametrize(
    ("kind", "cause", "after", "held", "said"),
    [
        (None, "no-data", 15, False, "nothing could be read of it for 15 s: said so"),
        ("down", "target-down", 8, False, "its metrics could not be asked for, for 8 s: said so"),
        ("stale", "stale", 20, True, "nothing new could be read of it for 20 s: said so"),
    ],
)
def test_each_kind_of_silence_has_its_time_its_action_and_its_name(
    kind: Any, cause: str, after: int, held: bool, said: str
) -> None:
    bench = at(1, plan(watchdogs=DOGS))
    bench.ticks(after, green=unread(kind))
    bench.expect(P.STEP)
    bench.tick(green=unread(kind))
    bench.expect(P.HELD if held else P.ROLLING_BACK)
    assert bench.state.cause == cause
    assert said in bench.state.reason
    assert "green (v2) carries 10 % of the traffic" in bench.state.reason
    if held:
        bench.tick()
        bench.expect(P.STEP)


@pytest.mark.parametrize(("key", "kind"), [("no_data", None), ("stale", "stale"), ("target_down", "down")])
def test_each_can_hold_or_roll_back(key: str, kind: Any) -> None:
    for then, phase in (("hold", P.HELD), ("rollback", P.ROLLING_BACK)):
        bench = at(1, plan(watchdogs={key: {"after": "5s", "then": then}}))
        bench.ticks(6, green=unread(kind))
        bench.expect(phase)


def test_a_time_alone_is_how_long_and_the_default_says_what_then() -> None:
    dogs = plan(watchdogs={"stale": "1m", "target_down": "2s"}).watchdogs
    assert (dogs.stale.after, dogs.stale.then) == (60, "hold")
    assert (dogs.target_down.after, dogs.target_down.then) == (2, "rollback")
    assert (dogs.no_data.after, dogs.no_data.then) == (15, "rollback")


@pytest.mark.parametrize("kind", [None, "down", "stale"])
def test_a_control_that_is_not_read_holds_whatever_the_kind(kind: Any) -> None:
    bench = at(1, plan(watchdogs=DOGS))
    bench.ticks(21, blue=unread(kind))
    bench.expect(P.HELD)
    assert bench.state.cause == f"stable-{ {None: 'no-data', 'down': 'target-down', 'stale': 'stale'}[kind] }"
    assert "there is no control to compare with: of blue (v1)" in bench.state.reason


def counting(tokens: float, answers: float = 10) -> SlotDelta:
    counters = {"gateway_requests": answers, "gateway_5xx": 0.0, "generation_tokens": tokens, "http_requests": tokens}
    return delta(answers, counters=counters)


def test_engines_that_count_nothing_while_the_gateway_gets_answers_are_stale() -> None:
    bench = at(1, plan(watchdogs={"stale": "20s"}))
    for second in range(20):
        bench.tick(green=counting(0, answers=0 if second % 3 else 10))
        bench.expect(P.STEP)
    bench.tick(green=counting(0))
    bench.expect(P.HELD)
    assert bench.state.cause == "stale"
    assert "its counters have not changed for 20 s, while the gateway gets good answers of it" in bench.state.reason
    bench.tick(green=counting(7))
    bench.expect(P.STEP)


def test_engines_that_count_nothing_because_nothing_comes_are_not() -> None:
    bench = at(1, plan(watchdogs={"stale": "20s"}))
    for _ in range(40):
        bench.tick(green=counting(0, answers=0), blue=counting(0, answers=0))
    bench.expect(P.STEP)
    assert bench.state.unchanged_since == {}


@pytest.mark.parametrize(
    ("lost", "phase", "cause"), [("green", P.ROLLING_BACK, "no-data"), ("blue", P.HELD, "stable-no-data")]
)
def test_a_slot_that_is_missing_altogether_is_said_to_be(lost: str, phase: P, cause: str) -> None:
    bench = at(1)
    for _ in range(16):
        bench.now += bench.plan.tick
        seen = bench.observation()
        bench.now -= bench.plan.tick
        bench.tick(seen.model_copy(update={"slots": {slot: d for slot, d in seen.slots.items() if slot != lost}}))
    bench.expect(phase)
    assert bench.state.cause == cause
    assert "none of its pods was seen at all" in bench.state.reason


def test_a_slot_whose_workload_is_not_known_keeps_what_was_known_of_it() -> None:
    bench = at(1)
    for _ in range(20):
        bench.now += bench.plan.tick
        seen = bench.observation()
        bench.now -= bench.plan.tick
        bench.tick(seen.model_copy(update={"status": {"blue": seen.status["blue"]}}))
    bench.expect(P.STEP)
    assert bench.state.ready == {"blue": 1, "green": 1}


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


# --- evidence ---------------------------------------------------------------------------------------------------------


def test_errors_send_it_back_with_the_numbers() -> None:
    bench = at(1)
    bench.until(P.ROLLING_BACK, green=delta(2, 1), blue=delta(18))
    assert bench.state.cause == "errors"
    told = r"^green fails more often than blue: 100 % of failures fell on it against a limit of 1\d % over \d intervals"
    assert re.search(told, bench.state.reason)
    assert "≥ limit 200)" in bench.state.reason


def test_slow_first_tokens_send_it_back_with_the_numbers() -> None:
    bench = at(1)
    bench.until(P.ROLLING_BACK, green=delta(bucket=SLOW))
    assert bench.state.cause == "ttft"
    assert re.search(
        r"is longer than that of blue: by \d+ % against a margin of 5 % over \d+ intervals", bench.state.reason
    )
    assert bench.now - (bench.state.first_traffic or 0) < 60


def test_one_burst_of_five_seconds_does_not_decide_and_holds_nothing_up_for_long() -> None:
    bench = at(1)
    for _ in range(5):
        bench.tick(green=delta(2, 2), blue=delta(18))
    bench.until(P.STEP, 2, limit=80)
    bench.until(P.PROMOTED)


def test_common_trouble_is_not_the_candidates() -> None:
    bench = at(1)
    bench.ticks(60, green=delta(2, 0, bucket=SLOW), blue=delta(18, 0, bucket=SLOW))
    assert bench.state.phase in (P.STEP, P.BAKING)


def test_an_objective_that_both_break_freezes() -> None:
    bench = at(2)
    bench.until(P.HELD, green=delta(10, 2), blue=delta(10, 2))
    assert bench.state.cause == "errors-slo"
    assert "both slots break the objective" in bench.state.reason
    assert [notice.level for notice in bench.did(Notify)] == ["critical"]
    bench.ticks(60)  # both recover: a person decides
    bench.expect(P.HELD)
    bench.intent("resume")
    assert bench.state.held is None
    bench.until(P.PROMOTED)


def test_an_objective_that_the_candidate_alone_breaks_at_full_weight_rolls_back() -> None:
    the_plan = plan(steps=[*plan().model_dump(mode="json")["steps"][:-1], {"weight": "100%", "min_time": "120s"}])
    bench = at(4, the_plan)
    bench.until(P.ROLLING_BACK, green=delta(20, 4), blue=quiet(bench))
    assert bench.state.cause == "errors-slo"
    assert "of requests failed against a limit of 2 %" in bench.state.reason


def test_requests_turned_away_count_unless_the_slot_was_given_more() -> None:
    turned_away: dict[str, Any] = {"counters": {"gateway_requests": 5.0, "gateway_5xx": 2.0, "rejected": 2.0}}
    guilty = at(2)
    guilty.ticks(5, green=delta(5, 2, **turned_away), blue=delta(5))
    assert guilty.state.checks["errors"].against.n == 1
    loaded = at(2)
    turned_away["counters"]["gateway_requests"] = 50.0
    loaded.ticks(5, green=delta(50, 2, **turned_away), blue=delta(5))
    assert loaded.state.checks["errors"].against.n == 0


def test_latency_under_more_load_is_not_held_against_it_and_said_so() -> None:
    bench = at(3)
    before = bench.state.checks["ttft"].compared
    bench.ticks(10, green=delta(19, bucket=SLOW), blue=delta(1))
    gathered = bench.state.checks["ttft"]
    assert gathered.compared == before
    assert gathered.skipped > 0
    assert "a replica of green is sent 19.0 times the requests of one of blue" in gathered.skipped_because


def test_latency_in_other_buckets_is_not_compared() -> None:
    bench = at(1)
    bench.ticks(3)
    other = delta(histograms={"ttft": Buckets(edges=(0.1,), counts=(10, 0))})
    bench.ticks(3, green=other)
    before = bench.state.checks["ttft"]
    bench.ticks(6, green=other)
    assert "buckets of ttft differ" in bench.state.checks["ttft"].skipped_because
    assert bench.state.checks["ttft"].shift == before.shift


def test_the_first_requests_of_a_cold_candidate_are_not_held_against_it() -> None:
    bench = Bench(plan(warmup_requests=100))
    bench.until(P.STEP, 0)
    bench.ticks(9, green=delta(10, bucket=SLOW))
    assert bench.state.warmup_left == 10
    assert "ttft" not in bench.state.checks or bench.state.checks["ttft"].intervals == 0


def test_suspicion_stops_the_next_step() -> None:
    bench = at(1)
    # Two intervals with a failure: not enough to decide, too much for more traffic just now.
    for tick in range(45):
        bench.tick(green=delta(2, 1 if tick in (15, 30) else 0), blue=delta(18))
    assert bench.state.step == 1
    assert "check errors to clear up" in bench.state.waiting


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "phase"), [("hold", P.HELD), ("rollback", P.ROLLING_BACK)])
def test_a_step_that_never_gets_its_requests_ends_as_the_plan_says(policy: str, phase: Phase) -> None:
    bench = at(1, plan(on_inconclusive=policy))
    bench.ticks(300, green=quiet(bench), blue=quiet(bench))
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
