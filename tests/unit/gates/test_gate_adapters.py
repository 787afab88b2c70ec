"""Other tools' result files: read from what the real tools wrote, and refused where they are something else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servegate.cli.gate import _TOOLS
from servegate.config import validate
from servegate.endpoint import EndpointFacts
from servegate.errors import ConfigError
from servegate.gates import Policy, adapters, evaluate
from servegate.gates.adapters import FORMATS
from servegate.gates.adapters.common import Source, as_report, guarded
from servegate.gates.files import adapt, load_answers
from servegate.report.model import Measure, Report, Subject
from servegate.report.verdict import Outcome

FOREIGN = Path(__file__).parent / "foreign"
RESULTS = next(FOREIGN.glob("results_*.json"))
FILES = [
    ("guidellm", "guidellm.json"),
    ("guidellm", "guidellm-failing.json"),
    ("junit", "pytest.junit.xml"),
    ("junit", "promptfoo-outage.junit.xml"),
    ("lm-eval", RESULTS.name),
    ("locust", "locust_stats.csv"),
    ("promptfoo", "promptfoo.json"),
    ("promptfoo", "promptfoo-outage.json"),
    ("vllm-bench", "vllm-bench.json"),
    ("vllm-bench", "vllm-bench-failing.json"),
]
SUBJECT = Subject(endpoint=EndpointFacts(url="http://127.0.0.1:8000"))


def source(name: str, data: bytes | None = None) -> Source:
    path = FOREIGN / name
    beside = {item.name: item.read_bytes() for item in FOREIGN.glob("samples_*.jsonl")} if path == RESULTS else {}
    return Source(name, path.read_bytes() if data is None else data, 1_800_000_000.0, beside)


def read(tool: str, name: str) -> Report:
    return as_report(FORMATS[tool](source(name)), "x", SUBJECT)


def measure(report: Report, key: str) -> Measure:
    found = report.measure(key)
    assert found is not None, [item.key for item in report.measures]
    return found


def test_the_command_offers_every_adapter() -> None:
    assert sorted(FORMATS) == sorted(_TOOLS)


@pytest.mark.parametrize(("tool", "name"), FILES)
def test_every_file_becomes_a_report_that_states_its_definitions(tool: str, name: str) -> None:
    report = read(tool, name)
    assert report.measures
    assert any(finding.code == "definitions" for finding in report.findings)
    assert Report.model_validate_json(report.model_dump_json()) == report
    for item in report.measures:
        assert item.n <= item.attempted
        assert (item.value is None) == (item.n == 0)
        assert item.interval is None or item.value is None or item.interval.low <= item.value <= item.interval.high


def test_vllm_bench_is_exact_where_it_was_detailed() -> None:
    raw = json.loads((FOREIGN / "vllm-bench.json").read_bytes())
    report = read("vllm-bench", "vllm-bench.json")
    p95 = measure(report, "ttft.p95")
    assert p95.value == pytest.approx(np.quantile(raw["ttfts"], 0.95))
    assert p95.value == pytest.approx(raw["p95_ttft_ms"] / 1000)
    assert measure(report, "ttft.p50").interval is not None
    assert measure(report, "tpot.p95").value == pytest.approx(raw["p95_tpot_ms"] / 1000)
    assert measure(report, "output_throughput.rate").value == pytest.approx(raw["output_throughput"])
    assert measure(report, "error_rate.rate").value == 0
    assert report.finished - report.started == pytest.approx(raw["duration"])


def test_vllm_bench_leaves_failures_out_of_latencies_and_counts_them() -> None:
    raw = json.loads((FOREIGN / "vllm-bench-failing.json").read_bytes())
    report = read("vllm-bench", "vllm-bench-failing.json")
    assert measure(report, "error_rate.rate").value == pytest.approx(raw["failed"] / raw["num_prompts"])
    ttft = measure(report, "ttft.p50")
    assert (ttft.n, ttft.attempted) == (raw["completed"], raw["num_prompts"])
    assert ttft.value == pytest.approx(raw["p50_ttft_ms"] / 1000)


def test_vllm_bench_without_detail_has_values_and_no_intervals() -> None:
    raw = json.loads((FOREIGN / "vllm-bench.json").read_bytes())
    brief = {key: value for key, value in raw.items() if not isinstance(value, list)}
    report = as_report(FORMATS["vllm-bench"](source("brief", json.dumps(brief).encode())), "x", SUBJECT)
    assert measure(report, "ttft.p99").value == pytest.approx(raw["p99_ttft_ms"] / 1000)
    assert measure(report, "ttft.p99").interval is None


def test_guidellm_tpot_is_its_inter_token_latency() -> None:
    raw = json.loads((FOREIGN / "guidellm.json").read_bytes())["benchmarks"][0]
    report = read("guidellm", "guidellm.json")
    itl = raw["metrics"]["inter_token_latency_ms"]["successful"]["percentiles"]["p95"]
    own = raw["metrics"]["time_per_output_token_ms"]["successful"]["percentiles"]["p95"]
    assert measure(report, "tpot.p95").value == pytest.approx(itl / 1000)
    assert measure(report, "time_per_output_token.p95").value == pytest.approx(own / 1000)
    assert own > itl
    assert measure(report, "tpot.p95").n == 29
    assert measure(report, "ttft.p50").interval is not None
    assert [finding.severity for finding in report.findings].count("warning") == 2
    failing = measure(read("guidellm", "guidellm-failing.json"), "error_rate.rate")
    assert failing.value == pytest.approx(8 / 30)


def test_guidellm_sweeps_become_slices() -> None:
    raw = json.loads((FOREIGN / "guidellm.json").read_bytes())
    raw["benchmarks"] *= 2
    report = as_report(FORMATS["guidellm"](source("sweep", json.dumps(raw).encode())), "x", SUBJECT)
    assert measure(report, "ttft.p95[run=0]").value == measure(report, "ttft.p95[run=1]").value


def test_locust_keeps_rows_apart_from_the_whole() -> None:
    report = read("locust", "locust_stats.csv")
    assert measure(report, "error_rate.rate").value == pytest.approx(151 / 532)
    assert measure(report, "error_rate.rate[name=POST chat]").value == 0
    assert measure(report, 'response_time.p95[name=GET a "quoted", name]').value == pytest.approx(0.009)
    assert all(item.name != "ttft" for item in report.measures)


def test_lm_eval_has_answers_behind_its_values() -> None:
    adapted = FORMATS["lm-eval"](source(RESULTS.name))
    report = as_report(adapted, "x", SUBJECT)
    found = measure(report, "contains.mean")
    assert (found.value, found.n, found.unit) == (0.625, 8, "fraction")
    assert found.interval is not None
    assert found.interval.method == "wilson"
    assert len(adapted.records) == 8
    assert sum(record.score or 0 for record in adapted.records) == 5
    assert adapted.model == "sim"
    assert len({record.item_sha256 for record in adapted.records}) == 8


def test_lm_eval_without_samples_uses_its_standard_error() -> None:
    adapted = FORMATS["lm-eval"](Source(RESULTS.name, RESULTS.read_bytes(), 0.0))
    found = measure(as_report(adapted, "x", SUBJECT), "contains.mean")
    assert found.unit == "score"
    assert found.interval is not None
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * 0.18298, abs=1e-3)
    assert not adapted.records


def test_an_outage_in_promptfoo_is_not_bad_quality() -> None:
    good, dead = FORMATS["promptfoo"](source("promptfoo.json")), read("promptfoo", "promptfoo-outage.json")
    assert measure(as_report(good, "x", SUBJECT), "accuracy.mean").value == pytest.approx(2 / 5)
    assert measure(dead, "accuracy.mean").value is None
    assert measure(dead, "error_rate.rate").value == 1
    assert dead.void is not None
    assert "환불 (openai:chat:sim" in " ".join(record.id for record in good.records)


def test_junit_errors_are_no_wrong_answers() -> None:
    adapted = FORMATS["junit"](source("pytest.junit.xml"))
    report = as_report(adapted, "x", SUBJECT)
    assert measure(report, "accuracy.mean").value == pytest.approx(2 / 3)
    assert (measure(report, "accuracy.mean").n, measure(report, "accuracy.mean").attempted) == (3, 4)
    assert measure(report, "error_rate.rate").value == pytest.approx(1 / 4)
    assert {record.id: record.score for record in adapted.records}["test_shop::test_endpoint"] is None


def test_entities_in_xml_are_refused() -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><testsuites>&b;</testsuites>'
    with pytest.raises(ConfigError, match="DOCTYPE"):
        FORMATS["junit"](source("bomb", bomb))


@pytest.mark.parametrize("tool", sorted(FORMATS))
@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"<html></html>", b"a,b\n1,2\n", b"\xff\xfe", b"[" * 100_000, b'{"results": 1}'],
)
def test_what_is_another_file_is_refused_by_name(tool: str, data: bytes) -> None:
    with pytest.raises(ConfigError, match="somewhere: is not a result of"):
        adapters.read(tool, source("somewhere", data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(("tool", "name"), [file for file in FILES if file[1].endswith(".json")])
@settings(deadline=None)
@given(data=st.data())
def test_hostile_values_never_crash_or_become_numbers(tool: str, name: str, data: st.DataObject) -> None:
    """Any value in the tool's file is replaced by anything JSON can hold."""
    found: Any = json.loads((FOREIGN / name).read_bytes())
    target: Any = found
    for _ in range(data.draw(st.integers(0, 6))):
        inner = target.values() if isinstance(target, dict) else target
        nested = [item for item in inner if isinstance(item, dict | list) and item]
        if not nested:
            break
        target = data.draw(st.sampled_from(nested))
    key = data.draw(st.sampled_from(sorted(target) if isinstance(target, dict) else list(range(len(target)))))
    target[key] = data.draw(JSON)
    broken = source(name, json.dumps(found).encode())
    try:
        adapted = adapters.read(tool, broken)
        with guarded(broken, tool):
            report = as_report(adapted, "x", SUBJECT)
    except ConfigError as error:
        assert "is not a result of" in str(error)
        return
    assert all(item.value is None or math.isfinite(item.value) for item in report.measures)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    for prefix in (b"", b"<testsuites>", b"Type,Name,Request Count,Failure Count,50%,90%,95%,99%\n"):
        for tool in ("junit", "locust"):
            try:
                as_report(adapters.read(tool, source("x", prefix + data)), "x", SUBJECT)
            except ConfigError as error:
                assert "is not a result of" in str(error)


