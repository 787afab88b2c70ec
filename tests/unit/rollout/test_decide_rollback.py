"""decide: the way back and its proof, releases that come back after a promotion, the guard, alerts, nobody watching."""

from __future__ import annotations

from typing import Any

import pytest
from decide_bench import RELEASES, UNREAD, Bench, delta, plan

from servegate.rollout.model import (
    EnsureSlot,
    Notify,
    Phase,
    Preparation,
    RunSmoke,
    ScaleSlot,
    Settle,
    SetWeights,
    SlotDelta,
)
from servegate.rollout.ports import Intent, RouteStatus

P = Phase
OLD = "sha256:" + "9" * 64
GUARD = {"window": "60s", "alpha": "1%"}
BLUE_AGAIN = SetWeights(weights={"blue": 100.0, "green": 0.0})


def quiet(**options: Any) -> Any:
    return delta(0, **options)


def promoted(**changes: Any) -> Bench:
    """green (v2) is promoted, blue (v1) is idle and warm."""
    bench = Bench(plan(**{"guard": None, **changes}))
    bench.until(P.PROMOTED)
    return bench


def guarded(**changes: Any) -> Bench:
    bench = promoted(**{"guard": GUARD, **changes})
    assert bench.intent("guard").startswith("watched for")
    return bench


# --- proof ------------------------------------------------------------------------------------------------------------


def rolling_back(**rollback: str) -> Bench:
    bench = Bench(plan(rollback={"prove": "5s", "limit": "30s", **rollback}))
    bench.until(P.STEP, 1)
    bench.intent("abort")
    return bench


def test_a_rollback_ends_with_proof() -> None:
    bench = rolling_back()
    began = bench.now
    bench.until(P.ROLLED_BACK, limit=10)
    assert bench.now - began == 6
    assert bench.state.unproven == ""
    assert "the router serves blue with 100 %, blue (v1) answered 50 requests in 5 s, 0 failed" in bench.state.proven
    assert "; proof: " in bench.last.reason


def test_errors_of_before_do_not_count_and_those_of_now_do() -> None:
    bench = rolling_back()
    bench.ticks(12, blue=delta(10, 5))
    bench.expect(P.ROLLING_BACK)
    assert "the error rate of blue (v1) to be normal again" in " ".join(d.state.waiting for d in bench.decisions)
    bench.until(P.ROLLED_BACK, limit=12)
    assert bench.state.unproven == ""


def test_an_error_rate_that_stays_is_said_with_what_to_look_at() -> None:
    bench = rolling_back()
    bench.until(P.ROLLED_BACK, limit=60, blue=delta(10, 5))
    assert bench.state.proven == ""
    assert "look at what both slots share" in bench.state.unproven
    assert "NOT PROVEN" in bench.last.reason
    assert [notice.level for notice in bench.did(Notify)] == ["critical"]


@pytest.mark.parametrize("blue", [quiet(), UNREAD])
def test_without_traffic_or_metrics_a_smoke_test_is_the_proof(blue: Any) -> None:
    bench = rolling_back()
    nothing_yet = Preparation()
    bench.ticks(6, blue=blue, preparation=nothing_yet)
    smokes = bench.did(RunSmoke)
    assert [(smoke.slot, smoke.release) for smoke in smokes] == [("blue", RELEASES["blue"].release)]
    assert smokes[0].since > 0  # an older result would prove nothing
    bench.tick(blue=blue, preparation=Preparation(smoke="ok"))
    bench.expect(P.ROLLED_BACK)
    assert "passes its smoke test" in bench.state.proven


def test_without_traffic_and_with_a_failing_smoke_test_nothing_is_proven() -> None:
    bench = rolling_back()
    failed = Preparation(smoke="failed", smoke_message="no stream")
    bench.until(P.ROLLED_BACK, limit=60, blue=quiet(), preparation=failed)
    assert "no stream" in bench.state.unproven


# --- back after a promotion -------------------------------------------------------------------------------------------


