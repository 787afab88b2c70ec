"""Evidence of each check: what an interval is, what it is worth, and whom it is about."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from decide_bench import FAST, SLOW, UNREAD, delta
from evidence_bench import CHECKS, FAILING, HEALTHY, PLAN, gather, log_e, with_check
from hypothesis import given
from hypothesis import strategies as st

from servegate.rollout import bets, evidence
from servegate.rollout.evidence import advance
from servegate.rollout.interval import View
from servegate.rollout.model import CheckState, SlotDelta
from servegate.rollout.plan import Plan

# --- what an interval is ----------------------------------------------------------------------------------------------


def test_an_interval_is_judged_when_its_time_is_over() -> None:
    assert gather("errors", [FAILING] * 4).intervals == 0
    five = gather("errors", [FAILING] * 5)
    assert (five.intervals, five.open, five.since) == (1, {}, 5.0)


def test_an_interval_waits_for_its_requests_in_both_slots() -> None:
    sparse = [(delta(18), delta(1 if number % 5 == 0 else 0)) for number in range(20)]
    assert gather("errors", sparse[:15]).intervals == 0
    assert gather("errors", sparse[:16]).intervals == 1
    assert gather("errors", [(delta(0), delta(2, 1))] * 30, weight=50).intervals == 0


def test_all_of_an_interval_is_one_observation() -> None:
    one = gather("errors", [FAILING, *[HEALTHY] * 4])
    many = gather("errors", [FAILING] * 2 + [HEALTHY] * 3)
    assert log_e("errors", one) == pytest.approx(log_e("errors", many))


def test_ticks_that_could_not_be_read_are_left_out_for_both() -> None:
    read = gather("errors", [FAILING] * 4 + [HEALTHY])
    unread = gather("errors", [FAILING] * 4 + [(UNREAD, delta(2, 2)), (delta(18), UNREAD)] + [HEALTHY])
    assert unread.intervals == read.intervals == 1
    assert unread.observed == read.observed


def test_other_weights_begin_another_interval() -> None:
    state = gather("errors", [FAILING] * 3)
    assert evidence.drop(state).open == {}
    assert evidence.drop(state).since is None
    assert evidence.drop(state).against == state.against
    untouched = CheckState()
    assert evidence.drop(untouched) is untouched


def test_nothing_is_compared_at_full_weight() -> None:
    for name in ("errors", "ttft"):
        assert gather(name, [(delta(2, 1, bucket=FAST), delta(18, 9, bucket=SLOW))] * 30, weight=100).intervals == 0


# --- errors against stable --------------------------------------------------------------------------------------------


def test_without_failures_there_is_no_bet() -> None:
    state = gather("errors", [HEALTHY] * 20)
    assert (state.intervals, state.against.n) == (4, 0)
    assert log_e("errors", state) == 0.0


def test_failures_of_stable_alone_speak_for_the_candidate() -> None:
    assert log_e("errors", gather("errors", [(delta(18, 1), delta(2))] * 5)) < 0


def test_three_separate_intervals_decide_at_ten_percent_and_two_do_not() -> None:
    limit = PLAN.log_limit(CHECKS["errors"])
    failing, fine = [FAILING, *[HEALTHY] * 4], [HEALTHY] * 5
    assert log_e("errors", gather("errors", failing + fine + failing)) < limit
    assert log_e("errors", gather("errors", failing + fine + failing + fine + failing)) >= limit


def test_a_burst_over_two_intervals_and_a_stray_failure_do_not_decide() -> None:
    dead = (delta(18), delta(2, 2))
    burst = [HEALTHY] * 3 + [dead] * 5 + [HEALTHY] * 2
    stray = [FAILING, *[HEALTHY] * 4]
    state = gather("errors", burst + [HEALTHY] * 5 + stray)
    assert state.against.n == 3
    assert log_e("errors", state) < PLAN.log_limit(CHECKS["errors"])
    # An outage that does not end decides nevertheless.
    assert log_e("errors", gather("errors", [dead] * 25)) >= PLAN.log_limit(CHECKS["errors"])


@pytest.mark.parametrize("check", ["errors", "errors-slo"])
def test_an_outage_calls_the_reserve_and_counts_in_full_from_its_third_interval_on(check: str) -> None:
    dead = [(delta(18), delta(2, 2))] * 5
    fine, stray = [HEALTHY] * 5, [(delta(180), delta(20, 1)), *[HEALTHY] * 4]
    states = [gather(check, fine + dead * n) for n in range(1, 5)]
    assert [state.outage for state in states] == [1, 2, 3, 4]
    # Known before the interval it is bet on: the first one of an outage calls nothing.
    assert [state.against.calls for state in states] == [0, 1, 2, 3]
    gains = [after.against.log_wealth[-1] - before.against.log_wealth[-1] for before, after in pairwise(states)]
    assert gains[1] > gains[0] + 0.2
    assert gains[2] == pytest.approx(gains[1], abs=0.1)
    # What comes after a burst of two intervals and is no outage itself does not count in full, and the next is over.
    after = gather(check, fine + dead * 2 + stray)
    assert after.outage == 3
    assert after.against.log_wealth[-1] - states[1].against.log_wealth[-1] < gains[1] - 0.2
    assert gather(check, fine + dead * 2 + fine * 2).outage == 0


@given(st.integers(1, 40), st.integers(1, 90), st.integers(1, 30), st.floats(1, 5, width=16))
def test_the_bound_holds_whatever_the_number_of_failures(n: int, control: int, failures: int, odds: float) -> None:
    # Given m failures among all requests, the candidate's number of them follows Fisher's noncentral hypergeometric.
    m = min(failures, n + control)
    weights = {
        k: math.comb(n, k) * math.comb(control, m - k) * Fraction(odds) ** k
        for k in range(max(0, m - control), min(n, m) + 1)
    }
    mean = float(sum(k * weight for k, weight in weights.items()) / sum(weights.values())) / m
    assert mean <= bets.failure_share_bound(n / (n + control), odds) + 1e-9


def test_right_after_a_step_up_completed_requests_do_not_stand_for_the_traffic() -> None:
    # Good answers of the candidate take longer than an interval: only its one error has come back, of 50 requests.
    late = [(delta(10), delta(1, 1 if number == 0 else 0)) for number in range(5)]
    state = gather("errors", late, weight=50)
    assert state.bound == pytest.approx(bets.failure_share_bound(0.5, 1.1))


def test_a_router_that_does_not_keep_to_its_weight_is_judged_by_what_it_sends() -> None:
    state = gather("errors", [(delta(15), delta(5, 1))] * 5, weight=10)
    assert state.bound == pytest.approx(bets.failure_share_bound(0.25, 1.1))


@pytest.mark.parametrize("weight", [10, 50])
def test_equal_error_rates_are_hardly_ever_an_alarm(weight: float) -> None:
    # One tick per interval, 100 of them: several times as many as a canary has.
    wide = PLAN.model_copy(update={"tick": 5.0})
    check = next(check for check in wide.checks if check.name == "errors")
    rng, runs, alarms = np.random.default_rng(int(weight)), 25, 0
    for _ in range(runs):
        state = CheckState()
        for number in range(1, 101):
            requests = rng.poisson([1000 - 10 * weight, 10 * weight])
            failed = rng.binomial(requests, 0.01)
            sides = [delta(float(n), float(bad)) for n, bad in zip(requests, failed, strict=True)]
            seen = View(5.0 * number, 5.0 * (number - 1), "blue", "green", weight, False,
                        {"blue": sides[0], "green": sides[1]}, {"blue": 1, "green": 1})  # fmt: skip
            state = advance(wide, check, state, seen)
            if evidence.log_e(wide, check, state) >= wide.log_limit(check):
                alarms += 1
                break
    assert alarms == 0  # half a percent is allowed: an eighth of an alarm expected at most


# --- time to first token ----------------------------------------------------------------------------------------------


def test_slower_and_faster_candidates() -> None:
    slow = gather("ttft", [(delta(18), delta(3, bucket=SLOW))] * 20, weight=10)
    fast = gather("ttft", [(delta(18, bucket=SLOW), delta(3))] * 20, weight=10)
    assert log_e("ttft", slow) > 3
    assert log_e("ttft", fast) < 0
    assert slow.compared == slow.intervals > 0
    assert slow.observed / slow.compared > math.log(1.5)


def test_evidence_for_promotion_grows_on_an_unchanged_release_only() -> None:
    same = gather("ttft", [(delta(10), delta(10))] * 30, weight=50)
    slow = gather("ttft", [(delta(10), delta(10, bucket=SLOW))] * 30, weight=50)
    assert same.promote_reached
    assert not slow.promote_reached
    assert (evidence.promote_log_e(PLAN, CHECKS["ttft"], slow) or 0) < 0


def test_once_shown_promotion_evidence_stays_shown() -> None:
    good, bad = (delta(10), delta(10)), (delta(10), delta(10, bucket=SLOW))
    assert gather("ttft", [good] * 30 + [bad] * 10, weight=50).promote_reached


def test_latency_at_less_load_speaks_against_but_not_for() -> None:
    # One replica each: at 10 % the candidate's is sent a ninth, at 90 % nine times as much.
    state = gather("ttft", [(delta(18), delta(3))] * 20)
    assert (state.compared, state.shift_for) == (state.intervals, None)
    state = gather("ttft", [(delta(3), delta(18))] * 20, weight=90)
    assert (state.compared, state.shift) == (0, None)
    assert state.shift_for is not None
    assert "a replica of green is sent 9.0 times the requests of one of blue" in state.skipped_because


def test_a_release_that_builds_its_own_queue_is_judged_nevertheless() -> None:
    queue = {"running": 60.0, "waiting": 40.0}
    state = gather("ttft", [(delta(10), delta(10, bucket=SLOW, gauges=queue))] * 30, weight=50)
    assert log_e("ttft", state) >= PLAN.log_limit(CHECKS["ttft"])
    # Where stable queues, latency tells how much traffic there is.
    state = gather("ttft", [(delta(10, gauges=queue), delta(10, bucket=SLOW))] * 30, weight=50)
    assert state.compared == 0
    assert "blue itself queues (40.0 requests per replica wait)" in state.skipped_because


def test_a_colder_prefix_cache_excuses_for_a_while() -> None:
    def slot(hits: float, bucket: int) -> SlotDelta:
        counters = {"gateway_requests": 10.0, "prefix_cache_queries": 100.0, "prefix_cache_hits": hits}
        return delta(10, bucket=bucket, counters=counters)

    ticks = [(slot(60, FAST), slot(20, SLOW))] * 20
    young = gather("ttft", ticks, weight=50, warm_for=30)
    assert young.compared == 0
    assert "prefix cache of green is still cold (20% of tokens found, 60%)" in young.skipped_because
    assert gather("ttft", ticks, weight=50, warm_for=900).compared > 0


def test_a_cold_candidate_is_not_compared() -> None:
    assert gather("ttft", [(delta(18), delta(3, bucket=SLOW))] * 20, cold=True).intervals == 0
    assert gather("errors", [FAILING] * 20, cold=True).intervals == 4


def test_the_statistic_is_that_of_the_whole_interval() -> None:
    state = gather("ttft", [(delta(18), delta(3, bucket=SLOW)), (delta(18, bucket=SLOW), delta(3))])
    assert state.intervals == 1
    assert state.observed == pytest.approx(0.0, abs=1e-9)


def test_a_metric_the_engine_does_not_have_is_told_with_the_nearest() -> None:
    data = PLAN.model_dump(mode="json")
    data["checks"][1] |= {"metric": "itl"}
    the_plan = Plan.model_validate(data)
    both = delta(10, histograms={name: delta(10).histograms["ttft"] for name in ("ttft", "tpot", "e2e_latency")})
    state = gather("ttft", [(both, both)] * 10, the_plan, weight=50)
    assert state.intervals == 0
    assert state.skipped_because == "the engine of green does not export itl; the nearest it has is tpot"


# --- other events -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("aborts", "finished_abort"),
        ("truncation", "finished_length"),
        ("preemptions", "preemptions"),
        ("unanswered", "gateway_timeouts"),
        ("rejections", "rejected"),
    ],
)
def test_other_events_are_compared_with_stable(event: str, name: str) -> None:
    the_plan = with_check(kind="events-vs-stable", event=event)

    def slot(requests: float, happened: float) -> SlotDelta:
        counters = {"gateway_requests": requests, "finished_stop": requests, "gateway_5xx": happened, name: happened}
        return delta(requests, counters=counters)

    check = the_plan.checks[0]
    more = gather("it", [(slot(18, 0), slot(2, 1))] * 40, the_plan)
    assert evidence.log_e(the_plan, check, more) >= the_plan.log_limit(check)
    same = gather("it", [(slot(18, 9), slot(2, 1))] * 40, the_plan)
    assert evidence.log_e(the_plan, check, same) < 0
    unknown = gather("it", [(delta(18, counters={"gateway_requests": 18.0}), slot(2, 1))] * 40, the_plan)
    assert unknown.intervals == 0


def test_longer_and_shorter_answers() -> None:
    def slot(requests: float, tokens: float) -> SlotDelta:
        counters = {"gateway_requests": requests, "finished_stop": requests, "generation_tokens": tokens * requests}
        return delta(requests, counters=counters)

    for direction, tokens in (("more", 400.0), ("fewer", 25.0)):
        the_plan = with_check(kind="events-vs-stable", event="tokens", direction=direction)
        check = the_plan.checks[0]
        state = gather("it", [(slot(10, 100), slot(10, tokens))] * 120, the_plan, weight=50)
        assert evidence.log_e(the_plan, check, state) >= the_plan.log_limit(check)
        state = gather("it", [(slot(10, 100), slot(10, 100))] * 120, the_plan, weight=50)
        assert evidence.log_e(the_plan, check, state) < 0


def test_the_per_request_test_is_sooner_and_not_the_default() -> None:
    assert PLAN.checks[0].model_dump()["per_request"] is False
    fast = with_check(kind="errors-vs-stable", per_request=True, odds_ratio=1.1)
    burst = [(delta(18), delta(2, 2))] * 5
    state = gather("it", burst, fast)
    assert evidence.log_e(fast, fast.checks[0], state) >= fast.log_limit(fast.checks[0])
    robust = gather("errors", burst)
    assert log_e("errors", robust) < PLAN.log_limit(CHECKS["errors"])


def test_failures_that_are_set_apart_count_in_no_check_and_neither_do_their_requests() -> None:
    apart = delta(12, 2, set_apart=2.0, reclaimed={"llm-green-1": "Evicted"})
    assert apart.failures == 0
    assert apart.event("unanswered") is None
    assert delta(12, counters={"gateway_requests": 12.0, "gateway_resets": 3.0}, set_apart=2.0).event("unanswered") == (
        1.0,
        12.0,
    )
    state = gather("errors", [(delta(18), apart)] * 10)
    assert (state.against.n, state.served["green"]) == (0, 100.0)
    slo = gather("errors-slo", [(delta(18), apart)] * 10)
    assert (slo.bad["green"], slo.observed) == (0.0, 0.0)


# --- objectives -------------------------------------------------------------------------------------------------------


def test_an_objective_is_kept_for_both_slots() -> None:
    state = gather("errors-slo", [(delta(10), delta(10, 2))] * 30, weight=50)
    assert log_e("errors-slo", state) >= PLAN.log_limit(CHECKS["errors-slo"])
    assert evidence.stable_log_e(PLAN, CHECKS["errors-slo"], state) < 0
    assert evidence.recent_fraction(state, "green") == pytest.approx(0.2)
    assert evidence.recent_fraction(state, "blue") == 0.0


def test_one_dreadful_interval_does_not_break_an_objective() -> None:
    state = gather("errors-slo", [(delta(10), delta(10, 10))] * 5, weight=50)
    assert log_e("errors-slo", state) <= math.log(bets.SLO_CAP)


def test_requests_over_an_edge_are_counted_exactly() -> None:
    state = gather("ttft-slo", [(delta(10), delta(10, bucket=12))] * 5, weight=50)  # up to 2.5 s
    assert state.observed == 1.0
    fine = gather("ttft-slo", [(delta(10), delta(10, bucket=11))] * 5, weight=50)  # up to 1 s
    assert fine.observed == 0.0


def test_an_objective_the_buckets_cannot_tell_is_not_judged() -> None:
    other = {"ttft": {"edges": (0.1,), "counts": (9, 1)}}
    state = gather(
        "ttft-slo", [(delta(10), SlotDelta.model_validate({**delta(10).model_dump(), "histograms": other}))] * 9
    )
    assert (state.intervals, state.against.n) == (0, 0)
    assert "no bucket that ends at 1 s" in state.skipped_because


def test_promotion_needs_requests_without_failures() -> None:
    check = CHECKS["errors-slo"]
    few = gather("errors-slo", [(delta(18), delta(2))] * 10)
    assert not few.promote_reached
    enough = gather("errors-slo", [(delta(18), delta(2))] * 60)
    assert enough.promote_reached
    failing = gather(
        "errors-slo", [(delta(18), delta(2, 1 if number % 5 == 0 else 0)) for number, _ in enumerate(range(60))]
    )
    assert not failing.promote_reached
    assert (evidence.promote_log_e(PLAN, check, failing) or 0) < 0
