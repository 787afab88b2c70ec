"""The served share: requests that arrive at the slots, against the weights that the router says it serves by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from decide_bench import UNREAD, Bench, delta, plan

from servegate.rollout import describe, served
from servegate.rollout.memory import Memory
from servegate.rollout.model import Notify, Phase, SlotDelta, State
from servegate.rollout.plan import Plan

P = Phase
RATE = 20


def watched(**changes: Any) -> Plan:
    steps = [{"weight": f"{weight}%", "min_time": "5m"} for weight in (10, 50, 90, 100)]
    return plan(steps=steps, limits={"step": "10m"}, watchdogs={"sample_ratio": changes})


def traffic(requests: float, active: float = 30.0, **options: Any) -> SlotDelta:
    return delta(requests, gauges={"running": active, "waiting": 0.0, "gateway_active": active}, **options)


def divided(share: float, **options: Any) -> dict[str, Any]:
    return {"green": traffic(RATE * share, **options), "blue": traffic(RATE * (1 - share), **options)}


def begun(the_plan: Plan | None = None) -> Bench:
    bench = Bench(the_plan or watched())
    bench.until(P.STEP, 0, **divided(0.1))
    bench.tick(**divided(0.1))
    return bench


def test_traffic_by_the_weights_goes_through() -> None:
    bench = begun()
    for step in range(4):
        bench.until(P.STEP if step < 2 else P.BAKING, step, **divided(bench.state.weights["green"] / 100))
        bench.ticks(290, **divided(bench.state.weights["green"] / 100))
    assert bench.state.served is None  # at 100 % there is no share to look at
    assert not [decision for decision in bench.decisions if decision.state.phase is P.HELD]


@pytest.mark.parametrize(("share", "shown", "within"), [(0.4, "40 %", 60), (0.0, "0 %", 200), (0.25, "25 %", 150)])
def test_another_share_than_the_weight_holds_and_says_the_numbers(share: float, shown: str, within: int) -> None:
    bench = begun()
    # A silent candidate has a watchdog of its own; here it answers something now and then.
    for _ in range(within):
        bench.tick(**divided(max(share, 0.001)))
    bench.expect(P.HELD)
    assert bench.state.held is not None
    assert bench.state.held.cause == "ratio"
    assert f"green (v2) got {shown if share else '0.1 %'} of the requests" in bench.state.reason
    assert "where its weight is 10 %: the traffic is not divided as the router says (e-value" in bench.state.reason
    assert "tolerance 50 %" in bench.state.reason
    held = next(decision for decision in bench.decisions if decision.state.phase is P.HELD)
    assert [action.level for action in held.actions if isinstance(action, Notify)] == ["critical"]


def test_it_can_send_the_release_back() -> None:
    bench = begun(watched(then="rollback"))
    bench.ticks(60, **divided(0.4))
    assert bench.state.cause == "sample-ratio"
    bench.until(P.ROLLED_BACK)


def test_whoever_resumes_starts_a_new_count() -> None:
    bench = begun()
    bench.ticks(60, **divided(0.4))
    bench.expect(P.HELD)
    bench.intent("resume", **divided(0.1))
    bench.expect(P.STEP)
    bench.ticks(100, **divided(0.1))
    bench.expect(P.STEP)
    assert bench.state.served is not None
    assert bench.state.served.arrived["green"] == pytest.approx(2 * 89, abs=4)


def test_what_a_slow_candidate_has_under_way_has_arrived() -> None:
    """It completes nothing for a while; nobody may take that for a smaller share."""
    bench = begun(watched(together=1))
    for second in range(100):
        green = delta(0, gauges={"running": 0.0, "waiting": 0.0, "gateway_active": 30.0 + 2 * second})
        bench.tick(green=green, blue=traffic(18), ready=(1, 1))
        assert bench.state.held is None or bench.state.held.cause != "ratio"
        if bench.state.phase is not P.STEP:
            break
    counted = [decision.state.served for decision in bench.decisions if decision.state.served is not None]
    assert all(item.log_e <= 0 for item in counted)


def test_requests_of_before_do_not_count_at_the_new_weight() -> None:
    bench = begun(watched(settle="20s"))
    bench.ticks(18, **divided(1.0))  # old configuration, for as long as it may take
    assert bench.state.served is None
    bench.ticks(60, **divided(0.1))
    bench.expect(P.STEP)


def test_ticks_that_were_not_read_whole_are_left_out() -> None:
    bench = begun()
    bench.ticks(20, **divided(0.1))
    before = bench.state.served
    assert before is not None
    bench.tick(green=UNREAD, blue=traffic(18))
    bench.tick(green=traffic(4, missing={"gateway/green/b": "timed out"}), blue=traffic(18))
    bench.tick(green=traffic(500), blue=traffic(18))  # covers what was missed on one side alone
    assert bench.state.served is not None
    assert bench.state.served.arrived == before.arrived
    bench.tick(**divided(0.1))
    assert bench.state.served.arrived["green"] == pytest.approx(before.arrived["green"] + 2)


def test_without_requests_under_way_nothing_is_judged() -> None:
    bench = begun()
    bench.ticks(100, green=delta(15, gauges={}), blue=delta(5, gauges={}))
    bench.expect(P.STEP)


def test_items_asked_past_the_router_are_no_share_of_it() -> None:
    """Engines count the items of a check on quality; only a gateway can tell them from users' requests."""
    the_plan = watched()
    quality = {"kind": "quality", "name": "answers", "share": "10%", "suite": "s.yaml", "items": 400, "rate": 1.0}
    checks = the_plan.model_dump(mode="json")["checks"]
    shares = [{**check, "share": "15%"} for check in checks if check["kind"] != "quality"]
    asked = Plan.model_validate({**the_plan.model_dump(mode="json"), "checks": [*shares, quality]})
    engines: dict[str, Any] = {"gateway": False, "gauges": {"running": 1.0, "waiting": 0.0}}
    for judged, held in ((the_plan, True), (asked, False)):
        bench = begun(judged)
        options: dict[str, Any] = {
            slot: delta(10, counters={"http_requests": 10.0}, **engines) for slot in ("green", "blue")
        }
        bench.ticks(100, **options)
        assert (bench.state.phase is P.HELD) == held


