"""decide: the way of a healthy release, what people may want, and what holds for every decision."""

from __future__ import annotations

import math
from typing import Any

import pytest
from decide_bench import RELEASES, UNREAD, Bench, delta, plan

from servegate.errors import ConfigError
from servegate.rollout.decide import decide
from servegate.rollout.intents import FORCE
from servegate.rollout.model import (
    EnsureSlot,
    Notify,
    Phase,
    Preparation,
    RunSmoke,
    ScaleSlot,
    Settle,
    SetWeights,
    Warm,
)
from servegate.rollout.ports import Intent, RouteStatus

P = Phase


def bench_in(phase: Phase) -> Bench:
    """A rollout that has come to `phase`."""
    bench = Bench()
    if phase is P.PENDING:
        bench.tick(preparation=Preparation())
    elif phase is P.PREPARING:
        bench.tick()
    elif phase is P.HELD:
        bench.until(P.STEP, 1)
        bench.intent("pause")
    elif phase is P.ROLLING_BACK:
        bench.until(P.STEP, 1)
        bench.intent("abort")
    elif phase is P.ROLLED_BACK:
        bench.until(P.STEP, 1)
        bench.intent("abort")
        bench.until(P.ROLLED_BACK)
    else:
        bench.until(phase, 1 if phase is P.STEP else None)
    bench.expect(phase)
    return bench


# --- the way of a healthy release -------------------------------------------------------------------------------------


def test_a_healthy_release_goes_through_every_step_and_is_promoted() -> None:
    bench = Bench()
    began = bench.now
    bench.until(P.PROMOTED)
    seen = list(dict.fromkeys((d.state.phase, d.state.weights["green"]) for d in bench.decisions))
    assert seen == [
        (P.PREPARING, 0.0),
        (P.STEP, 1.0),
        (P.STEP, 10.0),
        (P.STEP, 50.0),
        (P.BAKING, 95.0),
        (P.BAKING, 100.0),
        (P.PROMOTED, 100.0),
    ]
    assert bench.now - began < 100
    state = bench.state
    assert (state.stable, state.candidate) == ("green", "blue")
    assert state.weights == {"green": 100.0, "blue": 0.0}
    assert state.finished == bench.now
    assert not bench.did(ScaleSlot)  # the old slot stays warm
    assert "green (v2) is promoted" in bench.last.reason
    assert bench.last.tick.candidate is None
    assert bench.last.tick.stable == "green"


def test_each_step_lasts_its_time_from_when_the_router_serves_it() -> None:
    bench = Bench()
    bench.until(P.STEP, 0)
    bench.ticks(3, route=RouteStatus(False, {"blue": 100.0}, "waiting for the data plane"))
    assert bench.state.step_effective is None
    assert bench.did(SetWeights), "the weights are written again until they are served"
    bench.tick()
    effective = bench.now
    assert bench.state.step_effective == effective
    assert not bench.did(SetWeights)
    bench.until(P.STEP, 1)
    assert bench.now - effective == 8


def test_a_step_waits_for_its_requests() -> None:
    bench = Bench()
    bench.until(P.STEP, 1)
    bench.ticks(45, green=delta(1))
    assert bench.state.step == 1
    assert "more requests at 10 %" in bench.state.waiting
    bench.ticks(10, green=delta(1))
    assert bench.state.step == 2


