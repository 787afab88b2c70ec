"""Prometheus text in our names: what is exported, what is zero, what is unknown, and what is hostile."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from servegate.metrics import names, text

VLLM = """\
# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79534424046e+09
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
# TYPE vllm:num_preemptions_created gauge
vllm:num_preemptions_created{engine="0",model_name="m"} 1.795e+09
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 5.0
vllm:request_success_total{engine="1",finished_reason="stop",model_name="m"} 6.0
vllm:request_success_total{engine="0",finished_reason="error",model_name="m"} 1.0
# TYPE vllm:admission_rejections_total counter
vllm:admission_rejections_total{model_name="m",reason="max_num_queued_reqs"} 1.0
vllm:admission_rejections_total{model_name="m",reason="max_num_queued_tokens"} 2.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="1.0",model_name="m"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 3.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 3.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 4.5
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.1",model_name="m"} 10.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="1.0",model_name="m"} 10.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf",model_name="m"} 10.0
vllm:time_to_first_token_seconds_count{engine="1",model_name="m"} 10.0
vllm:time_to_first_token_seconds_sum{engine="1",model_name="m"} 0.5
# TYPE http_requests_total counter
http_requests_total{handler="/v1/models",method="GET",status="2xx"} 100.0
http_requests_total{handler="/v1/completions",method="POST",status="2xx"} 7.0
http_requests_total{handler="/v1/chat/completions",method="POST",status="5xx"} 2.0
http_requests_total{handler="/v1/chat/completions",method="POST",status="4xx"} 3.0
http_requests_total{handler="none",method="GET",status="4xx"} 50.0
"""


def test_series_are_summed_per_name_and_only_model_handlers_count() -> None:
    reading = names.read(VLLM)
    assert reading.counters["http_requests"] == 12
    assert reading.counters["http_5xx"] == 2
    assert reading.counters["http_4xx"] == 3
    assert reading.counters["finished_stop"] == 11
    assert reading.counters["finished_error"] == 1
    assert reading.counters["rejected"] == 3
    assert reading.counters["preemptions"] == 2
    assert reading.gauges == {"running": 7, "waiting": 0, "kv_cache_usage": 0.75}
    assert reading.started == 1.79534424046e9
    assert reading.histograms["ttft"] == text.Buckets((0.1, 1.0, math.inf), (11, 12, 13), 5.0)


def test_exported_without_series_is_zero_and_not_exported_is_unknown() -> None:
    reading = names.read("# HELP http_requests_total Requests.\n# TYPE http_requests_total counter\n")
    assert reading.counters == {"http_requests": 0, "http_5xx": 0, "http_4xx": 0}
    assert names.read("").counters == {}
    assert names.read("# TYPE vllm:time_to_first_token_seconds histogram\n").histograms == {}


@pytest.mark.parametrize(
    ("ours", "old", "new"),
    [
        ("kv_cache_usage", "vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"),
        ("prefix_cache_hits", "vllm:gpu_prefix_cache_hits_total", "vllm:prefix_cache_hits_total"),
        ("prefix_cache_queries", "vllm:gpu_prefix_cache_queries_total", "vllm:prefix_cache_queries_total"),
    ],
)
def test_the_old_name_serves_where_the_new_one_is_not_exported(ours: str, old: str, new: str) -> None:
    def value(document: str) -> float | None:
        reading = names.read(document)
        return {**reading.counters, **reading.gauges}.get(ours)

    assert value(f"{old} 0.5\n") == 0.5
    # Both are exported while the old one is deprecated: it must not be counted twice.
    assert value(f"{old} 0.5\n{new} 0.25\n") == 0.25
    assert value("other 1\n") is None


def test_the_old_histogram_of_gaps_between_tokens_serves() -> None:
    old = "vllm:time_per_output_token_seconds"
    document = f'{old}_bucket{{le="0.1"}} 1\n{old}_bucket{{le="+Inf"}} 2\n{old}_sum 3\n{old}_count 2\n'
    assert names.read(document).histograms["itl"] == text.Buckets((0.1, math.inf), (1, 2), 3.0)


@pytest.mark.parametrize(
    "lines",
    [
        'm_bucket{le="1"} 2\nm_bucket{le="+Inf"} 1\nm_sum 1\n',
        'm_bucket{le="1"} 2\nm_sum 1\n',
        'm_bucket{le="one"} 2\nm_bucket{le="+Inf"} 2\nm_sum 1\n',
        'm_bucket 2\nm_bucket{le="+Inf"} 2\nm_sum 1\n',
        'm_bucket{le="nan"} 2\nm_bucket{le="+Inf"} 2\nm_sum 1\n',
        'm_bucket{le="1"} -2\nm_bucket{le="+Inf"} 2\nm_sum 1\n',
        'm_bucket{le="1"} nan\nm_bucket{le="+Inf"} 2\nm_sum 1\n',
        'm_bucket{le="1"} 1\nm_bucket{le="+Inf"} 2\nm_sum nan\n',
    ],
)
def test_an_inconsistent_histogram_is_unknown(lines: str) -> None:
    assert text.histogram(text.parse(lines, {"m"}), "m") is None


@pytest.mark.parametrize("value", ["nan", "+Inf", "-1"])
def test_a_count_that_is_none_is_unknown(value: str) -> None:
    assert names.read(f"vllm:prompt_tokens_total {value}\n").counters == {}


@pytest.mark.parametrize(
    "line",
    [
        "vllm:prompt_tokens_total",
        "vllm:prompt_tokens_total{",
        'vllm:prompt_tokens_total{a="b" 1',
        "vllm:prompt_tokens_total one",
        'vllm:prompt_tokens_total{a="b} 1',
    ],
)
def test_a_broken_line_of_ours_is_an_error_and_of_others_is_not(line: str) -> None:
    with pytest.raises(ValueError, match="not Prometheus text"):
        names.read(line + "\n")
    stranger = line.replace("vllm:", "other:")
    assert names.read(f"{stranger}\nvllm:prompt_tokens_total 4\n").counters == {"prompt_tokens": 4}


def test_noise_is_no_metrics() -> None:
    for noise in ("<html><body>login</body></html>", "\x00\x01", "# TYPE", "# TYPE \n", "{}\n", " \n\n"):
        assert names.read(noise) == names.Reading()


def test_preflight_names_what_is_not_exported_and_where_it_was_looked_for() -> None:
    reading = names.read(VLLM)
    assert names.preflight(reading, ["http_requests", "ttft", "running"]) == []
    (sentence,) = names.preflight(reading, ["itl"], "vllm 0.9.1")
    assert sentence == (
        "vllm 0.9.1 does not export itl: looked for vllm:inter_token_latency_seconds (since 0.10.2), "
        "vllm:time_per_output_token_seconds"
    )
    assert names.preflight(reading, ["happiness"]) == ["happiness is not the name of an engine metric"]


def test_a_real_engine_exports_all_of_it() -> None:
    """The fixture is the /metrics answer of a real vLLM 0.32.0."""
    reading = names.read((Path(__file__).parent / "vllm-0.32.0.prom").read_text())
    assert names.preflight(reading, [*names.COUNTERS, *names.HISTOGRAMS, *names.GAUGES]) == []
    assert reading.counters["http_requests"] == 4
    assert reading.counters["http_4xx"] == 2
    assert reading.histograms["itl"].counts[-1] == 78