def test_a_doubt_holds_the_next_step_up() -> None:
    bench = begun()
    for _ in range(60):
        bench.tick(**divided(0.4))
        if served.doubtful(bench.plan, bench.state) and not served.wrong(bench.plan, bench.state):
            break
    assert "the served share to fit the weight" in (served.doubtful(bench.plan, bench.state) or "")


def test_the_state_stays_small_and_survives_json() -> None:
    bench = begun()
    bench.ticks(50, **divided(0.1))
    assert bench.state.served is not None
    assert State.model_validate_json(bench.state.model_dump_json()).served == bench.state.served
    assert len(bench.state.served.model_dump_json()) < 250


def test_people_see_the_share() -> None:
    bench = begun()
    bench.ticks(60, **divided(0.1))
    lines = describe.lines(
        Memory(state=bench.state, releases={}, plan=bench.plan.model_dump(mode="json")), None, None, 0
    )
    assert any("traffic    green (v2) got 10 % of the requests" in line for line in lines)


def alarms(the_plan: Plan, draw: Any, runs: int, seconds: int) -> int:
    """Runs in which the watchdog speaks, over traffic that `draw` divides (candidate's, stable's requests)."""
    found = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        bench = Bench(the_plan)
        bench.until(P.STEP, 0, **divided(0.1))
        state = bench.state.model_copy(update={"step_effective": bench.now, "refused_since": None})
        at = bench.now + 20
        for second in range(seconds):
            ours, theirs = draw(rng)
            seen = bench.observation(green=traffic(ours), blue=traffic(theirs))
            state = state.model_copy(update={"updated": at + second})
            state = state.model_copy(update={"served": served.advance(the_plan, state, seen)})
            if served.wrong(the_plan, state):
                found += 1
                break
    return found


def test_it_does_not_cry_wolf() -> None:
    """At the edge of the tolerance, and with users whose requests go together: 60 runs of 200 s each, no alarm."""

    def at_the_edge(rng: np.random.Generator) -> tuple[float, float]:
        return float(rng.poisson(RATE * 0.1428)), float(rng.poisson(RATE * 0.8572))

    def sticky(rng: np.random.Generator) -> tuple[float, float]:
        users = rng.random(rng.poisson(2)) < 0.1  # two users a second begin, with ten requests each
        return 10.0 * float(users.sum()), 10.0 * float((~users).sum())

    assert alarms(watched(together=1), at_the_edge, 30, 200) == 0
    assert alarms(watched(), sticky, 30, 200) == 0


def test_the_limit_is_shared_by_the_steps() -> None:
    assert served.limit(watched(alpha="1%")) == pytest.approx(math.log(3 / 0.01))
