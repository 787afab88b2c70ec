"""Failures of pods that the platform takes away: set apart and named, as many as it can explain and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from decide_bench import RELEASES, Bench, delta

from servegate.rollout import audit, bets
from servegate.rollout.audit import Trail
from servegate.rollout.canary_report import canary_report
from servegate.rollout.model import Notify, Observation, Phase, SlotDelta, State
from servegate.rollout.ports import Reclaimed, SlotStatus

P = Phase


def at(step: int) -> Bench:
    """A healthy rollout that has come to a step: ten requests a second to each slot, nine in work."""
    bench = Bench()
    bench.until(P.STEP, step, green=busy(), blue=busy())
    fail_for(bench, 3, 0, ())
    return bench


def busy(failures: float = 0, requests: float = 10) -> SlotDelta:
    return delta(requests, failures, gauges={"running": 9.0, "waiting": 0.0, "gateway_active": 9.0})


def losing(bench: Bench, failures: float, pods: tuple[Reclaimed, ...], slot: str = "green") -> Observation:
    """A tick in which a slot fails, and what the platform says of its pods."""
    of_blue = 90 if bench.state.weights["green"] == 10 else 10
    seen = bench.observation(
        blue=busy(failures if slot == "blue" else 0, of_blue), green=busy(failures if slot == "green" else 0)
    )
    status = SlotStatus(RELEASES[slot].release, 2, 1, reclaimed=pods)
    return seen.model_copy(update={"status": {**seen.status, slot: status}})


def evicted(bench: Bench, name: str = "llm-green-1") -> tuple[Reclaimed, ...]:
    return (Reclaimed(name, "EvictionByEvictionAPI", at=bench.now, gone=bench.now + 30),)


def fail_for(bench: Bench, seconds: int, failures: float, pods: tuple[Reclaimed, ...], **options: Any) -> None:
    for _ in range(seconds):
        seen = losing(bench, failures, pods, **options)
        bench.tick(seen.model_copy(update={"at": bench.now + bench.plan.tick}))


def test_a_pod_that_is_evicted_sends_nothing_back() -> None:
    bench = at(2)
    # What it had in work breaks, a tick in which the platform has said so.
    fail_for(bench, 6, 2, evicted(bench))
    totals = bench.state.totals["green"]
    assert (totals.failures, totals.set_apart) == (0.0, 12.0)
    assert totals.reclaimed == ("llm-green-1 (EvictionByEvictionAPI)",)
    assert bench.last.tick.slots["green"].set_apart == 2
    bench.until(P.PROMOTED, green=busy(), blue=busy())
    assert "12 set apart, because the platform took away llm-green-1 (EvictionByEvictionAPI)" in bench.state.reason


def test_the_same_failures_of_a_crash_send_it_back() -> None:
    told, crashed = at(1), at(1)
    fail_for(told, 27, 2, evicted(told))
    assert told.state.totals["green"].set_apart == 54
    told.expect(P.STEP)
    fail_for(crashed, 27, 2, ())
    crashed.expect(P.ROLLING_BACK)
    crashed.until(P.ROLLED_BACK)
    assert "green fails more often than blue" in crashed.state.reason


def test_more_failures_than_a_pod_explains_send_it_back_all_the_same() -> None:
    bench = at(2)
    for _ in range(120):
        fail_for(bench, 1, 10, evicted(bench))
        if bench.state.phase is P.ROLLING_BACK:
            break
    bench.expect(P.ROLLING_BACK)
    apart = bench.state.totals["green"].set_apart
    assert 9 <= apart <= 9 + 10 * bets.RECLAIM_NOTICED


def test_people_are_told_once_and_nothing_is_excused_for_ever() -> None:
    bench = at(2)
    pods = evicted(bench)
    fail_for(bench, 1, 1, pods)
    assert [notice.level for notice in bench.did(Notify)] == ["warning"]
    assert "the platform takes llm-green-1 (EvictionByEvictionAPI) of green away" in bench.did(Notify)[0].message
    fail_for(bench, 5, 0, pods)
    assert not bench.did(Notify)
    bench.intent("pause", green=busy(), blue=busy())
    bench.ticks(70, green=busy(), blue=busy())
    assert bench.state.reclaims == ()
    fail_for(bench, 1, 1, pods)  # a pod that failed long ago is still listed
    assert (bench.state.reclaims, bench.state.totals["green"].failures) == ((), 1.0)


def test_a_release_that_is_evicted_again_and_again_is_not_well() -> None:
    bench = at(2)
    for number in range(10):
        fail_for(bench, 1, 2, evicted(bench, f"pod-{number}"))
    assert len(bench.state.totals["green"].reclaimed) == bets.RECLAIMS


def test_a_control_that_loses_a_pod_does_not_cover_for_the_candidate() -> None:
    bench = at(2)
    fail_for(bench, 6, 2, evicted(bench, "llm-blue-0"), slot="blue")
    assert bench.state.totals["blue"].set_apart == 12
    assert bench.state.checks["errors"].against.n == 0


def test_a_slot_without_any_pod_goes_back_and_says_who_took_it() -> None:
    bench = at(2)
    pods = evicted(bench)
    for _ in range(4):
        seen = losing(bench, 10, pods)
        status = SlotStatus(RELEASES["green"].release, 2, 0, reclaimed=pods)
        bench.tick(seen.model_copy(update={"status": {**seen.status, "green": status}}))
    assert "no ready replica for" in bench.state.reason
    assert "the platform took away llm-green-1 (EvictionByEvictionAPI)" in bench.state.reason


def test_the_state_survives_json_and_the_trail_and_the_report_name_the_pod(tmp_path: Path) -> None:
    bench = Bench()
    trail = Trail(tmp_path / "trail.jsonl")
    last: audit.AuditTick | None = None

    def tick(seen: Observation | None = None) -> None:
        nonlocal last
        bench.now += bench.plan.tick
        before = bench.state
        seen = (seen or bench.observation(green=busy(), blue=busy())).model_copy(update={"at": bench.now})
        bench.now -= bench.plan.tick
        decision = bench.tick(seen)
        line = audit.line(bench.plan, before, seen, decision, last.after if last else None)
        trail.append(line, ["done"] * len(decision.actions))
        last = line
        assert State.model_validate_json(decision.state.model_dump_json()) == decision.state

    while bench.state.phase is not P.STEP or bench.state.step < 2:
        tick()
    pods = evicted(bench)
    for _ in range(5):
        tick(losing(bench, 2, pods))
    for _ in range(60):
        if not bench.state.phase.finished:
            tick()
    bench.expect(P.PROMOTED)
    assert not audit.replay(audit.read_trail(tmp_path / "trail.jsonl")).differences
    report = canary_report(tmp_path / "trail.jsonl", tmp_path / "report.json")
    said = next(finding for finding in report.findings if finding.code == "reclaimed")
    assert said.message == (
        "the platform took away llm-green-1 (EvictionByEvictionAPI) of green: 10 failures were set apart"
    )
    errors = next(item for item in report.measures if item.name == "error_rate" and item.slot == "green")
    assert errors.value == 0


def test_before_any_traffic_there_is_nothing_to_explain() -> None:
    bench = Bench()
    bench.until(P.PREPARING)
    fail_for(bench, 1, 0, evicted(bench))
    assert bench.state.reclaims == ()
