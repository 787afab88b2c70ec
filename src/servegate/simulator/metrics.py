"""vLLM's metrics: the names, labels, types and bucket edges of its 0.32 server, written as Prometheus text.

Written by hand because a scrape per second must cost next to nothing, and because what matters is to reproduce the real
server's habits, the awkward ones included: every `finished_reason` exists from the start at 0, while a status class of
`http_requests_total` appears only with the first answer of that class; `_created` are families of their own.
"""

from __future__ import annotations

import gc
import platform
import resource
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from servegate.simulator.engine import Generation

TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
REQUEST_SECONDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
    *(960.0, 1920.0, 7680.0),
)
TTFT_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
ITL_SECONDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
ITERATION_TOKENS = (1.0, *(float(2**power) for power in range(3, 15)))
PREEMPTIONS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)
HTTP_FINE_SECONDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 7.5),
    *(10.0, 30.0, 60.0),
)
HTTP_SECONDS = (0.1, 0.5, 1.0)
FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")

_HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "request_prompt_tokens": ("Tokens in the prompt of a request.", TOKENS),
    "request_generation_tokens": ("Tokens generated for a request.", TOKENS),
    "iteration_tokens_total": ("Tokens computed in one step of the engine.", ITERATION_TOKENS),
    "request_max_num_generation_tokens": ("Most tokens any choice of a request asked for.", TOKENS),
    "request_params_n": ("Choices a request asked for.", (1.0, 2.0, 5.0, 10.0, 20.0)),
    "request_params_max_tokens": ("Limit of tokens a request asked for.", TOKENS),
    "time_to_first_token_seconds": ("Seconds from arrival to the first token.", TTFT_SECONDS),
    "inter_token_latency_seconds": ("Seconds between tokens.", ITL_SECONDS),
    "request_time_per_output_token_seconds": ("Mean seconds per token after the first of a request.", ITL_SECONDS),
    "e2e_request_latency_seconds": ("Seconds from arrival to the last token.", REQUEST_SECONDS),
    "request_queue_time_seconds": ("Seconds a request waited to be scheduled.", REQUEST_SECONDS),
    "request_inference_time_seconds": ("Seconds from being scheduled to the last token.", REQUEST_SECONDS),
    "request_prefill_time_seconds": ("Seconds from being scheduled to the first token.", REQUEST_SECONDS),
    "request_decode_time_seconds": ("Seconds from the first to the last token.", REQUEST_SECONDS),
    "request_num_preemptions": ("Times a request lost its memory and started again.", PREEMPTIONS),
    "request_prefill_kv_computed_tokens": ("Prompt tokens of a request that were not in the cache.", TOKENS),
}


