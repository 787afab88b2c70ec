"""decide: what evidence does to a rollout, and what is no evidence."""

from __future__ import annotations

import re
from typing import Any

from decide_bench import SLOW, Bench, at, delta, plan

from servegate.rollout.model import Buckets, Notify, Phase, SetWeights

P = Phase
BACK = SetWeights(weights={"blue": 100.0, "green": 0.0})

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
    bench.until(P.ROLLING_BACK, green=delta(20, 4), blue=delta(0))
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