def test_weights_decided_earlier_are_not_written_to_a_slot_that_was_lost_meanwhile() -> None:
    bench = Bench()
    bench.until(P.STEP, 1)
    before = dict(bench.served)
    bench.intent("abort")
    bench.served = before  # the write was lost
    bench.tick(ready=(0, 1))
    assert not bench.did(SetWeights)
    assert bench.did(EnsureSlot) == [EnsureSlot(slot="blue", release=RELEASES["blue"].release, replicas=1)]
    # Started anew it is cold: it is tested before it gets the traffic.
    unknown = Preparation(verdict="pass", smoke="running", warm="ok")
    bench.tick(preparation=unknown)
    assert not bench.did(SetWeights)
    assert [smoke.slot for smoke in bench.did(RunSmoke)] == ["blue"]
    failed = Preparation(verdict="pass", smoke="failed", smoke_message="HTTP 500", warm="ok")
    bench.tick(preparation=failed)
    assert not bench.did(SetWeights)
    assert [notice.message for notice in bench.did(Notify)] == [
        "cannot roll back yet: blue (v1) was started anew and fails its smoke test: HTTP 500; see to it by hand"
    ]
    bench.tick(preparation=failed)
    assert not bench.did(Notify)
    bench.tick()
    assert bench.did(SetWeights) == [BLUE_AGAIN]


def test_without_a_ready_replica_anywhere_the_weights_stay_and_the_first_ready_gets_the_traffic() -> None:
    bench = Bench()
    bench.until(P.STEP, 1)
    before = dict(bench.served)
    bench.intent("abort", ready=(0, 0))
    assert bench.served == before
    assert any("is not known to have one either" in notice.message for notice in bench.did(Notify))
    bench.ticks(3, ready=(0, 0))
    assert bench.served == before
    bench.tick(ready=(1, 0), preparation=Preparation(verdict="pass", smoke="running"))
    assert bench.did(SetWeights) == [BLUE_AGAIN]


def test_the_release_before_is_back_at_once_while_it_is_warm() -> None:
    bench = promoted()
    assert bench.intent("rollback") == "rolling back to v1"
    assert bench.did(SetWeights) == [BLUE_AGAIN]
    assert (bench.state.stable, bench.state.candidate) == ("blue", "green")
    assert "rolled back to v1 by kim: because" in bench.state.reason
    bench.until(P.ROLLED_BACK, limit=5)
    assert bench.did(ScaleSlot) == [ScaleSlot(slot="green", replicas=0)]
    assert "blue (v1)" in bench.state.proven
    assert bench.intent("rollback").startswith("nothing to do: already rolled back, v1 serves")


def test_a_cold_release_is_started_and_tested_before_it_gets_traffic() -> None:
    bench = promoted()
    bench.intent("rollback", ready=(0, 1))
    assert bench.did(EnsureSlot) == [EnsureSlot(slot="blue", release=RELEASES["blue"].release, replicas=1)]
    assert not bench.did(SetWeights)
    bench.tick(ready=(0, 1))
    assert "v1 to be ready in blue (0 of 1)" in bench.state.waiting
    bench.tick(preparation=Preparation())
    assert [smoke.slot for smoke in bench.did(RunSmoke)] == ["blue"]
    assert bench.served == {"blue": 0.0, "green": 100.0}
    bench.tick(preparation=Preparation(smoke="ok"))
    assert bench.did(SetWeights) == [BLUE_AGAIN]
    bench.until(P.ROLLED_BACK, limit=5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preparation": Preparation(smoke="failed", smoke_message="wrong model")}, "wrong model"),
        ({"ready": (0, 1)}, "was not ready in blue within"),
    ],
)
def test_a_release_that_cannot_come_back_leaves_the_traffic_where_it_is(options: Any, words: str) -> None:
    bench = promoted()
    bench.intent("rollback", ready=(0, 1))
    bench.until(P.PROMOTED, limit=200, **options)
    assert words in bench.state.unproven
    assert "green (v2) still serves all traffic" in bench.state.unproven
    assert "by hand" in bench.state.unproven
    assert bench.served == {"blue": 0.0, "green": 100.0}
    assert bench.state.stable == "green"


@pytest.mark.parametrize("gauge", ["running", "gateway_active"])
def test_the_slot_is_emptied_when_its_answers_have_ended(gauge: str) -> None:
    bench = Bench(plan())
    bench.until(P.STEP)
    bench.intent("abort")
    gauges = {"running": 0.0, "waiting": 0.0, gauge: 2.0}
    bench.ticks(10, green=delta(0, gauges=gauges))
    assert bench.state.weights == {"blue": 100.0, "green": 0.0}
    assert "the answers of green (v2) to end, 2 under way" in bench.state.waiting
    assert not bench.did(ScaleSlot)
    bench.expect(P.ROLLING_BACK)
    bench.tick()
    bench.expect(P.ROLLED_BACK)
    assert bench.did(ScaleSlot) == [ScaleSlot(slot="green", replicas=0)]