class Histogram:
    """Counts per bucket, not cumulative until they are shown."""

    __slots__ = ("counts", "edges", "sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value; an edge belongs to the bucket it closes."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Values observed."""
        return sum(self.counts)


class Metrics:
    """What the server counted, and the page it shows."""

    def __init__(self, model: str, cache_config: dict[str, str]) -> None:
        name = escape(model)
        self._engine = f'engine="0",model_name="{name}"'
        self._model = f'model_name="{name}"'
        self._cache_config = cache_config
        self._started = time.time()
        self.histograms = {key: Histogram(edges) for key, (_help, edges) in _HISTOGRAMS.items()}
        self.finished = dict.fromkeys(FINISHED_REASONS, 0)
        self.rejected = {"max_num_queued_reqs": 0, "max_num_queued_tokens": 0}
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.http = HttpMetrics()
        self._itl = self.histograms["inter_token_latency_seconds"]

    # ---- what happened

    def first_token(self, sequence: Generation, now: float) -> None:
        """The prompt has been read."""
        self.prompt_tokens += len(sequence.prompt)
        self.cached_tokens += sequence.cached
        self.histograms["time_to_first_token_seconds"].observe(now - sequence.arrived_at)

    def next_token(self, seconds: float) -> None:
        """One more token, so long after the last."""
        self._itl.observe(seconds)

    def step(self, prompt_tokens: int, generated: int) -> None:
        """A step of the engine has ended."""
        self.generation_tokens += generated
        self.histograms["iteration_tokens_total"].observe(prompt_tokens + generated)

    def finish(self, sequence: Generation, reason: str, max_tokens: int, now: float) -> None:
        """A request ended in a way the engine knows of; a client that hangs up is not one of them."""
        self.finished[reason] += 1
        scheduled = sequence.scheduled_at if sequence.scheduled_at is not None else now
        first = sequence.first_token_at if sequence.first_token_at is not None else now
        last = sequence.last_token_at if sequence.last_token_at is not None else now
        values = {
            "request_prompt_tokens": len(sequence.prompt),
            "request_generation_tokens": sequence.generated,
            "request_max_num_generation_tokens": max_tokens,
            "request_params_n": 1,
            "request_params_max_tokens": max_tokens,
            "request_time_per_output_token_seconds": (last - first) / max(1, sequence.generated - 1),
            "e2e_request_latency_seconds": now - sequence.arrived_at,
            "request_queue_time_seconds": scheduled - sequence.queued_at,
            "request_inference_time_seconds": last - scheduled,
            "request_prefill_time_seconds": first - scheduled,
            "request_decode_time_seconds": last - first,
            "request_num_preemptions": sequence.preemptions,
            "request_prefill_kv_computed_tokens": len(sequence.prompt) - sequence.cached,
        }
        for key, value in values.items():
            self.histograms[key].observe(max(0.0, value))

    # ---- what a scrape sees

    def render(
        self,
        *,
        running: int,
        waiting: int,
        kv_usage: float,
        preemptions: int,
        prefix_queries: int,
        prefix_hits: int,
    ) -> str:
        """The whole page in Prometheus text format 0.0.4."""
        page = _Page(self._started)
        _process_families(page)
        engine = self._engine

        def counter(name: str, text: str, *samples: tuple[str, float], labels: str = engine) -> None:
            page.counter(f"vllm:{name}", text, [(_join(labels, extra), value) for extra, value in samples])

        def gauge(name: str, text: str, *samples: tuple[str, float]) -> None:
            page.gauge(f"vllm:{name}", text, [(_join(engine, extra), value) for extra, value in samples])

        counter("estimated_flops_per_gpu", "Estimated floating point operations per GPU.", ("", 0))
        counter("estimated_read_bytes_per_gpu", "Estimated bytes read from memory per GPU.", ("", 0))
        counter("estimated_write_bytes_per_gpu", "Estimated bytes written to memory per GPU.", ("", 0))
        gauge("num_requests_running", "Requests in the batch.", ("", running))
        gauge("num_requests_waiting", "Requests that wait to be scheduled.", ("", waiting))
        gauge(
            "num_requests_waiting_by_reason",
            "Requests that wait, by what they wait for.",
            *(('reason="capacity"', waiting), ('reason="deferred"', 0)),
        )
        gauge(
            "engine_sleep_state",
            "Whether the engine sleeps, and how deeply.",
            *(('sleep_state="awake"', 1), ('sleep_state="weights_offloaded"', 0), ('sleep_state="discard_all"', 0)),
        )
        gauge("kv_cache_usage_perc", "Fraction of KV blocks in use; 1 is all of them.", ("", kv_usage))
        counter("prefix_cache_queries", "Tokens looked up in the prefix cache.", ("", prefix_queries))
        counter("prefix_cache_hits", "Tokens found in the prefix cache.", ("", prefix_hits))
        counter("external_prefix_cache_queries", "Tokens looked up in other instances' caches.", ("", 0))
        counter("external_prefix_cache_hits", "Tokens found in other instances' caches.", ("", 0))
        counter("mm_cache_queries", "Items looked up in the multi-modal cache.", ("", 0))
        counter("mm_cache_hits", "Items found in the multi-modal cache.", ("", 0))
        counter("num_preemptions", "Requests that lost their memory to others.", ("", preemptions))
        counter("prompt_tokens", "Prompt tokens processed.", ("", self.prompt_tokens))
        counter(
            "prompt_tokens_by_source",
            "Prompt tokens by where their KV came from.",
            ('source="local_compute"', self.prompt_tokens - self.cached_tokens),
            *(('source="local_cache_hit"', self.cached_tokens), ('source="external_kv_transfer"', 0)),
        )
        counter("prompt_tokens_cached", "Prompt tokens found in a cache.", ("", self.cached_tokens))
        tiers = ("device", "host", "p2p", "disk", "external_unspecified")
        counter(
            "prompt_tokens_cached_by_source",
            "Prompt tokens found in a cache, by the kind of cache.",
            *((f'source="{tier}"', prefix_hits if tier == "device" else 0) for tier in tiers),
        )
        counter("generation_tokens", "Tokens generated.", ("", self.generation_tokens))
        counter(
            "request_success",
            "Requests that ended, by reason; errors and aborts are among them.",
            *((f'finished_reason="{reason}"', count) for reason, count in self.finished.items()),
        )
        counter(
            "admission_rejections",
            "Requests refused because of a limit of the queue, by reason.",
            *((f'reason="{reason}"', count) for reason, count in self.rejected.items()),
            labels=self._model,
        )
        for key, (text, _edges) in _HISTOGRAMS.items():
            page.histogram(f"vllm:{key}", text, [(engine, self.histograms[key])])
        config = ",".join(f'{key}="{escape(value)}"' for key, value in self._cache_config.items())
        page.gauge("vllm:cache_config_info", "How the cache is set up.", [(_join('engine="0"', config), 1)])
        self.http.render(page)
        return page.text()


class HttpMetrics:
    """What the web framework's middleware counts: by path template, and only what is not a probe or a scrape."""

    EXCLUDED = frozenset({"/metrics", "/health", "/load", "/ping", "/version", "/server_info"})

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, str], int] = {}
        self._sizes: dict[str, list[float]] = {}
        self._fine = Histogram(HTTP_FINE_SECONDS)
        self._coarse: dict[tuple[str, str], Histogram] = {}

    def observe(
        self, handler: str, method: str, status: int, seconds: float, request_bytes: int, response_bytes: int
    ) -> None:
        """One request was answered; a response without a content length has 0 bytes."""
        if handler in self.EXCLUDED:
            return
        key = (handler, method, f"{status // 100}xx")
        self.requests[key] = self.requests.get(key, 0) + 1
        sizes = self._sizes.setdefault(handler, [0, 0, 0])
        sizes[0] += 1
        sizes[1] += request_bytes
        sizes[2] += response_bytes
        self._fine.observe(seconds)
        self._coarse.setdefault((handler, method), Histogram(HTTP_SECONDS)).observe(seconds)

    def render(self, page: _Page) -> None:
        """Add the http_* families."""
        page.counter(
            "http_requests",
            "Requests by method, status class and handler.",
            [
                (f'handler="{handler}",method="{method}",status="{status}"', count)
                for (handler, method, status), count in self.requests.items()
            ],
        )
        for index, (name, text) in enumerate((("request", "incoming requests"), ("response", "responses")), start=1):
            page.summary(
                f"http_{name}_size_bytes",
                f"Content length of {text} by handler, where a header says it.",
                [(f'handler="{handler}"', sizes[0], sizes[index]) for handler, sizes in self._sizes.items()],
            )
        page.histogram("http_request_duration_highr_seconds", "Duration in many buckets.", [("", self._fine)])
        page.histogram(
            "http_request_duration_seconds",
            "Duration in few buckets by handler.",
            [(f'handler="{handler}",method="{method}"', found) for (handler, method), found in self._coarse.items()],
        )