def test_a_foreign_result_is_judged_and_paired_like_our_own(tmp_path: Path) -> None:
    release, before = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    reports, paths = [], []
    for name, digest in (("new", release), ("old", before)):
        path = tmp_path / name / "report.json"
        reports.append(adapt("lm-eval", RESULTS, path, name="shop", release=digest, endpoint=None))
        paths.append(path)
    answers = load_answers(paths, reports)
    rules = validate(
        {
            "version": 1,
            "name": "p",
            "checks": [
                {"id": "c", "report": "external/shop", "measure": "contains", "baseline": {"margin": "40pp"}},
                {"id": "d", "report": "external/shop", "expect": "contains >= 20%"},
            ],
        },
        Policy,
        "p",
    )
    verdict = evaluate(rules, reports[:1], reports[1:], answers=answers, now=reports[0].finished, decided_by="t")
    assert verdict.outcome is Outcome.PASS
    assert "0 lost and 0 won of 8 pairs" in verdict.results[0].message


def test_nobody_knows_what_was_measured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --release or --endpoint"):
        adapt("locust", FOREIGN / "locust_stats.csv", tmp_path / "r.json", name=None, release=None, endpoint=None)
    with pytest.raises(ConfigError, match="cannot be read"):
        adapt(
            "locust", tmp_path / "none.csv", tmp_path / "r.json", name=None, release=None, endpoint="http://127.0.0.1:1"
        )
