"""What the metrics of vLLM mean to us, whatever they were called in which version.

vLLM renames metrics: deprecated in one minor version, hidden in the next, removed in the one after. A query for an
old name returns nothing, and nothing looks like zero. So each of our names knows all names the engine has used,
newest first, the first that is exported counts, and what is exported under no name is reported, not assumed.

Facts that shape this table (vLLM 0.32):
- `vllm:request_success_total` counts every end by reason, also `abort` and `error`: it is not "success".
- A client that goes away is invisible: no `abort` is counted, and HTTP says 2xx.
- `http_requests_total{status="5xx"}` has no series before the first error; the metric itself is exported from the
  start, so exported without series is zero.
- Requests to /v1/models, to documentation and to paths that do not exist are in `http_requests_total` too; only
  handlers that serve a model count here.
- Errors after the first token are 2xx on HTTP; a request shed because the queue is full is a 503 and is in
  `vllm:admission_rejections_total` as well.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType

from servegate.metrics.text import Buckets, Exposition, Labels, histogram, parse, total

SERVING_HANDLERS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/score",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
    }
)
"""HTTP handlers whose requests are the users' requests."""

STARTED = "process_start_time_seconds"


@dataclass(frozen=True)
class Metric:
    """One of our names.

    Args:
        names: (engine's name, first version that has it), newest first; version "" for as long as we know.
        where: (label, accepted values): only such series count; a value that ends with `*` accepts all that begin so.
    """

    names: tuple[tuple[str, str], ...]
    where: tuple[tuple[str, frozenset[str]], ...] = ()

    def exported(self, exposition: Exposition, renamed: str | None = None) -> str | None:
        """The newest of its names that this engine exports; `renamed`, a name of the user's own, comes before all."""
        if renamed is not None:
            return renamed if renamed in exposition.names else None
        return next((name for name, _ in self.names if name in exposition.names), None)

    def matches(self, labels: Labels) -> bool:
        """Whether a series counts."""
        return all(
            any(fnmatchcase(labels.get(label, ""), pattern) for pattern in patterns) for label, patterns in self.where
        )


def _http(status: str) -> Metric:
    where = (("handler", SERVING_HANDLERS), ("status", frozenset({status})))
    return Metric((("http_requests_total", ""),), where)


def _finished(reason: str) -> Metric:
    return Metric((("vllm:request_success_total", ""),), (("finished_reason", frozenset({reason})),))


def _one(name: str) -> Metric:
    return Metric(((name, ""),))


COUNTERS: Mapping[str, Metric] = {
    "http_requests": _http("*"),
    "http_5xx": _http("5*"),
    "http_4xx": _http("4*"),
    "finished_stop": _finished("stop"),
    "finished_length": _finished("length"),
    "finished_abort": _finished("abort"),
    "finished_error": _finished("error"),
    "rejected": _one("vllm:admission_rejections_total"),
    "prompt_tokens": _one("vllm:prompt_tokens_total"),
    "generation_tokens": _one("vllm:generation_tokens_total"),
    "preemptions": _one("vllm:num_preemptions_total"),
    "prefix_cache_queries": Metric(
        (("vllm:prefix_cache_queries_total", "0.9.2"), ("vllm:gpu_prefix_cache_queries_total", ""))
    ),
    "prefix_cache_hits": Metric((("vllm:prefix_cache_hits_total", "0.9.2"), ("vllm:gpu_prefix_cache_hits_total", ""))),
}
HISTOGRAMS: Mapping[str, Metric] = {
    "ttft": _one("vllm:time_to_first_token_seconds"),
    # Per gap between tokens. The old name says "per output token" and measures the same gap.
    "itl": Metric((("vllm:inter_token_latency_seconds", "0.10.2"), ("vllm:time_per_output_token_seconds", ""))),
    # Mean of a request.
    "tpot": _one("vllm:request_time_per_output_token_seconds"),
    "e2e_latency": _one("vllm:e2e_request_latency_seconds"),
    "queue_time": _one("vllm:request_queue_time_seconds"),
}
GAUGES: Mapping[str, Metric] = {
    "running": _one("vllm:num_requests_running"),
    "waiting": _one("vllm:num_requests_waiting"),
    "kv_cache_usage": Metric((("vllm:kv_cache_usage_perc", "0.9.2"), ("vllm:gpu_cache_usage_perc", ""))),
}
# A fraction of a whole per engine: adding them up would say nothing.
_WORST = frozenset({"kv_cache_usage"})

