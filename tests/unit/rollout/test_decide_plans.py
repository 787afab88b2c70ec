"""decide: approvals, freezes, going on with a warning, blue-green, and replicas that follow the traffic."""

from __future__ import annotations

from typing import Any

import pytest
from decide_bench import RELEASES, Bench, delta, plan

from servegate.config import validate
from servegate.errors import ConfigError
from servegate.rollout import capacity, scaling
from servegate.rollout.intents import FORCE
from servegate.rollout.model import EnsureSlot, Notify, Observation, Phase, ScaleSlot
from servegate.rollout.plan import Plan
from servegate.rollout.ports import SlotStatus

P = Phase
ABSOLUTE = [{"kind": "errors-slo", "name": "slo", "share": "100%", "at_most": "2%"}]


def with_approval(*indices: int, **changes: Any) -> Plan:
    steps = plan().model_dump(mode="json")["steps"]
    for index in indices:
        steps[index]["approval"] = True
    return plan(steps=steps, **changes)


# --- approvals --------------------------------------------------------------------------------------------------------


def test_a_step_waits_for_a_person_and_goes_on_where_it_was() -> None:
    bench = Bench(with_approval(2))
    bench.until(P.HELD)
    assert bench.state.weights["green"] == 10
    assert "50 % needs a person's approval" in bench.state.reason
    bench.ticks(100)
    bench.expect(P.HELD)
    assert bench.intent("approve") == "50 % approved"
    bench.until(P.STEP, 2, limit=3)
    assert "50 % approved by kim: because" in [d.reason for d in bench.decisions]
    bench.until(P.PROMOTED)
    assert "nothing to do" not in bench.intent("approve")


def test_an_approval_that_nobody_waits_for_is_not_kept() -> None:
    bench = Bench(with_approval(2))
    bench.until(P.STEP, 1)
    assert bench.intent("approve") == "nothing to do: nothing waits for an approval"
    bench.until(P.HELD)


def test_the_first_traffic_may_need_an_approval() -> None:
    bench = Bench(with_approval(0))
    bench.until(P.HELD)
    assert bench.state.weights["green"] == 0
    bench.intent("approve")
    bench.until(P.STEP, 0, limit=3)


def test_an_approval_has_a_time_limit_and_what_rolls_back_stays_armed() -> None:
    bench = Bench(with_approval(2, limits={"approval": "60s"}))
    bench.until(P.HELD)
    bench.until(P.ROLLING_BACK, limit=65)
    assert "needs a person's approval" in bench.state.reason
    dying = Bench(with_approval(2))
    dying.until(P.HELD)
    dying.until(P.ROLLING_BACK, limit=4, ready=(1, 0))


# --- freezes ----------------------------------------------------------------------------------------------------------

# The bench's clock begins at 1000 s: 00:16:40 UTC of a Thursday.


def frozen(start: str, until: str, **changes: Any) -> Bench:
    return Bench(plan(freeze=[{"name": "night", "start": start, "until": until}], **changes))


def test_nothing_begins_in_a_freeze_and_everything_after_it() -> None:
    bench = frozen("00:10", "00:20", limits={"held": "60s"})
    bench.ticks(150)
    bench.expect(P.HELD)
    assert bench.state.reason == "frozen (night) until 00:20 UTC"
    assert not any(isinstance(action, EnsureSlot) for d in bench.decisions for action in d.actions)
    bench.until(P.PROMOTED)


def test_a_freeze_stops_the_next_step_and_never_the_way_back() -> None:
    bench = frozen("00:17", "00:30")
    bench.until(P.HELD)
    assert bench.state.weights["green"] > 0
    assert "frozen" in bench.intent("promote")
    bench.ticks(400)  # longer than a pause may last
    bench.expect(P.HELD)
    bench.tick(failed="out of memory", ready=(1, 0))
    bench.expect(P.ROLLING_BACK)
    other = frozen("00:17", "00:30")
    other.until(P.HELD)
    assert other.intent("promote", FORCE).startswith("all traffic")
    assert "skipped by force: frozen (night)" in other.last.reason


# --- going on with a warning ------------------------------------------------------------------------------------------


def test_requests_that_do_not_come_are_passed_over_with_a_warning() -> None:
    bench = Bench(plan(on_inconclusive="promote-with-warning", limits={"step": "60s"}))
    bench.until(P.STEP, 1)
    bench.until(P.STEP, 2, limit=70, green=delta(0), blue=delta(0))
    assert bench.last.reason.startswith("50 % of the traffic to green (v2): WITH A WARNING: 10 % for")
    bench.until(P.PROMOTED)
    assert "WITH A WARNING" in bench.state.reason
    assert "more requests at 10 %" in bench.state.reason
    warned = [a for d in bench.decisions for a in d.actions if isinstance(a, Notify) and a.level == "warning"]
    assert warned


