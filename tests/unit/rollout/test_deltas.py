"""Deltas: per series first, then sums; missing is never zero, and nothing is ever negative."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from servegate.rollout.deltas import BucketError, add, between
from servegate.rollout.model import Buckets, Readings, SlotDelta
from servegate.rollout.ports import Fault, Histogram, Observed, PodSample

INF = math.inf


def sample(pod: str, at: float, slot: str = "blue", **options: Any) -> PodSample:
    counters: Mapping[str, float] = options.pop("counters", {"http_requests": 0.0})
    return PodSample(pod=pod, slot=slot, at=at, counters=counters, **options)


def observed(at: float, *pods: PodSample, missing: Mapping[str, str] | None = None) -> Observed:
    return Observed(at=at, pods=pods, missing=missing or {})


def after(*readings: Observed) -> tuple[dict[str, SlotDelta], Readings]:
    """Deltas of the last reading."""
    deltas, last = between(None, readings[0])
    for reading in readings[1:]:
        # What a restarted controller would have: the readings after a round trip through the store.
        deltas, last = between(Readings.model_validate_json(last.model_dump_json()), reading)
    return deltas, last


def counted(delta: SlotDelta) -> dict[str, float]:
    return dict(delta.counters)


def test_the_first_reading_is_only_a_baseline() -> None:
    deltas, _ = after(observed(1, sample("a", 1, counters={"http_requests": 500.0})))
    assert deltas["blue"].requests is None
    assert deltas["blue"].pods == 0


def test_sums_over_the_pods_of_a_slot() -> None:
    deltas, _ = after(
        observed(
            1,
            sample("a", 1, counters={"http_requests": 10.0, "http_5xx": 1.0}),
            sample("b", 1, counters={"http_requests": 20.0, "http_5xx": 0.0}),
            sample("c", 1, "green", counters={"http_requests": 5.0}),
        ),
        observed(
            2,
            sample("a", 2, counters={"http_requests": 14.0, "http_5xx": 3.0}),
            sample("b", 2, counters={"http_requests": 21.0, "http_5xx": 0.0}),
            sample("c", 2, "green", counters={"http_requests": 5.0}),
        ),
    )
    assert counted(deltas["blue"]) == {"http_requests": 5.0, "http_5xx": 2.0}
    assert deltas["blue"].pods == 2
    assert deltas["green"].requests == 0.0


def test_a_restarted_pod_counts_from_zero_and_does_not_hide_the_other() -> None:
    deltas, _ = after(
        observed(1, sample("a", 1, counters={"x": 1000.0}), sample("b", 1, counters={"x": 100.0})),
        observed(2, sample("a", 2, counters={"x": 7.0}), sample("b", 2, counters={"x": 130.0})),
    )
    assert deltas["blue"].counters["x"] == 37.0


def test_a_restart_is_told_by_the_process_start_even_when_the_total_has_grown() -> None:
    deltas, _ = after(
        observed(1, sample("a", 1, counters={"x": 10.0}, started=0.0)),
        observed(9, sample("a", 9, counters={"x": 40.0}, started=3.0)),
    )
    assert deltas["blue"].counters["x"] == 40.0


def test_one_falling_total_resets_all_totals_of_the_process() -> None:
    deltas, _ = after(
        observed(1, sample("a", 1, counters={"x": 10.0, "y": 1.0})),
        observed(2, sample("a", 2, counters={"x": 3.0, "y": 2.0})),
    )
    assert counted(deltas["blue"]) == {"x": 3.0, "y": 2.0}


@pytest.mark.parametrize(("started", "counts"), [(1.5, True), (0.5, False), (None, False)])
def test_a_new_pod_counts_from_zero_only_if_it_started_since(started: float | None, counts: bool) -> None:
    deltas, _ = after(
        observed(1, sample("a", 1)),
        observed(2, sample("a", 2), sample("new", 2, "green", counters={"x": 8.0}, started=started)),
    )
    assert deltas["green"].counters == ({"x": 8.0} if counts else {})


def test_a_series_that_is_missing_once_is_missing_and_loses_nothing() -> None:
    readings = [
        observed(1, sample("a", 1, counters={"x": 10.0, "y": 1.0})),
        observed(2, sample("a", 2, counters={"x": 12.0})),
        observed(3, sample("a", 3, counters={"x": 12.0, "y": 6.0})),
    ]
    assert counted(after(*readings[:2])[0]["blue"]) == {"x": 2.0}
    assert counted(after(*readings)[0]["blue"]) == {"x": 0.0, "y": 5.0}


def test_a_pod_that_does_not_answer_is_missing_and_is_counted_when_it_does() -> None:
    readings = [
        observed(1, sample("a", 1, counters={"x": 10.0})),
        observed(2, missing={"a": "timed out"}),
        observed(3, sample("a", 3, counters={"x": 25.0})),
    ]
    gone = after(*readings[:2])[0]["blue"]
    assert gone.counters == {}
    assert gone.missing == {"a": "timed out"}
    assert gone.unread_because == "no-data"
    assert after(*readings)[0]["blue"].counters["x"] == 15.0


def test_a_duplicated_or_late_scrape_is_no_reading() -> None:
    first = observed(5, sample("a", 5, counters={"x": 10.0}))
    for at in (5, 4):
        deltas, last = after(first, observed(6, sample("a", at, counters={"x": 3.0})))
        assert deltas["blue"].counters == {}
        assert last.pods["a"].counters == {"x": 10.0}


def test_values_that_are_no_numbers_were_not_measured() -> None:
    deltas, _ = after(
        observed(1, sample("a", 1, counters={"x": 1.0, "y": 1.0}, gauges={"running": 1.0})),
        observed(
            2,
            sample("a", 2, counters={"x": math.nan, "y": -5.0, "z": INF}, gauges={"running": math.nan, "waiting": 2.0}),
        ),
    )
    assert deltas["blue"].counters == {}
    assert deltas["blue"].gauges == {"waiting": 2.0}


def histogram(counts: tuple[float, ...], edges: tuple[float, ...] = (0.1, 0.5, INF), total: float = 1.0) -> Histogram:
    return Histogram(edges=edges, counts=counts, sum=total)


def test_histograms_are_subtracted_per_bucket() -> None:
    deltas, _ = after(
        observed(1, sample("a", 1, histograms={"ttft": histogram((5.0, 8.0, 10.0), total=2.0)})),
        observed(2, sample("a", 2, histograms={"ttft": histogram((6.0, 11.0, 14.0), total=5.0)})),
    )
    assert deltas["blue"].histograms["ttft"] == Buckets(edges=(0.1, 0.5), counts=(1.0, 2.0, 1.0), sum=3.0)


@pytest.mark.parametrize(
    "bad",
    [
        histogram((1.0, 2.0), edges=(0.1, 0.5)),  # no infinity
        histogram((3.0, 2.0, 4.0)),  # falls
        histogram((1.0, 2.0, math.nan)),
        histogram((1.0, 2.0, 3.0), edges=(0.5, 0.1, INF)),
        histogram((1.0, 2.0, 3.0), total=math.nan),
        histogram((1.0, 2.0)),
    ],
)
def test_what_is_no_histogram_was_not_measured(bad: Histogram) -> None:
    good = histogram((1.0, 2.0, 3.0))
    deltas, _ = after(
        observed(1, sample("a", 1, histograms={"ttft": good})), observed(2, sample("a", 2, histograms={"ttft": bad}))
    )
    assert deltas["blue"].histograms == {}


def test_changed_edges_are_left_out_and_named() -> None:
    deltas, _ = after(
        observed(1, sample("a", 1, histograms={"ttft": histogram((1.0, 2.0, 3.0))})),
        observed(2, sample("a", 2, histograms={"ttft": histogram((1.0, 2.0, 4.0), edges=(0.1, 0.25, INF))})),
    )
    assert deltas["blue"].histograms == {}
    assert "0.25, 0.5" in deltas["blue"].missing["a ttft"]


def test_pods_of_a_slot_with_other_edges_are_left_out_and_named() -> None:
    def pods(at: float, more: float) -> Observed:
        return observed(
            at,
            sample("a", at, histograms={"ttft": histogram((1.0 + more, 2.0 + more, 3.0 + more))}),
            sample("b", at, histograms={"ttft": histogram((1.0, 2.0, 4.0), edges=(0.1, 0.25, INF))}),
        )

    deltas, _ = after(pods(1, 0), pods(2, 1))
    assert deltas["blue"].histograms == {}
    assert "ttft of blue" in deltas["blue"].missing


def test_adding_other_edges_is_refused_with_the_edges() -> None:
    with pytest.raises(BucketError, match=r"ttft: bucket edges differ .*0\.2, 0\.3"):
        add("ttft", Buckets(edges=(0.1, 0.2), counts=(1, 1, 1)), Buckets(edges=(0.1, 0.3), counts=(1, 1, 1)))


def test_the_gateway_counts_requests_and_failures_once() -> None:
    engine = {"http_requests": 0.0, "http_5xx": 0.0, "rejected": 0.0, "finished_error": 0.0}
    gateway = {"gateway_requests": 0.0, "gateway_5xx": 0.0, "gateway_connect_failures": 0.0, "gateway_resets": 0.0}
    deltas, _ = after(
        observed(1, sample("a", 1, counters=engine), sample("gateway/blue", 1, counters=gateway)),
        observed(
            2,
            sample("a", 2, counters={"http_requests": 18.0, "http_5xx": 2.0, "rejected": 2.0, "finished_error": 1.0}),
            sample(
                "gateway/blue",
                2,
                counters={
                    "gateway_requests": 20.0,
                    "gateway_5xx": 5.0,
                    "gateway_connect_failures": 3.0,
                    "gateway_resets": 1.0,
                },
                gauges={"gateway_active": 4.0},
            ),
        ),
    )
    blue = deltas["blue"]
    # 5 answered with 5xx, 2 of them turned away by a full engine; 1 broke off; 1 failed inside its answer.
    assert (blue.requests, blue.rejected, blue.failures) == (20.0, 2.0, 5.0)
    assert blue.pods == 1
    assert blue.gauges["gateway_active"] == 4.0


def test_without_a_gateway_the_engine_counts() -> None:
    delta = SlotDelta(pods=1, counters={"http_requests": 10.0, "http_5xx": 2.0, "http_4xx": 5.0, "finished_error": 1.0})
    assert (delta.requests, delta.failures, delta.rejected) == (10.0, 3.0, 0.0)


def test_a_gateway_that_is_not_read_is_not_replaced_by_the_engine() -> None:
    start = [sample("a", 1), sample("gateway/blue", 1, counters={"gateway_requests": 5.0})]
    deltas, _ = after(
        observed(1, *start),
        observed(2, sample("a", 2, counters={"http_requests": 9.0}), missing={"gateway/blue": "refused"}),
    )
    assert deltas["blue"].gateway
    assert deltas["blue"].requests is None
    assert deltas["blue"].pods == 1


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_total_that_cannot_be_is_not_measured(value: float) -> None:
    """And the next good one is compared with the last good one: nothing is lost, nothing negative."""
    deltas, last = after(
        observed(1, sample("a", 1, counters={"http_requests": 5.0})),
        observed(2, sample("a", 2, counters={"http_requests": value})),
    )
    assert deltas["blue"].requests is None
    deltas, _ = between(last, observed(3, sample("a", 3, counters={"http_requests": 9.0})))
    assert deltas["blue"].requests == 4.0


def test_a_delta_that_is_negative_is_refused_where_somebody_else_makes_it() -> None:
    with pytest.raises(ValidationError, match=r"(?s)http_requests.*greater than or equal to 0"):
        SlotDelta(counters={"http_requests": -1.0})


def test_why_a_slot_could_not_be_read_is_told_apart() -> None:
    start = sample("a", 1, counters={"http_requests": 1.0})
    _, last = between(None, observed(1, start))
    again, _ = between(last, observed(2, start))
    assert (again["blue"].requests, again["blue"].unread_because) == (None, "stale")
    kinds: tuple[tuple[Fault, str], ...] = (("down", "target-down"), ("stale", "stale"))
    for fault, name in kinds:
        lost = Observed(at=2, pods=(), missing={"a": "x"}, faults={"a": fault, "b": "down"})
        found, _ = between(last, lost)
        assert (found["blue"].requests, found["blue"].unread_because) == (None, name)
        assert found["blue"].faults == {"a": fault}


def test_never_more_failures_than_requests() -> None:
    delta = SlotDelta(counters={"http_requests": 3.0, "http_5xx": 3.0, "rejected": 9.0, "finished_error": 4.0})
    assert (delta.failures, delta.rejected) == (0.0, 3.0)


def test_cache_usage_is_averaged_and_queues_are_summed() -> None:
    gauges = {"running": 3.0, "kv_cache_usage": 0.5}
    pods = [sample(pod, at, gauges=gauges) for at in (1, 2) for pod in ("a", "b")]
    deltas, _ = after(observed(1, *pods[:2]), observed(2, *pods[2:]))
    assert deltas["blue"].gauges == {"running": 6.0, "kv_cache_usage": 0.5}


def test_a_pod_that_is_gone_for_long_is_forgotten() -> None:
    _, last = after(observed(1, sample("a", 1), sample("b", 1)), observed(2000, sample("b", 2000)))
    assert set(last.pods) == {"b"}


@given(st.lists(st.dictionaries(st.sampled_from("xyz"), st.floats(0, 1e9)), min_size=1, max_size=8))
def test_no_delta_is_ever_negative(totals: list[dict[str, float]]) -> None:
    last = None
    for at, counters in enumerate(totals, 1):
        deltas, last = between(last, observed(at, sample("a", at, counters=counters)))
        assert all(value >= 0 for value in deltas["blue"].counters.values())


@given(st.lists(st.integers(0, 50), min_size=2, max_size=10), st.sets(st.integers(1, 8)))
def test_nothing_is_lost_or_counted_twice_whatever_scrapes_fail(increments: list[int], failed: set[int]) -> None:
    total, counted_, last = 0, 0.0, None
    for at, increment in enumerate(increments):
        total += increment
        is_last = at == len(increments) - 1
        if at in failed and not is_last:
            reading = observed(at + 1, missing={"a": "timed out"})
        else:
            reading = observed(at + 1, sample("a", at + 1, counters={"x": float(total)}))
        deltas, last = between(last, reading)
        counted_ += deltas["blue"].counters.get("x", 0.0) if "blue" in deltas else 0.0
    assert counted_ == total - increments[0]
