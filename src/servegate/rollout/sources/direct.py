"""Source that asks every engine for its /metrics itself, and Envoy for the gateway's view of each slot.

Both are needed. Only the engine knows its queue, its tokens and its latencies; but a dead engine reports nothing, an
engine that hangs reports health, and an answer cut in the middle was a 200. Only the gateway sees those.

What ends how in Envoy (each observed with a backend made for it; tests/e2e/test_envoy_counters.py):

    what the engine does                    client sees          code  flags   counted here as
    answers                                 the answer           2xx   -       gateway_requests
    answers 5xx                             the answer           5xx   -       + gateway_5xx
    refuses the connection, or is gone      503 of Envoy         503   UF      + gateway_5xx, gateway_connect_failures
    closes before the headers               503 of Envoy         503   UC      + gateway_5xx
    is silent before the headers            504 of Envoy         504   UT      + gateway_5xx, gateway_timeouts
    dies or resets after the headers        a cut answer         200   UPE/UC  + gateway_resets
    is silent after the headers             a cut answer         200   UT      + gateway_resets
    (the client goes away)                  -                    any   DC      gateway_cancelled alone

So gateway_5xx and gateway_resets together are all requests that failed, each once; connect failures and timeouts are
parts of gateway_5xx. Every request is counted when it has ended: one that still streams is in gateway_active.

Envoy's standard counters would not do: `upstream_rq_completed` and `upstream_rq_5xx` count at the headers;
`upstream_rq_rx_reset` stays 0 when an HTTP/1.1 engine dies; `upstream_cx_destroy_remote_with_active_rq` counts both
the answers that broke and those that never began; `upstream_cx_connect_fail` counts connections, not requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode

import urllib3

from servegate.errors import InfrastructureError
from servegate.metrics.names import declared, preflight, read
from servegate.metrics.text import families, parse
from servegate.rollout.ports import Fault, Histogram, Observed, PodSample
from servegate.rollout.sources import ended

MAX_BODY = 4 * 1024 * 1024
GATEWAY = "gateway/"
_ENDED = "envoy_servegate_ended"
_ACTIVE = ("envoy_cluster_upstream_rq_active", "envoy_cluster_upstream_rq_pending_active")
_FILTER = "^(servegate\\.ended|cluster\\..*\\.upstream_rq_(pending_)?active$)"


@dataclass(frozen=True)
class Target:
    """One engine to be read.

    Args:
        pod: identity of the series, `<slot>/<replica>`.
        slot: its slot.
        url: base URL; /metrics is asked.
        release: digest of the release it serves, where known.
    """

    pod: str
    slot: str
    url: str
    release: str | None = None


@dataclass(frozen=True)
class Question:
    """A page of a gateway's counters to be read.

    Args:
        key: who is asked.
        url: of the page.
        names: what is missing without an answer.
        samples: reads the page; raises ValueError when it is no such page.
    """

    key: str
    url: str
    names: tuple[str, ...]
    samples: Callable[[str, float], list[PodSample]]


class Counting(Protocol):
    """A gateway that counts what becomes of requests."""

    @property
    def slots(self) -> Sequence[str]:
        """Names of the slots."""

    def questions(self) -> Iterable[Question]:
        """What to ask at this reading; raises InfrastructureError when nobody knows whom."""


@dataclass(frozen=True)
class Gateway:
    """An Envoy started by routers/envoy.py: URL of its admin interface and the slots it routes to."""

    admin: str
    slots: Sequence[str]

    def questions(self) -> list[Question]:
        """One page for all slots."""
        url = f"{self.admin}/stats/prometheus?{urlencode({'filter': _FILTER})}"
        names = tuple(GATEWAY + slot for slot in self.slots)
        return [Question(GATEWAY, url, names, lambda text, at: gateway_samples(text, self.slots, at))]


class DirectSource:
    """Reads all pods at once; whoever does not answer in time is missing.

    Args:
        targets: called at every reading for the engines that exist then.
        gateway: what counts in front of the slots, if there is something.
        timeout: seconds for the whole reading.
    """

    def __init__(
        self, targets: Callable[[], Iterable[Target]], gateway: Counting | None = None, *, timeout: float = 2.0
    ) -> None:
        self.targets, self.gateway, self.timeout = targets, gateway, timeout
        self._pool = ThreadPoolExecutor(max_workers=64, thread_name_prefix="scrape")
        self._http = urllib3.PoolManager(num_pools=64, maxsize=2, retries=False)
        self._pending: dict[str, Future[list[PodSample]]] = {}

    def observe(self, at: float) -> Observed:
        """Read all pods as of `at` (seconds since the epoch). Never raises for a pod; takes `timeout` at most."""
        asked = {target.pod: self._ask(target.pod, self._engine, target, at) for target in self.targets()}
        names: dict[str, tuple[str, ...]] = {pod: (pod,) for pod in asked}
        pods: list[PodSample] = []
        missing: dict[str, str] = {}
        if self.gateway is not None:
            try:
                for page in self.gateway.questions():
                    names[page.key] = page.names
                    asked[page.key] = self._ask(page.key, self._page, page, at)
            except InfrastructureError as error:
                missing.update({GATEWAY + slot: _reason(error) for slot in self.gateway.slots})
        wait([future for future in asked.values() if future is not None], timeout=self.timeout)
        nonsense: set[str] = set()
        for key, future in asked.items():
            if future is None:
                missing.update(dict.fromkeys(names[key], "has not answered the question before"))
            elif not future.done():
                missing.update(dict.fromkeys(names[key], f"no answer in {self.timeout:g} s"))
            else:
                self._pending.pop(key, None)
                try:
                    pods.extend(future.result())
                except (InfrastructureError, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                    missing.update(dict.fromkeys(names[key], _reason(error)))
                    if isinstance(error, ValueError):
                        nonsense.update(names[key])
        down: dict[str, Fault] = {name: "down" for name in missing if name not in nonsense}
        return Observed(at=at, pods=tuple(pods), missing=missing, faults=down)

    def preflight(self, needed: Collection[str]) -> list[str]:
        """What the engines that run now do not export, one sentence each, with the nearest name that they do.

        Args:
            needed: our names of the metrics that the plan judges; without a gateway requests are needed too.

        Raises:
            InfrastructureError: nobody knows which engines there are.
        """
        wanted = sorted({*needed, *(() if self.gateway is not None else ("http_requests",))})
        problems = []
        for target in self.targets():
            try:
                text = self._get(f"{target.url}/metrics")
                names = families(text)
                lacking = [ours for ours in wanted if not declared(ours, names)]
                problems += preflight(read(text), lacking, target.pod, names)
            except (InfrastructureError, urllib3.exceptions.HTTPError, OSError):
                continue  # not up: that is waited for and told by name when the rollout has begun
            except ValueError as error:
                problems.append(f"{target.pod}: {target.url}/metrics: {_reason(error)}")
        return problems

    def close(self) -> None:
        """Stop asking; returns when the last question has been answered or given up."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._http.clear()

    def _ask(
        self, key: str, question: Callable[..., list[PodSample]], *arguments: object
    ) -> Future[list[PodSample]] | None:
        # An engine that hangs must not collect threads: one question at a time for each.
        before = self._pending.get(key)
        if before is not None and not before.done():
            return None
        future = self._pool.submit(question, *arguments)
        self._pending[key] = future
        return future

    def _engine(self, target: Target, at: float) -> list[PodSample]:
        reading = read(self._get(f"{target.url}/metrics"))
        return [
            PodSample(
                pod=target.pod,
                slot=target.slot,
                at=at,
                counters=reading.counters,
                histograms={
                    name: Histogram(value.edges, value.counts, value.sum) for name, value in reading.histograms.items()
                },
                gauges=reading.gauges,
                release=target.release,
                started=reading.started,
            )
        ]

    def _page(self, page: Question, at: float) -> list[PodSample]:
        return page.samples(self._get(page.url), at)

    def _get(self, url: str) -> str:
        """Body of a GET as text. Bounded: neither a large nor a slow answer can hold the thread for long."""
        deadline = time.monotonic() + self.timeout
        response = self._http.request("GET", url, timeout=self.timeout, redirect=False, preload_content=False)
        parts: list[bytes] = []
        size = 0
        complete = False
        try:
            if response.status != 200:
                raise InfrastructureError(f"HTTP {response.status}")
            while part := response.read1(65536):
                parts.append(part)
                size += len(part)
                if size > MAX_BODY:
                    raise InfrastructureError(f"the answer is larger than {MAX_BODY} bytes")
                if time.monotonic() > deadline:
                    raise InfrastructureError(f"no complete answer in {self.timeout:g} s")
            complete = True
        finally:
            if complete:
                response.release_conn()
            else:
                response.close()
        return b"".join(parts).decode("utf-8", "replace")


def gateway_samples(text: str, slots: Iterable[str], at: float) -> list[PodSample]:
    """Envoy's Prometheus text → one sample per slot. A slot that has carried nothing yet has zeros, not nothing.

    Raises:
        ValueError: not what Envoy answers.
    """
    exposition = parse(text, {_ENDED, *_ACTIVE})
    if not exposition.names.intersection(_ACTIVE):
        raise ValueError("not Envoy's counters")
    samples = []
    for slot in slots:
        rows = [row for row in exposition.samples.get(_ENDED, ()) if row[0].get("slot") == slot]
        active = sum(
            value
            for name in _ACTIVE
            for labels, value in exposition.samples.get(name, ())
            if labels.get("envoy_cluster_name") == slot
        )
        samples.append(
            PodSample(
                pod=GATEWAY + slot,
                slot=slot,
                at=at,
                counters=ended.counters(rows),
                gauges={"gateway_active": active},
            )
        )
    return samples


def _reason(error: Exception) -> str:
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "connection refused" if "refused" in str(error) else "cannot connect"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "the connection was closed before the answer was complete"
    return str(error)[:200] or type(error).__name__