def test_what_speaks_against_a_release_is_not_passed_over() -> None:
    bench = Bench(plan(on_inconclusive="promote-with-warning", limits={"step": "60s"}))
    bench.until(P.STEP, 1)
    bench.ticks(45, green=delta(0), blue=delta(0))
    while bench.state.phase is P.STEP:
        bench.tick(green=delta(1, 1), blue=delta(9))
    assert bench.state.phase in (P.HELD, P.ROLLING_BACK)
    assert bench.served["green"] in (0, 10)
    unready = Bench(plan(on_inconclusive="promote-with-warning", limits={"step": "60s"}, watchdogs={"unready": "1h"}))
    unready.until(P.STEP, 1)
    unready.until(P.HELD, limit=70, ready=(1, 0))
    assert unready.state.weights["green"] == 10


# --- blue-green -------------------------------------------------------------------------------------------------------


def blue_green(**changes: Any) -> Plan:
    return plan(strategy="blue-green", steps=[{"weight": "100%", "min_time": "60s"}], checks=ABSOLUTE, **changes)


def test_blue_green_gives_all_traffic_at_once_and_watches_the_objectives() -> None:
    bench = Bench(blue_green())
    bench.until(P.STEP)
    assert bench.state.weights == {"blue": 0.0, "green": 100.0}
    bench.until(P.PROMOTED)
    broken = Bench(blue_green())
    broken.until(P.STEP)
    broken.until(P.ROLLING_BACK, limit=50, green=delta(20, 10), blue=delta(0))
    assert broken.state.cause == "slo"


def test_blue_green_with_a_canary_inside() -> None:
    steps = plan().model_dump(mode="json")["steps"]
    bench = Bench(plan(strategy="blue-green", steps=[*steps[1:3], steps[4]]))
    bench.until(P.PROMOTED)
    seen = list(dict.fromkeys(d.state.weights["green"] for d in bench.decisions))
    assert seen == [0, 10, 50, 100]


# --- replicas ---------------------------------------------------------------------------------------------------------


class Replicas(Bench):
    """A bench whose workload does what it is told, in one tick."""

    def __init__(self, the_plan: Plan) -> None:
        super().__init__(the_plan)
        self.replicas = {"blue": the_plan.replicas, "green": 0}
        self.most = 0
        self.lacking: list[str] = []

    def observation(self, **options: Any) -> Observation:
        seen = super().observation(**options)
        status = {
            slot: SlotStatus(RELEASES[slot].release if count else None, count, count)
            for slot, count in self.replicas.items()
        }
        return seen.model_copy(update={"status": status})

    def tick(self, seen: Observation | None = None, **options: Any) -> Any:
        decision = super().tick(seen, **options)
        for slot, weight in self.served.items():
            if self.replicas[slot] < capacity.needed(self.plan, weight) and self.state.phase is not P.ROLLING_BACK:
                self.lacking.append(f"{slot} carries {weight} % with {self.replicas[slot]}")
        for action in decision.actions:
            if isinstance(action, EnsureSlot | ScaleSlot):
                self.replicas[action.slot] = action.replicas
        if self.state.phase is not P.ROLLING_BACK:
            self.most = max(self.most, sum(self.replicas.values()))
        return decision


def shift(**changes: Any) -> Plan:
    return plan(**{"replicas": 4, "capacity": "shift", "spare": 1, "replica_carries": "34%", **changes})


def test_stable_gives_replicas_up_as_the_candidate_grows_and_never_too_many() -> None:
    bench = Replicas(shift(spare=2))
    seen = []
    while bench.state.phase is not P.PROMOTED:
        bench.tick()
        seen.append((bench.state.weights["green"], bench.replicas["blue"], bench.replicas["green"]))
    assert bench.lacking == []
    assert bench.most <= 6
    assert (1.0, 4, 1) in seen
    assert (50.0, 4, 2) in seen
    assert (95.0, 3, 3) in seen
    bench.tick()
    assert bench.replicas == {"green": 4, "blue": 2}
    assert "keeps 2 replicas; a rollback would take about" in bench.state.reason


def test_two_gpus_are_enough_when_one_carries_the_quiet_hours() -> None:
    bench = Replicas(shift(replicas=2, spare=0, replica_carries="100%"))
    bench.until(P.PROMOTED)
    assert bench.lacking == []
    assert bench.most == 2


def test_stable_gets_its_replicas_back_when_the_candidate_goes() -> None:
    bench = Replicas(shift(spare=2))
    bench.until(P.BAKING, 3)
    assert bench.replicas["blue"] < 4
    bench.intent("abort")
    bench.until(P.ROLLED_BACK)
    assert bench.replicas == {"blue": 4, "green": 0}
    assert bench.served == {"blue": 100.0, "green": 0.0}


