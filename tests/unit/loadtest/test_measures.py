"""Measures and findings of records whose truth is known."""

from __future__ import annotations

from typing import Any

import pytest

from servegate.loadtest.findings import findings
from servegate.loadtest.measures import good, measures
from servegate.loadtest.profile import Profile, Slos
from servegate.loadtest.record import WARM_UP
from servegate.loadtest.status import ClientStatus
from servegate.report.model import Measure
from servegate.report.records import RequestRecord

START = 1000.0
SHA = "sha256:" + "0" * 64


def profile(**more: Any) -> Profile:
    base = {"version": 1, "name": "t", "prompts": "p.jsonl", "max_tokens": 8, "warm_up": "10s", "duration": "100s"}
    return Profile.model_validate({**base, "arrival": {"kind": "constant", "rate": "1/s"}, **more})


def record(at: float = 20.0, *, ttft: float = 0.2, gap: float = 0.01, chunks: int = 5, **more: Any) -> RequestRecord:
    sent = START + at + more.pop("lag", 0.0)
    first = sent + ttft
    last = first + gap * (chunks - 1)
    values: dict[str, Any] = {
        "id": int(at * 1000),
        "scheduled": START + at,
        "sent": sent,
        "first_token": first,
        "last_token": last,
        "done": last + 0.001,
        "ok": True,
        "status": 200,
        "slot": "blue",
        "output_tokens": chunks,
        "tokens_from": "usage",
        "chunks": chunks,
        "gaps": (gap,) * (chunks - 1),
    }
    return RequestRecord.model_validate({**values, **more})


def failed(at: float = 20.0, error: str = "timeout", **more: Any) -> RequestRecord:
    nothing = {"first_token": None, "last_token": None, "output_tokens": None, "tokens_from": None, "gaps": ()}
    return record(at, **{**nothing, "ok": False, "error": error, "status": None, "slot": None, **more}).model_copy(
        update={"chunks": 0}
    )


def by_key(records: list[RequestRecord], **more: Any) -> dict[str, Measure]:
    return {measure.key: measure for measure in measures(records, profile(**more), START)}


def status(**more: Any) -> ClientStatus:
    base = {"state": "finished", "pid": 1, "client": "c", "profile_sha256": SHA, "prompts_sha256": SHA}
    return ClientStatus.model_validate({**base, "started": START, "updated": START + 120, **more})


def codes(records: list[RequestRecord], alive: bool = True, **more: Any) -> dict[str, bool]:
    return {finding.code: finding.voids for finding in findings(records, status(**more), alive)}


def test_latencies_are_what_their_definitions_say() -> None:
    found = by_key([record(at, lag=0.05) for at in range(20, 60)])
    expected = {"ttft": 0.2, "ttft_from_schedule": 0.25, "tpot": 0.01, "e2e_latency": 0.24, "itl": 0.01}
    for name, value in {**expected, "e2e_latency_from_schedule": 0.29}.items():
        assert found[f"{name}.p50"].value == pytest.approx(value)
        assert found[f"{name}.p50"].unit == "seconds"
        assert found[f"{name}.p50"].better == "lower"
    assert found["schedule_lag.p99"].value == pytest.approx(0.05)
    assert (found["ttft.p50"].n, found["ttft.p50"].attempted) == (40, 40)
    assert found["itl.p50"].n == 160


def test_tpot_counts_tokens_and_itl_counts_chunks() -> None:
    found = by_key([record(at, chunks=5, output_tokens=20) for at in range(20, 40)])
    assert found["tokens_per_chunk.mean"].value == 4
    assert found["itl.p50"].value == pytest.approx(0.01)
    assert found["tpot.p50"].value == pytest.approx(0.01 / 4)


def test_warm_up_is_not_measured() -> None:
    found = by_key([record(5, ttft=9.0, tags=(WARM_UP,)), record(20), record(21)])
    assert found["ttft.p99"].value == pytest.approx(0.2)
    assert found["error_rate.rate"].attempted == 2


def test_failures_count_as_attempts_and_errors() -> None:
    found = by_key([record(20), record(21), record(22), failed(23)])
    assert (found["error_rate.rate"].value, found["error_rate.rate"].attempted) == (0.25, 4)
    interval = found["error_rate.rate"].interval
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((0.0456, 0.6994), abs=1e-4)  # Wilson, 1 of 4
    assert (found["ttft.p50"].n, found["ttft.p50"].attempted) == (3, 4)


def test_an_answer_that_broke_off_still_had_a_first_token_but_no_end() -> None:
    found = by_key([record(20), record(21, ttft=0.6, ok=False, error="truncated")])
    assert found["ttft.p99"].n == 2
    assert found["e2e_latency.p99"].n == 1
    assert found["tpot.p99"].n == 1
    assert found["itl.p99"].n == 4


def test_goodput_is_of_what_was_attempted() -> None:
    slos = {"ttft": "500ms"}
    records = [
        record(20),
        record(21, ttft=0.6),
        failed(22),
        record(23, first_token=None, last_token=None, chunks=1, gaps=()),
    ]
    found = by_key(records, slos=slos)
    assert (found["goodput.rate"].value, found["goodput.rate"].attempted) == (0.25, 4)
    assert found["goodput.rate"].better == "higher"
    assert "goodput.rate" not in by_key(records)


