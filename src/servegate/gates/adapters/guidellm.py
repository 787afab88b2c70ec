"""GuideLLM's `--output kind=json` (report version 2). Several benchmarks in one file become slices `run=0`, `run=1`, …

Differences from our definitions:

    ttft         ends at the first chunk with content or reasoning, as ours; by the wall clock, not a monotonic
    tpot         is what GuideLLM calls inter-token latency, (last − first) / (tokens − 1), each request weighted
                 by its tokens: long answers count more than with us
    time_per_output_token   GuideLLM's "TPOT" is (last − start) / tokens: it holds the TTFT. Kept under its own name
    e2e_latency  to the end of the stream
    error_rate   errored / (successful + errored); requests that were cut off at the end are in neither
    output_throughput   the mean over time of tokens per second of all requests, failed ones too
"""

from __future__ import annotations

from typing import Any

from servegate.gates.adapters.common import (
    QUANTILES,
    Adapted,
    Source,
    count,
    definitions,
    nothing,
    number,
    parse_json,
    part,
    point,
    share,
)
from servegate.report.model import Conditions, Finding, Interval, Measure

TOOL = "GuideLLM"
_LATENCIES = (
    ("time_to_first_token_ms", "ttft", 1e-3),
    ("inter_token_latency_ms", "tpot", 1e-3),
    ("time_per_output_token_ms", "time_per_output_token", 1e-3),
    ("request_latency", "e2e_latency", 1.0),
)


def convert(source: Source) -> Adapted:
    """Read one report.

    Raises:
        ConfigError: it is none.
    """
    data = parse_json(source, TOOL)
    runs = data.get("benchmarks")
    if not isinstance(runs, list) or not all(isinstance(part(run, "metrics", "request_totals"), dict) for run in runs):
        raise source.refuse(TOOL, "no `benchmarks` with `metrics`")
    measures: list[Measure] = []
    for index, run in enumerate(runs):
        measures += _measures(run, f"run={index}" if len(runs) > 1 else "")
    times = [number(run.get(key)) for run in runs for key in ("start_time", "end_time")]
    known = [time for time in times if time is not None]
    backend = part(runs[0], "config", "backend") if runs else None
    version = part(data, "metadata", "guidellm_version")
    tool = f"{TOOL} {str(version)[:40]}" if version else TOOL
    return Adapted(
        tool=tool,
        started=min(known, default=source.modified),
        finished=max(known, default=source.modified),
        measures=tuple(measures),
        model=_text(part(backend, "model")),
        url=_text(part(backend, "target")),
        conditions=Conditions(client=tool, other=_load(runs[0]) if len(runs) == 1 else {}),
        findings=(
            definitions("TPOT is GuideLLM's inter-token latency, weighted by tokens; its own TPOT includes the TTFT"),
            *_warnings(runs),
            *(() if any(measure.n for measure in measures) else (nothing("request"),)),
        ),
    )


def _measures(run: dict[str, Any], slice_: str) -> list[Measure]:
    totals = part(run, "metrics", "request_totals")
    good, bad = count(totals.get("successful")), count(totals.get("errored"))
    attempted = good + bad
    result = [share("error_rate", "rate", bad, attempted, attempted, "lower", slice_)]
    level = number(part(run, "config", "confidence")) or 0.0
    for key, name, scale in _LATENCIES:
        found = part(run, "metrics", key, "successful")
        # The count of a per-token latency is of tokens; what is independent is the request.
        n = min(good, count(part(found, "count")))
        if not n:
            continue
        mean = number(part(found, "mean"))
        result.append(point(name, "mean", mean and mean * scale, "seconds", n, attempted, "lower", slice_))
        for statistic in QUANTILES:
            value = number(part(found, "percentiles", statistic))
            measure = point(name, statistic, value and value * scale, "seconds", n, attempted, "lower", slice_)
            ends = part(found, "percentile_cis", statistic)
            low, high = number(part(ends, "lower")), number(part(ends, "upper"))
            if low is not None and high is not None and low <= high and 0 < level < 1:
                interval = Interval(low=low * scale, high=high * scale, level=level, method="GuideLLM percentile_cis")
                measure = measure.model_copy(update={"interval": interval})
            result.append(measure)
    tokens = number(part(run, "metrics", "output_tokens_per_second", "total", "mean"))
    if tokens is not None:
        result.append(point("output_throughput", "rate", tokens, "tokens/second", good, attempted, "higher", slice_))
    return result


def _load(run: dict[str, Any]) -> dict[str, str]:
    strategy = part(run, "config", "strategy")
    keys = ("type_", "rate", "streams", "max_concurrency")
    return {key.strip("_"): str(strategy[key])[:100] for key in keys if part(strategy, key) is not None}


def _warnings(runs: list[dict[str, Any]]) -> list[Finding]:
    """GuideLLM's own doubts, such as a client that was the bottleneck."""
    lists = [run["warnings"] for run in runs if isinstance(run.get("warnings"), list)]
    found = [item for items in lists for item in items if isinstance(item, dict)]
    return [
        Finding(severity="warning", code="guidellm-warning", message=str(item.get("message") or item.get("code"))[:500])
        for item in found
    ]


def _text(value: object) -> str | None:
    return value[:500] if isinstance(value, str) and value else None