def test_a_step_with_more_replicas_waits_until_they_are_ready() -> None:
    steps = plan().model_dump(mode="json")["steps"]
    for step, replicas in zip(steps, (1, 1, 2, 4, 4), strict=True):
        step["replicas"] = replicas
    bench = Replicas(plan(replicas=4, replica_carries="30%", steps=steps))
    with_one = Bench(bench.plan)
    bench.until(P.PROMOTED)
    assert bench.lacking == []
    assert bench.replicas == {"blue": 4, "green": 4}
    with_one.until(P.STEP, 1)
    with_one.ticks(60)  # one replica each, whatever is asked
    assert with_one.state.weights["green"] == 10
    assert "2 ready replicas of green (v2) for 50 % (there are 1)" in with_one.state.waiting
    assert "are being started, ask again" in with_one.intent("promote", FORCE)


def test_the_way_back_is_said() -> None:
    rules = shift(spare=2)
    assert scaling.way_back(rules, None, 4) == "at once"
    assert "as long as a start takes: 1 of 3 replicas" in scaling.way_back(rules, None, 2)
    bench = Replicas(rules)
    bench.until(P.STEP, 1)
    assert bench.state.start_took is not None
    assert "about" in scaling.way_back(rules, bench.state, 1)


# --- plans that cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "blue-green", "capacity": "shift"}, "blue-green needs both slots in full"),
        ({"steps": [{"weight": "100%", "min_time": "60s"}]}, "say blue-green"),
        ({"strategy": "blue-green", "steps": [{"weight": "100%", "min_time": "60s"}]}, "compares with stable"),
        (
            {
                "strategy": "blue-green",
                "steps": [{"weight": "100%", "min_time": "60s"}],
                "checks": [{**ABSOLUTE[0], "promote_at_most": "5%"}],
            },
            "evidence for promotion",
        ),
        ({"spare": 1}, "spare is for capacity: shift"),
        ({"replicas": 2, "replica_carries": "40%"}, "do not carry it all"),
        ({"replicas": 2, "capacity": "shift"}, r"step 1%: the candidate needs 1 replicas while stable still needs 2"),
        ({"replicas": 4, "steps": "few"}, r"step 50%: replicas 1; at 25% each the weight needs 2"),
        ({"watchdogs": {"lease": "20s"}}, "30s is the least"),
        ({"guard": {"window": "0s"}}, "longer than nothing"),
        ({"guard": {"window": "1h", "alpha": "60%"}}, "below 50%"),
        ({"rollback": {"prove": "1h"}}, "prove is longer than limit"),
        ({"alerts": [{"labels": {}, "then": "rollback"}]}, "labels"),
        ({"alerts": [{"labels": {"a": "b"}, "than": "rollback"}]}, "did you mean 'then'"),
        ({"strategy": "canari"}, "'canary', 'blue-green', 'ab' or 'shadow'"),
    ],
)
def test_impossible_plans_are_refused_by_name(changes: Any, words: str) -> None:
    if changes.get("steps") == "few":
        steps = plan().model_dump(mode="json")["steps"]
        changes = {**changes, "steps": [{**step, "replicas": 1} for step in steps]}
    data = plan().model_dump(mode="json")
    for key, value in changes.items():
        data[key] = {**(data.get(key) or {}), **value} if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=words):
        validate(data, Plan, "plan.yaml")


# --- the bake ---------------------------------------------------------------------------------------------------------


def baked() -> Bench:
    """A plan that writes its bake as such, under way in it."""
    steps = [step for step in plan().model_dump(mode="json")["steps"] if step["weight"] != "95%"]
    bench = Bench(plan(steps=steps, bake={"control": "10%", "min_time": "60s"}, guard={"window": "10m"}))
    bench.until(P.BAKING)
    return bench


def test_a_bake_keeps_its_control_until_its_time_is_over() -> None:
    bench = baked()
    assert bench.state.weights == {"blue": 10.0, "green": 90.0}
    bench.ticks(55)
    assert bench.state.weights == {"blue": 10.0, "green": 90.0}
    bench.until(P.PROMOTED)
    bench.intent("guard")
    bench.expect(P.GUARDED)
    bench.until(P.PROMOTED, limit=601)
    assert "nothing spoke against it in the guard's window" in bench.state.reason


def test_what_begins_in_the_bake_is_seen_against_its_control() -> None:
    bench = baked()
    bench.ticks(20)
    # A fifth of the answers fails, on the candidate alone: stable is still there to say that it need not be so.
    bench.until(P.ROLLING_BACK, limit=40, green=delta(9, 2), blue=delta(1))
    assert "green breaks its objective" in bench.state.reason
    both = baked()
    both.ticks(20)
    both.until(P.HELD, limit=40, green=delta(90, 20), blue=delta(10, 3))
    assert "both slots break the objective" in both.state.reason


def test_what_begins_after_the_bake_is_seen_by_the_guard() -> None:
    bench = baked()
    bench.until(P.PROMOTED)
    bench.intent("guard")
    bench.until(P.ROLLING_BACK, limit=100, green=delta(20, 5), blue=delta(0))
    assert "breaks its objective" in bench.state.reason