def test_preparation_goes_in_order() -> None:
    bench = Bench()
    bench.tick(preparation=Preparation())
    assert (bench.state.phase, bench.did(EnsureSlot)) == (P.PENDING, [])
    bench.tick(preparation=Preparation(verdict="missing"))
    bench.expect(P.PENDING)
    assert "verdict" in bench.state.waiting
    verdict = "sha256:" + "a" * 64
    passed = Preparation(verdict="pass", verdict_hash=verdict)
    bench.tick(preparation=passed, ready=(1, 0))
    assert bench.state.verdict == verdict
    assert bench.did(EnsureSlot) == [EnsureSlot(slot="green", release=RELEASES["green"].release, replicas=1)]
    bench.tick(preparation=passed, ready=(1, 0))
    assert bench.did(EnsureSlot)
    assert not bench.did(RunSmoke)
    bench.tick(preparation=passed)
    assert bench.did(RunSmoke) == [RunSmoke(slot="green", release=RELEASES["green"].release)]
    bench.tick(preparation=passed.model_copy(update={"smoke": "running", "warm": "ok"}))
    assert (bench.did(RunSmoke) != [], bench.did(Warm)) == (True, [])
    bench.tick(preparation=passed.model_copy(update={"smoke": "ok"}))
    assert bench.did(Warm) == [Warm(slot="green", release=RELEASES["green"].release)]
    assert bench.state.weights["green"] == 0
    bench.tick(preparation=passed.model_copy(update={"warm": "ok"}))  # the smoke result is remembered
    assert (bench.state.phase, bench.state.weights["green"]) == (P.STEP, 1.0)


def test_smoke_of_a_slot_that_is_not_up_says_nothing() -> None:
    bench = bench_in(P.PREPARING)
    bench.tick(ready=(1, 0))
    bench.expect(P.PREPARING)
    assert not bench.state.smoke_ok


def test_another_release_in_the_candidates_slot_is_not_ready() -> None:
    bench = bench_in(P.PREPARING)
    seen = bench.observation()
    other = seen.model_copy(update={"status": {**seen.status, "green": seen.status["blue"]}})
    bench.tick(other)
    assert bench.state.ready["green"] == 0
    bench.expect(P.PREPARING)


@pytest.mark.parametrize(
    ("phase", "options", "words"),
    [
        (P.PENDING, {"preparation": Preparation(verdict="fail", verdict_message="accuracy 61 %")}, "accuracy 61 %"),
        (P.PREPARING, {"preparation": Preparation(smoke="failed", smoke_message="no stream")}, "no stream"),
        (P.PREPARING, {"preparation": Preparation(smoke="ok")}, None),
        (P.PREPARING, {"failed": "engine ended with status 1", "ready": (1, 0)}, "status 1"),
    ],
)
def test_what_preparation_may_find(phase: Phase, options: dict[str, Any], words: str | None) -> None:
    bench = bench_in(phase)
    bench.tick(**options)
    if words is None:
        bench.expect(P.PREPARING)
        return
    bench.expect(P.ROLLING_BACK)
    assert words in bench.state.reason
    bench.tick()
    bench.expect(P.ROLLED_BACK)
    assert all(d.state.weights["green"] == 0 for d in bench.decisions)
    # A slot that was never asked for is not scaled down: it may hold the release before.
    assert bool(bench.did(ScaleSlot)) == (phase is P.PREPARING)


def test_a_failed_warm_up_is_not_served() -> None:
    bench = bench_in(P.PREPARING)
    bench.tick(preparation=Preparation(smoke="ok"))
    bench.tick(preparation=Preparation(warm="failed", warm_message="timed out"))
    assert (bench.state.phase, bench.state.cause) == (P.ROLLING_BACK, "warm-up")


@pytest.mark.parametrize("phase", [P.PENDING, P.PREPARING])
def test_preparation_has_a_time_limit(phase: Phase) -> None:
    bench = bench_in(phase)
    bench.ticks(122, preparation=Preparation(verdict="missing" if phase is P.PENDING else "pass"), ready=(1, 0))
    bench.expect(P.ROLLED_BACK)
    assert "120 s" in bench.state.reason or "2 min" in bench.state.reason


# --- intents ----------------------------------------------------------------------------------------------------------

