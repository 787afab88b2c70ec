"""Source that asks a Prometheus: for teams whose controller cannot reach every pod, or that trust one set of numbers.

Raw totals, never `rate()` or `increase()`: those extrapolate over what they do not know, and turn a missing scrape into
a number. One question with one evaluation time brings the last samples of every wanted series as they were scraped; the
deltas are taken per process and then summed (rollout/deltas.py), by the same rules as for a direct scrape.

    a process was not scraped for `max_age`            missing, stale: "its last scrape is 62 s old"
    it is scraped in vain (`up` is 0)                  missing, down: "Prometheus cannot scrape it"
    its newest scrape is the one of the last tick      no reading: nothing is counted twice
    a scrape that lacks series of the one before       the one before, this once
    the same process through two targets               one of them
    a value that is no number                          not measured
    Prometheus is down, slow, denies, answers HTML     everything is missing, with the reason
    its clock and ours differ by more than 5 s         everything is missing: fresh cannot be told from stale
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from servegate.errors import InfrastructureError
from servegate.metrics.names import Reading, preflight
from servegate.metrics.text import Buckets
from servegate.rollout.ports import Fault, Observed, PodSample
from servegate.rollout.sources import ended
from servegate.rollout.sources.prometheus_api import PrometheusApi
from servegate.rollout.sources.prometheus_config import PrometheusConfig, selector
from servegate.rollout.sources.prometheus_series import (
    Series,
    down,
    engine_sample,
    family,
    newest,
    processes,
    read_matrix,
    rows_at,
    wanted,
)

GATEWAY = "gateway/"
MAX_SKEW = 5.0
"""Seconds by which the clocks may differ; HTTP tells the time in whole seconds."""
FORGET_AFTER = 900.0
"""Seconds after which a process that is no longer scraped is not missed any more."""
HTTP = "http_requests_total"


class PrometheusSource:
    """Reads both slots through Prometheus.

    Args:
        config: where and how.
        slots: names of the slots.
        clock: seconds since the epoch, to tell the server's clock from ours.
    """

    def __init__(
        self,
        config: PrometheusConfig,
        slots: Sequence[str] = ("blue", "green"),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.slots = {slot: config.slots.get(slot, slot) for slot in slots}
        self.api = PrometheusApi(config, clock=clock)
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prometheus")
        self._pending: dict[str, Future[list[Series]]] = {}
        self._seen: dict[str, float] = {}
        self._exports_http: set[tuple[str | None, str]] = set()
        self._describes = HTTP not in config.metrics.values() and "http_requests" not in config.metrics

    def observe(self, at: float) -> Observed:
        """Read all processes as of `at` (seconds since the epoch). Never raises; takes `timeout` at most."""
        questions: dict[str, Callable[[float], list[Series]]] = {"": self._engine_series}
        if self.config.gateway is not None:
            questions[GATEWAY] = self._gateway_series
        found, missing = self._answers(questions, at)
        pods: list[PodSample] = []
        faults: dict[str, Fault] = {}
        if "" in found:
            pods += self._engines(found[""], at, missing, faults)
        if GATEWAY in found:
            pods += self._gateways(found[GATEWAY], at, missing, faults)
        return Observed(at=at, pods=tuple(pods), missing=missing, faults=faults)

    def preflight(self, needed: Collection[str], at: float) -> list[str]:
        """What is wrong before anything depends on it, one sentence each.

        Args:
            needed: our names of the metrics that the plan judges.

        Raises:
            InfrastructureError: Prometheus cannot be asked.
        """
        observed = self.observe(at)
        whole = [why for name, why in observed.missing.items() if name.endswith("/prometheus")]
        if whole:
            raise InfrastructureError(f"{self.config.url}: {whole[0]}")
        engines = [pod for pod in observed.pods if not pod.pod.startswith(GATEWAY)]
        if not engines:
            labels = ", ".join(f"{self.config.labels.slot}={value!r}" for value in self.slots.values())
            return [f"{self.config.url} has no engine with {labels}{self._which_labels()}"]
        problems = []
        stored = self.api.values("__name__", selector((".+",), self.config.select, self._slot_matcher()))
        exported = {family(name) for name in stored}
        for pod in engines:
            histograms = {name: Buckets(value.edges, value.counts, value.sum) for name, value in pod.histograms.items()}
            reading = Reading(pod.counters, histograms, pod.gauges, pod.started)
            problems += preflight(reading, needed, pod.pod, exported, self.config.metrics)
        return problems

    def close(self) -> None:
        """Stop asking."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.api.close()

    # --- asking -------------------------------------------------------------------------------------------------------

    def _slot_matcher(self) -> tuple[str, Collection[str]]:
        return self.config.labels.slot, self.slots.values()

    def _engine_series(self, at: float) -> list[Series]:
        series = self._last(selector(wanted(self.config.metrics), self.config.select, self._slot_matcher()), at)
        self._look_for_http(series)
        return series

    def _gateway_series(self, at: float) -> list[Series]:
        gateway = self.config.gateway
        assert gateway is not None
        return self._last(selector({gateway.metric, *gateway.active}, gateway.select), at)

    def _last(self, query: str, at: float) -> list[Series]:
        """Samples of the last `max_age` seconds; in milliseconds, as no other unit of PromQL takes fractions."""
        return read_matrix(self.api.instant(f"{query}[{round(self.config.max_age * 1000)}ms]", at))

    def _look_for_http(self, series: Sequence[Series]) -> None:
        """Which engines export the HTTP counter without a series of it: they have served nothing yet, which is zero."""
        with_it = {
            (item.labels.get(self.config.labels.slot), self._pod(item.labels)) for item in series if item.name == HTTP
        }
        all_of_them = {(item.labels.get(self.config.labels.slot), self._pod(item.labels)) for item in series}
        if not self._describes or all_of_them <= with_it | self._exports_http:
            return
        try:
            described = self.api.described(self.config.select, HTTP)
        except InfrastructureError as error:
            # Thanos and others do not know: there such counters are unknown until they appear.
            self._describes = not str(error).startswith("HTTP 4")
            return
        for item in described:
            labels = item.get("target", {})
            self._exports_http.add((labels.get(self.config.labels.slot), self._pod(labels)))

    def _pod(self, labels: Mapping[str, str]) -> str:
        return labels.get(self.config.labels.pod, "")

    def _answers(
        self, questions: Mapping[str, Callable[[float], list[Series]]], at: float
    ) -> tuple[dict[str, list[Series]], dict[str, str]]:
        """Answers to the questions, and what is missing because there was none."""
        # One question of a kind at a time: a server that hangs must not collect threads.
        busy = {key for key, future in self._pending.items() if not future.done()}
        for key, question in questions.items():
            if key not in busy:
                self._pending[key] = self._pool.submit(question, at)
        wait([self._pending[key] for key in questions if key not in busy], timeout=self.config.timeout)
        found: dict[str, list[Series]] = {}
        missing: dict[str, str] = {}
        for key in questions:
            future = self._pending[key]
            if key in busy:
                why = "has not answered the question before"
            elif not future.done():
                why = f"no answer in {self.config.timeout:g} s"
            else:
                try:
                    found[key] = future.result()
                    continue
                except (InfrastructureError, ValueError) as error:
                    why = str(error)
            missing.update({f"{key}{slot}/prometheus": f"Prometheus: {why}" for slot in self.slots})
        skew = self.api.skew
        if found and skew is not None and abs(skew) > MAX_SKEW:
            which = "ahead of" if skew > 0 else "behind"
            why = f"Prometheus' clock is {abs(skew):.0f} s {which} ours: fresh cannot be told from stale"
            return {}, {f"{slot}/prometheus": why for slot in self.slots}
        return found, missing

    # --- understanding ------------------------------------------------------------------------------------------------

    def _engines(
        self, series: Sequence[Series], at: float, missing: dict[str, str], faults: dict[str, Fault]
    ) -> list[PodSample]:
        config = self.config
        samples = []
        for process in processes(series, config.labels.slot, self.slots, config.labels.pod):
            name = f"{process.slot}/{process.pod}"
            scraped = newest(process.targets)
            if down(process.targets):
                missing[name], faults[name] = "Prometheus cannot scrape it", "down"
            elif scraped is None:
                missing[name] = "none of the engine's metrics was scraped"
            else:
                key = (self.slots[process.slot], process.pod)
                samples.append(
                    engine_sample(
                        process.slot,
                        process.pod,
                        scraped[0],
                        scraped[1],
                        config.labels.release,
                        config.metrics,
                        (HTTP,) if key in self._exports_http else (),
                    )
                )
        self._note_old(at, samples, missing, faults, gateway=False)
        return samples

    def _gateways(
        self, series: Sequence[Series], at: float, missing: dict[str, str], faults: dict[str, Fault]
    ) -> list[PodSample]:
        """The gateway's view of each slot: one sample per slot and replica of the gateway."""
        config = self.config.gateway
        assert config is not None
        replicas: dict[str, list[Series]] = {}
        for item in series:
            if item.points:
                replicas.setdefault(item.labels.get(config.labels.pod, ""), []).append(item)
        samples = []
        for replica, of_it in sorted(replicas.items()):
            scraped = newest({(): of_it})
            if scraped is None:
                continue
            rows = rows_at(scraped[1], scraped[0])
            for slot in self.slots:
                name = f"{GATEWAY}{slot}/{replica}"
                value = config.slots.get(slot, slot)
                ours = [row for row in rows.get(config.metric, ()) if row[0].get(config.labels.slot) == value]
                active = [
                    amount
                    for metric in config.active
                    for labels, amount in rows.get(metric, ())
                    if labels.get(config.active_slot) == value
                ]
                try:
                    counted = ended.counters(ours, config.labels.code, config.labels.flags)
                except ValueError as error:
                    missing[name] = str(error)
                    continue
                gauges = {"gateway_active": sum(active)} if active else {}
                samples.append(PodSample(pod=name, slot=slot, at=scraped[0], counters=counted, gauges=gauges))
        self._note_old(at, samples, missing, faults, gateway=True)
        if not samples:
            why = f"no {config.metric} was scraped in {self.config.max_age:g} s"
            missing.update({f"{GATEWAY}{slot}": why for slot in self.slots})
        return samples

    def _note_old(
        self, at: float, samples: list[PodSample], missing: dict[str, str], faults: dict[str, Fault], *, gateway: bool
    ) -> None:
        """Say of processes that were there before how old their last scrape is."""
        self._seen.update({sample.pod: sample.at for sample in samples})
        fresh = {sample.pod for sample in samples}
        for name, when in list(self._seen.items()):
            if at - when > FORGET_AFTER:
                del self._seen[name]
            elif name not in fresh and name.startswith(GATEWAY) == gateway and name not in missing:
                missing[name], faults[name] = f"its last scrape is {at - when:.0f} s old", "stale"

    def _which_labels(self) -> str:
        """What the slot's label is instead, for somebody who has mistaken it."""
        values = self.api.values(self.config.labels.slot)
        return f"; that label has {', '.join(values[:5])}" if values else "; no series has that label"