@pytest.mark.parametrize(
    ("slos", "expected"),
    [
        ({"ttft": "200ms"}, False),
        ({"ttft": "201ms"}, True),
        ({"tpot": "9ms"}, False),
        ({"tpot": "11ms"}, True),
        ({"e2e_latency": "230ms"}, False),
        ({"ttft": "1s", "tpot": "1s", "e2e_latency": "241ms"}, True),
        ({"ttft": "1s", "e2e_latency": "1ms"}, False),
    ],
)
def test_a_good_request_meets_every_slo(slos: dict[str, str], expected: bool) -> None:
    assert good(record(ttft=0.2005), Slos.model_validate(slos)) is expected


def test_one_token_answers_have_no_tpot_and_are_not_good_by_it() -> None:
    assert not good(record(chunks=1), Slos.model_validate({"tpot": "1s"}))


def test_throughput_counts_what_arrived_within_the_measured_time() -> None:
    # 10 s warm-up, then 100 s. Answers of 4 tokens, one second apart.
    inside = record(50, ttft=1.0, gap=1.0, chunks=4)
    enters = record(8, ttft=1.0, gap=1.0, chunks=4, tags=(WARM_UP,))  # tokens at 9, 10, 11, 12
    leaves = record(107, ttft=1.0, gap=1.0, chunks=4)  # tokens at 108, 109, 110, 111
    found = by_key([inside, enters, leaves, failed(60)])
    assert found["output_throughput.mean"].value == pytest.approx((4 + 3 + 2) / 100)
    assert found["request_rate.mean"].value == pytest.approx(2 / 100)


def test_slots_are_measured_apart() -> None:
    records = [record(20 + i, slot="blue") for i in range(10)] + [
        record(40 + i, ttft=0.4, slot="green") for i in range(10)
    ]
    found = by_key([*records, failed(60, "http_503", slot="green", status=503), failed(61, "connect")])
    assert found["ttft.p50@blue"].value == pytest.approx(0.2)
    assert found["ttft.p50@green"].value == pytest.approx(0.4)
    assert found["error_rate.rate@green"].value == pytest.approx(1 / 11)
    assert found["error_rate.rate@green"].attempted == 11
    assert found["error_rate.rate"].attempted == 22


def test_what_was_not_measured_has_no_value() -> None:
    found = by_key([])
    assert {measure.value for measure in found.values()} == {None}
    assert {measure.interval for measure in found.values()} == {None}
    only_failures = by_key([failed(20), failed(21)])
    assert only_failures["error_rate.rate"].value == 1.0
    assert only_failures["ttft.p95"].value is None
    assert only_failures["request_rate.mean"].value == 0


def test_a_quantile_that_n_cannot_bound_has_no_interval() -> None:
    found = by_key([record(20 + i / 10) for i in range(100)])
    assert found["ttft.p95"].interval is not None
    assert found["ttft.p99"].interval is None


def test_a_sound_run_has_no_findings() -> None:
    assert codes([record(20 + i) for i in range(30)], cpu_seconds=10, cpu_window=100) == {}


@pytest.mark.parametrize(
    ("records", "more", "code"),
    [
        ([], {}, "nothing-measured"),
        ([record(5, tags=(WARM_UP,))], {}, "nothing-measured"),
        ([record(20 + i, lag=0.2) for i in range(3)], {}, "client-saturated"),
        ([record(20 + i / 100, lag=0.2 if i < 11 else 0) for i in range(1000)], {}, "client-saturated"),
        ([record(20)], {"cpu_seconds": 95, "cpu_window": 100}, "client-saturated"),
        ([record(20)], {"blocked": 3, "blocked_seconds": 1.5}, "connection-pool-blocked"),
        ([record(20)], {"pool_waits": 1}, "connection-pool-blocked"),
        ([record(20)], {"state": "gave-up", "reason": "refused"}, "endpoint-died"),
        ([record(20)], {"alive": False}, "endpoint-died"),
        ([record(20)] + [failed(30 + i, "connect") for i in range(10)], {}, "endpoint-died"),
        ([record(20)], {"state": "stopped"}, "interrupted"),
    ],
)
def test_what_voids_a_run(records: list[RequestRecord], more: dict[str, Any], code: str) -> None:
    assert codes(records, **more)[code] is True


@pytest.mark.parametrize(("late", "of"), [(2, 2), (2, 100), (10, 1000)])
def test_a_few_late_requests_do_not_void(late: int, of: int) -> None:
    assert codes([record(20 + i / 100, lag=0.2 if i < late else 0) for i in range(of)]) == {}


def test_refused_connections_in_the_middle_do_not_void() -> None:
    records = [failed(30 + i, "connect") for i in range(20)] + [record(60)]
    assert codes(records) == {"requests-failed": False}


def test_findings_say_what_the_first_failure_said() -> None:
    records = [record(20), failed(21, "http_503"), failed(22, "http_503"), failed(23)]
    found = findings(records, status(details={"http_503": "no healthy upstream"}), True)
    messages = [finding.message for finding in found]
    assert messages[0] == "2 of 4 requests failed: http_503; the first: no healthy upstream"
    assert messages[1] == "1 of 4 requests failed: timeout"


def test_findings_about_tokens() -> None:
    assert codes([record(20, tokens_from="chunks")]) == {"tokens-from-chunks": False}
    assert codes([record(20, output_tokens=6, finish_reason="stop")]) == {}
    assert codes([record(20, output_tokens=10)]) == {"several-tokens-per-chunk": False}
    assert codes([record(20, gap=0.0)]) == {"chunks-bunched": False}