INTENTS = {
    # phase: (abort, pause, resume, promote) → (phase afterwards, start of the outcome)
    P.PENDING: ((P.ROLLING_BACK, "rolling"), (P.HELD, "paused"), (P.PENDING, "nothing"), (P.PENDING, "refused")),
    P.PREPARING: ((P.ROLLING_BACK, "rolling"), (P.HELD, "paused"), (P.PREPARING, "nothing"), (P.PREPARING, "refused")),
    P.STEP: ((P.ROLLING_BACK, "rolling"), (P.HELD, "paused"), (P.STEP, "nothing"), (P.STEP, "refused")),
    P.BAKING: ((P.ROLLING_BACK, "rolling"), (P.HELD, "paused"), (P.BAKING, "nothing"), (P.BAKING, "all traffic")),
    P.HELD: ((P.ROLLING_BACK, "rolling"), (P.HELD, "nothing"), (P.STEP, "resumed"), (P.HELD, "refused")),
    P.ROLLING_BACK: (
        (P.ROLLING_BACK, "nothing"),
        (P.ROLLING_BACK, "refused"),
        (P.ROLLING_BACK, "refused"),
        (P.ROLLING_BACK, "refused"),
    ),
    P.ROLLED_BACK: (
        (P.ROLLED_BACK, "nothing"),
        (P.ROLLED_BACK, "refused"),
        (P.ROLLED_BACK, "refused"),
        (P.ROLLED_BACK, "refused"),
    ),
    P.PROMOTED: (
        (P.PROMOTED, "refused"),
        (P.PROMOTED, "refused"),
        (P.PROMOTED, "refused"),
        (P.PROMOTED, "refused"),
    ),
}


@pytest.mark.parametrize("phase", INTENTS)
@pytest.mark.parametrize("which", range(4))
def test_intents_in_every_phase(phase: Phase, which: int) -> None:
    bench = bench_in(phase)
    kind = ("abort", "pause", "resume", "promote")[which]
    expected, outcome = INTENTS[phase][which]
    preparation = Preparation(verdict="missing" if phase is P.PENDING else "pass")
    assert bench.intent(kind, preparation=preparation).startswith(outcome)
    bench.expect(expected)
    if outcome == "rolling":
        assert bench.state.reason == "aborted by kim: because"
    if outcome == "all traffic":
        assert bench.state.weights["green"] == 100


def test_an_unknown_intent_is_refused_with_what_is_possible() -> None:
    bench = bench_in(P.STEP)
    outcome = bench.intent("explode")
    assert "'explode'" in outcome
    assert "abort, pause, resume, promote" in outcome
    bench.expect(P.STEP)


def test_an_intent_is_carried_out_once_even_if_it_is_seen_again() -> None:
    bench = bench_in(P.STEP)
    pause = Intent(1, "pause", "kim", 0.0)
    bench.tick(intents=(pause,))
    bench.tick(intents=(Intent(2, "resume", "kim", 0.0),))
    bench.tick(intents=(pause,))  # settled by nobody: the controller was killed in between
    bench.expect(P.STEP)
    assert bench.did(Settle) == [Settle(intent=pause, outcome="carried out")]


def test_intents_are_carried_out_in_the_order_they_were_left() -> None:
    bench = bench_in(P.STEP)
    bench.tick(intents=(Intent(2, "resume", "kim", 0.0), Intent(1, "pause", "kim", 0.0)))
    bench.expect(P.STEP)
    assert [action.outcome for action in bench.did(Settle)] == ["paused", "resumed"]


def test_promote_needs_the_evidence_or_force_and_says_what_it_skipped() -> None:
    bench = bench_in(P.STEP)
    assert "evidence of check errors-slo" in bench.intent("promote")
    bench.expect(P.STEP)
    assert bench.intent("promote", FORCE).startswith("all traffic")
    assert "promoted without waiting by kim: because; skipped by force: evidence of check" in bench.last.reason
    bench.ticks(4)
    bench.expect(P.BAKING)
    bench.ticks(3)
    bench.expect(P.PROMOTED)
    broken = bench_in(P.STEP)
    broken.intent("promote", FORCE)
    broken.ticks(3, ready=(1, 0))
    broken.expect(P.ROLLING_BACK)


def test_promote_with_the_evidence_skips_what_is_left_of_the_step() -> None:
    bench = Bench()
    bench.until(P.STEP, 2)
    bench.ticks(15)
    left = bench.state.waiting
    assert " s more at 50 %" in left
    bench.state = bench.state.model_copy(
        update={
            "checks": {
                name: gathered.model_copy(update={"promote_reached": True})
                for name, gathered in bench.state.checks.items()
            }
        }
    )
    assert bench.intent("promote").startswith("all traffic")
    assert "by force" not in bench.last.reason
    bench.until(P.PROMOTED, limit=10)