WANTED = frozenset(
    name for table in (COUNTERS, HISTOGRAMS, GAUGES) for metric in table.values() for name, _ in metric.names
) | {STARTED}


@dataclass(frozen=True)
class Reading:
    """One scrape in our names. A name that is missing was not exported (or not a number): unknown, never zero.

    Args:
        counters: running totals.
        histograms: running histograms, seconds.
        gauges: values of now; `kv_cache_usage` is a fraction, the highest of the server's engines.
        started: process start, seconds since the epoch.
    """

    counters: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Buckets] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)
    started: float | None = None


def read(text: str) -> Reading:
    """Translate what `/metrics` answered.

    Raises:
        ValueError: not Prometheus text.
    """
    return translate(parse(text, WANTED))


def translate(exposition: Exposition, renamed: Mapping[str, str] = MappingProxyType({})) -> Reading:
    """A scrape in our names.

    Args:
        renamed: our name → the name under which this engine (or a relabelling on the way) exports it.
    """
    counters: dict[str, float] = {}
    for ours, metric in COUNTERS.items():
        name = metric.exported(exposition, renamed.get(ours))
        if name is not None:
            value = total([row for row in exposition.samples.get(name, ()) if metric.matches(row[0])])
            if value is not None:
                counters[ours] = value
    histograms: dict[str, Buckets] = {}
    for ours, metric in HISTOGRAMS.items():
        name = metric.exported(exposition, renamed.get(ours))
        buckets = None if name is None else histogram(exposition, name)
        if buckets is not None:
            histograms[ours] = buckets
    gauges: dict[str, float] = {}
    for ours, metric in GAUGES.items():
        exported = metric.exported(exposition, renamed.get(ours))
        values = [value for _, value in exposition.samples.get(exported or "", ())]
        if values and all(math.isfinite(value) for value in values):
            gauges[ours] = max(values) if ours in _WORST else sum(values)
    started = [value for _, value in exposition.samples.get(STARTED, ()) if math.isfinite(value)]
    return Reading(counters, histograms, gauges, started[0] if started else None)


def known() -> frozenset[str]:
    """All our names of engine metrics."""
    return frozenset((*COUNTERS, *HISTOGRAMS, *GAUGES))


def declared(ours: str, exported: Collection[str]) -> bool:
    """Whether an engine that exports these names has that metric, with or without a series yet."""
    metric = COUNTERS.get(ours) or HISTOGRAMS.get(ours) or GAUGES.get(ours)
    return metric is not None and any(name in exported for name, _ in metric.names)


def preflight(
    reading: Reading,
    needed: Collection[str],
    engine: str = "this engine",
    exported: Collection[str] = (),
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """What a scrape lacks of what is needed, one sentence each; empty when nothing is missing.

    Args:
        reading: a scrape of a server that is up.
        needed: our names.
        engine: for the sentences, such as "vllm 0.9.1".
        exported: names the engine does export, for naming the nearest.
        renamed: as for `translate`.
    """
    found = {*reading.counters, *reading.histograms, *reading.gauges}
    problems = []
    for ours in needed:
        metric = COUNTERS.get(ours) or HISTOGRAMS.get(ours) or GAUGES.get(ours)
        if metric is None:
            near = difflib.get_close_matches(ours, sorted(known()), n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"{ours} is not the name of an engine metric{hint}")
        elif ours not in found:
            names = ((renamed[ours], ""),) if ours in renamed else metric.names
            looked = ", ".join(f"{name} (since {since})" if since else name for name, since in names)
            near = difflib.get_close_matches(names[0][0], sorted(exported), n=1, cutoff=0.6)
            hint = f"; nearest that it does export: {near[0]}" if near else ""
            problems.append(f"{engine} does not export {ours}: looked for {looked}{hint}")
    return problems