class _Page:
    """Prometheus text in the making."""

    def __init__(self, created: float) -> None:
        self._lines: list[str] = []
        self._created_at = repr(created)

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def _family(self, name: str, text: str, kind: str) -> None:
        self._lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}")

    def _created(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._family(f"{name}_created", text, "gauge")
        self._lines += [f"{name}_created{_braces(part)} {self._created_at}" for part in labels]

    def gauge(self, name: str, text: str, samples: Sequence[tuple[str, float]]) -> None:
        self._family(name, text, "gauge")
        self._lines += [f"{name}{_braces(labels)} {float(value)!r}" for labels, value in samples]

    def counter(self, name: str, text: str, samples: Sequence[tuple[str, float]], created: bool = True) -> None:
        self._family(f"{name}_total", text, "counter")
        self._lines += [f"{name}_total{_braces(labels)} {float(value)!r}" for labels, value in samples]
        if created:
            self._created(name, text, [labels for labels, _value in samples])

    def summary(self, name: str, text: str, samples: Sequence[tuple[str, float, float]]) -> None:
        self._family(name, text, "summary")
        for labels, count, total in samples:
            self._lines.append(f"{name}_count{_braces(labels)} {float(count)!r}")
            self._lines.append(f"{name}_sum{_braces(labels)} {float(total)!r}")
        self._created(name, text, [labels for labels, _count, _total in samples])

    def histogram(self, name: str, text: str, samples: Sequence[tuple[str, Histogram]]) -> None:
        self._family(name, text, "histogram")
        for labels, found in samples:
            edges = [*map(repr, found.edges), "+Inf"]
            for edge, total in zip(edges, accumulate(found.counts), strict=True):
                part = _join(labels, f'le="{edge}"')
                self._lines.append(f"{name}_bucket{{{part}}} {float(total)!r}")
            self._lines.append(f"{name}_count{_braces(labels)} {float(found.count)!r}")
            self._lines.append(f"{name}_sum{_braces(labels)} {found.sum!r}")
        self._created(name, text, [labels for labels, _found in samples])


def _process_families(page: _Page) -> None:
    """The process_* and python_info families of any Python exporter, where /proc makes them cheap."""
    for name in ("collected", "uncollectable", "collections"):
        page.counter(
            "python_gc_collections" if name == "collections" else f"python_gc_objects_{name}",
            f"Garbage collection: {name}, by generation.",
            [(f'generation="{index}"', stats[name]) for index, stats in enumerate(gc.get_stats())],
            created=False,
        )
    info = f'implementation="{platform.python_implementation()}",major="{sys.version_info.major}"'
    info += f',minor="{sys.version_info.minor}",patchlevel="{sys.version_info.micro}"'
    page.gauge("python_info", "Python platform information.", [(f'{info},version="{platform.python_version()}"', 1)])
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
        descriptors = sum(1 for _entry in Path("/proc/self/fd").iterdir())
    except OSError:  # no /proc here
        return
    page_size = resource.getpagesize()
    page.gauge("process_virtual_memory_bytes", "Virtual memory in bytes.", [("", int(pages[0]) * page_size)])
    page.gauge("process_resident_memory_bytes", "Resident memory in bytes.", [("", int(pages[1]) * page_size)])
    page.gauge("process_start_time_seconds", "When the process started, Unix time.", [("", _PROCESS_START)])
    page.counter("process_cpu_seconds", "CPU time in seconds.", [("", time.process_time())], created=False)
    page.gauge("process_open_fds", "Open file descriptors.", [("", descriptors)])
    page.gauge("process_max_fds", "Most file descriptors allowed.", [("", _soft_limit())])


_PROCESS_START = time.time()


def _soft_limit() -> float:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return float("inf") if limit == resource.RLIM_INFINITY else float(limit)


def escape(value: str) -> str:
    """A label value as the text format wants it."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _join(labels: str, more: str) -> str:
    return f"{labels},{more}" if labels and more else labels or more


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""