def test_promote_is_refused_without_a_ready_replica() -> None:
    bench = bench_in(P.STEP)
    assert bench.intent("promote", ready=(1, 0)) == "refused: it needs a ready replica of green (v2)"
    assert bench.state.weights["green"] == 10


def test_a_pause_outlives_what_else_it_was_held_for() -> None:
    bench = bench_in(P.STEP)
    bench.until(P.HELD, ready=(0, 1))
    assert "not go on by itself" in bench.intent("pause", ready=(0, 1))
    bench.ticks(5)
    bench.expect(P.HELD)
    bench.intent("resume")
    bench.expect(P.STEP)


def test_resume_starts_the_steps_time_anew() -> None:
    bench = Bench()
    bench.until(P.STEP, 1)
    bench.ticks(35)
    bench.intent("pause")
    bench.ticks(30)
    bench.intent("resume")
    bench.ticks(30)
    assert bench.state.step == 1
    bench.ticks(12)
    assert bench.state.step == 2


# --- what holds always ------------------------------------------------------------------------------------------------


def test_another_plan_is_refused() -> None:
    bench = bench_in(P.STEP)
    with pytest.raises(ConfigError, match="plan canary, and this plan is another"):
        other = plan(alpha="2%")
        decide(other, bench.state.model_copy(update={"plan_name": "canary"}), bench.observation(), bench.now)


def test_a_clock_that_goes_backwards_stands_still() -> None:
    bench = bench_in(P.STEP)
    before = bench.state.updated
    decision = decide(bench.plan, bench.state, bench.observation(), bench.now - 500)
    assert decision.state.updated == before
    assert decision.state.phase is P.STEP


def test_a_clock_that_went_back_is_waited_for_by_name() -> None:
    bench = bench_in(P.STEP)
    before = bench.state
    decision = decide(bench.plan, before, bench.observation(), bench.now - 300)
    assert decision.state.updated == before.updated
    assert decision.state.waiting == "the clock, which went back by 5 min"
    assert not decision.reason
    again = decide(bench.plan, decision.state, bench.observation(), bench.now + 1)
    assert "the clock" not in again.state.waiting


@pytest.mark.parametrize("phase", [P.PROMOTED, P.ROLLED_BACK])
def test_nothing_happens_after_the_end(phase: Phase) -> None:
    bench = bench_in(phase)
    state = bench.state
    bench.ticks(3, green=delta(10, 10), ready=(0, 0))
    assert bench.state == state
    assert not bench.did(Notify)


def test_the_end_is_brought_about_again_after_a_kill() -> None:
    # The state was saved, its effects were not carried out.
    bench = bench_in(P.ROLLED_BACK)
    bench.served = {"blue": 90.0, "green": 10.0}
    bench.tick()
    assert bench.did(SetWeights) == [SetWeights(weights={"blue": 100.0, "green": 0.0})]
    assert bench.did(ScaleSlot) == [ScaleSlot(slot="green", replicas=0)]


def test_the_tick_shows_what_was_not_measured_as_such() -> None:
    bench = bench_in(P.STEP)
    tick = bench.tick(green=UNREAD).tick
    assert tick.slots["green"].requests is None
    assert tick.slots["green"].failures is None
    assert tick.slots["blue"].requests == 10
    assert tick.slots["blue"].ttft_p50 == pytest.approx(0.07)
    assert [line.check for line in tick.evidence] == ["errors", "ttft", "errors-slo", "ttft-slo"]
    assert tick.evidence[0].log_limit == pytest.approx(math.log(200))


def test_totals_are_what_the_slots_did_since_the_first_traffic() -> None:
    bench = Bench()
    bench.until(P.STEP, 0)
    bench.tick(green=delta(7, 2))
    bench.tick(green=delta(3, 1, counters={"gateway_requests": 3.0, "gateway_5xx": 2.0, "rejected": 1.0}))
    totals = bench.state.totals["green"]
    assert (totals.requests, totals.failures, totals.rejected) == (10, 3, 1)
    assert bench.state.totals["blue"].requests == 20