@pytest.mark.parametrize("other", [delta(0), SlotDelta(gateway=True, missing={"green/0": "timed out"})])
def test_answers_that_never_end_or_cannot_be_counted_do_not_keep_a_slot(other: SlotDelta) -> None:
    bench = Bench(plan())
    bench.until(P.STEP)
    bench.intent("abort")
    bench.until(P.ROLLED_BACK, limit=round(bench.plan.rollback.drain / bench.plan.tick) + 3, green=other)
    assert bench.did(ScaleSlot) == [ScaleSlot(slot="green", replicas=0)]


def test_a_named_release_comes_back_in_place_of_a_running_candidate() -> None:
    bench = Bench()
    bench.until(P.STEP, 1)
    assert bench.intent("rollback", OLD) == f"refused: no verified release {OLD} is known"
    bench.expect(P.STEP)
    known = {OLD: "v0"}
    assert bench.intent("rollback", OLD, verified=known) == "rolling back to v0"
    assert bench.did(SetWeights) == [BLUE_AGAIN]
    bench.tick()  # served: now the candidate's slot may be filled anew
    bench.tick()
    assert bench.did(EnsureSlot) == [EnsureSlot(slot="green", release=OLD, replicas=1)]
    bench.ticks(3)  # what still runs there is the candidate: not ready for anything
    assert bench.served == {"blue": 100.0, "green": 0.0}
    bench.tick(runs=OLD, preparation=Preparation(smoke="ok"))
    assert bench.did(SetWeights) == [SetWeights(weights={"blue": 0.0, "green": 100.0})]
    bench.until(P.ROLLED_BACK, limit=5, runs=OLD)
    assert (bench.state.stable, bench.state.slots["green"].name) == ("green", "v0")


def test_a_slot_that_may_still_carry_traffic_is_not_emptied_for_another_release() -> None:
    bench = promoted()
    known = {OLD: "v0"}
    lagging = RouteStatus(False, {"blue": 10.0, "green": 90.0}, "lags")
    bench.intent("rollback", OLD, verified=known, route=lagging)
    assert not bench.did(EnsureSlot)
    bench.tick(route=None)
    assert not bench.did(EnsureSlot)
    bench.tick()
    assert bench.did(EnsureSlot) == [EnsureSlot(slot="blue", release=OLD, replicas=1)]


def test_rollback_in_a_running_rollout_is_an_abort() -> None:
    for target in (None, RELEASES["blue"].release):
        bench = Bench()
        bench.until(P.STEP, 1)
        known = {item.release: item.name for item in RELEASES.values()}
        assert "is being rolled out" in bench.intent("rollback", RELEASES["green"].release, verified=known)
        assert bench.intent("rollback", target, verified=known) == "rolling back"
        assert bench.intent("rollback", target, verified=known) == "nothing to do: rolling back already"
        bench.until(P.ROLLED_BACK, limit=5)


# --- nobody watches ---------------------------------------------------------------------------------------------------


def after_a_gap(seconds: float, step: int = 1, **changes: Any) -> Bench:
    bench = Bench(plan(**changes))
    bench.until(P.STEP, step)
    bench.now += seconds
    bench.tick()
    return bench


def test_a_candidate_that_nobody_watched_is_taken_back() -> None:
    bench = after_a_gap(300)
    bench.expect(P.ROLLING_BACK)
    assert bench.state.cause == "unwatched"
    assert "no controller has looked for 5 min while green (v2) carried 10 % of the traffic" in bench.state.reason
    assert bench.did(SetWeights) == [BLUE_AGAIN]


def test_a_short_gap_is_a_restart() -> None:
    after_a_gap(60).expect(P.STEP)


def test_what_the_dead_mans_rule_does_is_the_plans_to_say() -> None:
    held = after_a_gap(300, on_unwatched="hold")
    held.expect(P.HELD)
    held.ticks(5)
    held.expect(P.HELD)
    assert held.intent("resume") == "resumed"
    after_a_gap(150, on_unwatched="continue").expect(P.STEP)


def test_the_dead_mans_rule_needs_traffic() -> None:
    bench = Bench()
    bench.tick()
    bench.now += 10_000
    bench.tick(preparation=Preparation())
    assert bench.state.cause != "unwatched"


# --- guard ------------------------------------------------------------------------------------------------------------


def test_a_guard_ends_with_its_window_and_gives_the_old_slot_up() -> None:
    bench = guarded()
    finished = bench.now
    bench.ticks(50)
    bench.expect(P.GUARDED)
    assert "more of the guard" in bench.state.waiting
    assert not bench.did(ScaleSlot)
    bench.until(P.PROMOTED, limit=15)
    assert bench.now - finished == pytest.approx(60, abs=1)
    assert bench.did(ScaleSlot) == [ScaleSlot(slot="blue", replicas=0)]
    assert "nothing to do" in bench.intent("guard")


