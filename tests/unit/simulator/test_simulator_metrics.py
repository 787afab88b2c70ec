"""The metrics page against one recorded from vLLM 0.32.0: families, types, labels, buckets, and its habits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from simulator_process import Simulator

RECORDED = Path(__file__).parents[2] / "fixtures" / "vllm-0.32.0-metrics.txt"
LABEL = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')


@dataclass
class Family:
    type: str
    samples: set[str] = field(default_factory=set)
    labels: set[frozenset[str]] = field(default_factory=set)
    fixed: set[tuple[str, str]] = field(default_factory=set)
    buckets: list[str] = field(default_factory=list)


# Labels whose values belong to the format, not to the run.
FIXED = {"finished_reason", "reason", "source", "sleep_state", "engine", "generation"}


def families(page: str) -> dict[str, Family]:
    found: dict[str, Family] = {}
    current = Family("")
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _hash, _type, name, kind = line.split()
            assert name not in found, f"{name} is declared twice"
            current = found[name] = Family(kind)
        elif not line.startswith("#"):
            match = re.fullmatch(r"([\w:]+)(?:\{(.*)\})? (\S+)", line)
            assert match, line
            float(match.group(3))
            labels = dict(LABEL.findall(match.group(2) or ""))
            current.samples.add(match.group(1))
            current.labels.add(frozenset(labels))
            current.fixed |= {(key, value) for key, value in labels.items() if key in FIXED}
            if "le" in labels and labels["le"] not in current.buckets:
                current.buckets.append(labels["le"])
    return found


@pytest.fixture(scope="module")
def page(simulator: Simulator) -> str:
    """What the recorded server had been through: models, answers, wrong requests, unknown paths."""
    simulator.request("GET", "/v1/models")
    simulator.request("POST", "/v1/completions", {"prompt": "Hello", "max_tokens": 16})
    simulator.request("POST", "/v1/completions", {"prompt": "Hello", "model": "other"})
    simulator.request("GET", "/nothing/here")
    simulator.request("GET", "/health")
    return simulator.request("GET", "/metrics")[1].decode()


RECORDED_FAMILIES = families(RECORDED.read_text(encoding="utf-8"))


def test_the_recording_is_what_we_think_it_is() -> None:
    assert len(RECORDED_FAMILIES) > 80
    assert RECORDED_FAMILIES["vllm:time_to_first_token_seconds"].buckets[6:9] == ["0.08", "0.1", "0.25"]


def test_the_same_families_and_no_others(page: str) -> None:
    assert set(families(page)) == set(RECORDED_FAMILIES)


@pytest.mark.parametrize("name", RECORDED_FAMILIES)
def test_a_family_is_as_recorded(name: str, page: str) -> None:
    ours, theirs = families(page)[name], RECORDED_FAMILIES[name]
    assert ours.type == theirs.type
    assert ours.samples == theirs.samples
    assert ours.labels == theirs.labels
    assert ours.fixed == theirs.fixed
    assert ours.buckets == theirs.buckets


def test_every_bucket_is_cumulative_and_ends_with_the_count(page: str) -> None:
    buckets: dict[tuple[str, str], list[float]] = {}
    counts: dict[tuple[str, str], float] = {}
    for line in page.splitlines():
        if found := re.match(r'([\w:]+)_bucket\{(.*?),?le="[^"]+"\} (\S+)$', line):
            buckets.setdefault((found.group(1), found.group(2)), []).append(float(found.group(3)))
        elif found := re.match(r"([\w:]+)_count(?:\{(.*)\})? (\S+)$", line):
            counts[(found.group(1), found.group(2) or "")] = float(found.group(3))
    assert len(buckets) > 15
    for key, values in buckets.items():
        assert values == sorted(values), key
        assert values[-1] == counts[key], key


def sample(metrics: dict[str, float], name: str, **labels: str) -> float | None:
    """The value of the one series with these labels; None if there is no such series."""
    matches = [
        value
        for series, value in metrics.items()
        if series.partition("{")[0] == name and labels.items() <= dict(LABEL.findall(series)).items()
    ]
    assert len(matches) < 2, matches
    return matches[0] if matches else None


def test_a_5xx_series_appears_with_the_first_error_only(launch: Callable[..., Simulator]) -> None:
    simulator = launch("--input-ms", "0", "--decode-step-ms", "1")
    chat = {"handler": "/v1/chat/completions", "method": "POST"}
    simulator.ask("Hello", max_tokens=2)
    before = simulator.metrics()
    assert sample(before, "http_requests_total", **chat, status="5xx") is None
    assert sample(before, "http_requests_total", **chat, status="2xx") == 1
    assert all(
        sample(before, "vllm:request_success_total", finished_reason=reason) == 0
        for reason in ("stop", "abort", "error", "repetition")
    )
    simulator.faults("errors:rate=1")
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    assert simulator.request("POST", "/v1/chat/completions", body)[0] == 500
    after = simulator.metrics()
    assert sample(after, "http_requests_total", **chat, status="5xx") == 1
    assert sample(after, "vllm:request_success_total", finished_reason="error") == 0  # it never reached the engine


def test_client_errors_are_4xx_on_http_and_nothing_else(launch: Callable[..., Simulator]) -> None:
    simulator = launch("--input-ms", "0", "--decode-step-ms", "1")
    for body in ({"prompt": "x", "model": "other"}, {"prompt": "x", "max_tokens": 0}, b"{"):
        assert simulator.request("POST", "/v1/completions", body)[0] in (400, 404)
    metrics = simulator.metrics()
    assert sample(metrics, "http_requests_total", handler="/v1/completions", status="4xx") == 3
    assert sample(metrics, "vllm:e2e_request_latency_seconds_count") == 0


def test_probes_and_scrapes_are_not_counted(simulator: Simulator) -> None:
    for path in ("/health", "/ping", "/version", "/load", "/metrics"):
        assert simulator.request("GET", path)[0] == 200
    handlers = {dict(LABEL.findall(series)).get("handler") for series in simulator.metrics() if "http_" in series}
    assert not handlers & {"/health", "/ping", "/version", "/load", "/metrics"}


def test_tokens_and_latencies_add_up(launch: Callable[..., Simulator]) -> None:
    simulator = launch("--input-ms", "5", "--decode-step-ms", "2")
    usage = [simulator.ask(f"Tell me something about {n}.", max_tokens=8)["usage"] for n in range(5)]
    metrics = simulator.metrics()
    tokens = sum(each["completion_tokens"] for each in usage)
    assert sample(metrics, "vllm:generation_tokens_total") == tokens == 40
    assert sample(metrics, "vllm:prompt_tokens_total") == sum(each["prompt_tokens"] for each in usage)
    assert sample(metrics, "vllm:time_to_first_token_seconds_count") == 5
    assert sample(metrics, "vllm:inter_token_latency_seconds_count") == tokens - 5
    assert sample(metrics, "vllm:request_success_total", finished_reason="length") == 5
    ttft = sample(metrics, "vllm:time_to_first_token_seconds_sum")
    whole = sample(metrics, "vllm:e2e_request_latency_seconds_sum")
    assert ttft is not None
    assert whole is not None
    assert 5 * 0.005 < ttft < whole
