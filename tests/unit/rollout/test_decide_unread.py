"""decide: a slot that could not be read, and why; each kind of silence has its name, time and action."""

from __future__ import annotations

from typing import Any

import pytest
from decide_bench import at, delta, plan

from servegate.rollout.model import Phase, SetWeights, SlotDelta

P = Phase
BACK = SetWeights(weights={"blue": 100.0, "green": 0.0})

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