def test_a_guard_rolls_back_when_an_objective_is_broken() -> None:
    bench = guarded()
    bench.until(P.ROLLING_BACK, limit=60, green=delta(20, 10), blue=quiet())
    assert bench.state.cause == "errors-slo"
    assert "green breaks its objective" in bench.state.reason
    assert bench.did(SetWeights) == [BLUE_AGAIN]
    bench.until(P.ROLLED_BACK, limit=5)


@pytest.mark.parametrize(
    ("options", "cause"), [({"ready": (1, 0)}, "unready"), ({"ready": (1, 0), "failed": "out of memory"}, "failed")]
)
def test_a_guard_rolls_back_when_the_release_dies(options: Any, cause: str) -> None:
    bench = guarded()
    bench.until(P.ROLLING_BACK, limit=5, **options)
    assert bench.state.cause == cause


def test_a_guard_that_sees_nothing_says_so_once_and_rolls_nothing_back() -> None:
    bench = guarded()
    bench.ticks(40, green=UNREAD)
    bench.expect(P.GUARDED)
    told = [action for d in bench.decisions for action in d.actions if isinstance(action, Notify)]
    assert sum("is not guarded: nothing could be read of it for 15 s" in notice.message for notice in told) == 1


def test_a_death_of_the_old_slot_is_none_of_the_guards_business() -> None:
    bench = guarded()
    bench.ticks(20, ready=(0, 1))
    bench.expect(P.GUARDED)


def test_there_must_be_something_to_guard() -> None:
    assert promoted().intent("guard") == "refused: the plan has no guard"
    bench = Bench(plan(guard=GUARD))
    bench.until(P.STEP, 1)
    assert "no promoted release" in bench.intent("guard")
    late = promoted(guard=GUARD)
    late.now += 100
    assert "ended 41 s ago" in late.intent("guard")
    twice = guarded()
    assert twice.intent("guard").startswith("nothing to do")


# --- alerts -----------------------------------------------------------------------------------------------------------


def fire(bench: Bench, kind: str, key: str, number: int) -> str:
    intent = Intent(number, kind, "alertmanager", bench.now, reason="HighErrorRate: 7 %", target=key)
    bench.tick(intents=(intent,))
    (settled,) = bench.did(Settle)
    outcome: str = settled.outcome
    return outcome


def test_an_alert_rolls_a_guarded_release_back_once() -> None:
    bench = guarded()
    assert fire(bench, "alert-rollback", f"abc@{bench.now}", 11) == "rolling back"
    assert bench.state.reason == "alert HighErrorRate: 7 %"
    assert bench.did(SetWeights) == [BLUE_AGAIN]
    assert fire(bench, "alert-rollback", f"abc@{bench.now}", 12).startswith("nothing to do")


def test_an_alert_that_is_older_than_the_traffic_is_not_the_releases_doing() -> None:
    bench = Bench()
    bench.until(P.STEP, 1)
    assert "since before the release carried traffic" in fire(bench, "alert-rollback", "abc@5", 1)
    assert "since before" in fire(bench, "alert-rollback", "abc@never", 2)
    bench.expect(P.STEP)


@pytest.mark.parametrize("start", ["STEP", "GUARDED"])
def test_an_alert_that_freezes_goes_on_when_it_is_resolved(start: str) -> None:
    bench = guarded(guard={"window": "300s"}) if start == "GUARDED" else Bench()
    if start == "STEP":
        bench.until(P.STEP, 1)
    key = f"abc@{bench.now}"
    assert fire(bench, "alert-freeze", key, 11) == "paused"
    bench.expect(P.HELD)
    bench.ticks(80)
    bench.expect(P.HELD)
    assert fire(bench, "alert-freeze", key, 12) == "nothing to do: this alert has been acted on"
    assert fire(bench, "alert-resolved", "other@1", 13).startswith("nothing to do")
    assert fire(bench, "alert-resolved", key, 14) == "resumed"
    bench.expect(P(start))
    # A person has said "go on": the same alert, sent again, does not freeze it again.
    assert fire(bench, "alert-freeze", key, 15) == "nothing to do: this alert has been acted on"


def test_a_frozen_guard_still_rolls_back() -> None:
    bench = guarded()
    fire(bench, "alert-freeze", f"abc@{bench.now}", 11)
    bench.until(P.ROLLING_BACK, limit=5, ready=(1, 0))
    assert bench.state.cause == "unready"
