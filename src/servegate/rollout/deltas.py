"""Two readings of every pod → what each slot did in between.

Counters are compared series by series and only then summed: a sum that is compared first hides a pod that restarted
and invents one that joined. The rules are those of Prometheus' `increase`, without its extrapolation: a total that
fell, or a process that started anew, counts from zero. Missing is never zero: a slot whose pods gave nothing usable
has no numbers at all, because "no failures" and "nobody could be asked" must not look alike.

Names of counters, written by the sources: of engine pods `http_requests`, `http_5xx`, `http_4xx`, `finished_stop`,
`finished_length`, `finished_abort`, `finished_error`, `rejected`, `prompt_tokens`, `generation_tokens`, `preemptions`,
`prefix_cache_queries`, `prefix_cache_hits`; histograms `ttft`, `itl`, `tpot`, `e2e_latency`, `queue_time`; gauges
`running`, `waiting`, `kv_cache_usage`. Of the gateway's view of a slot, a sample whose pod is `gateway/<slot>`, or
`gateway/<slot>/<replica>` where the gateway has several:
`gateway_requests`, `gateway_5xx`, `gateway_connect_failures`, `gateway_resets`, `gateway_timeouts`, gauge
`gateway_active`. What counts as a request and as a failure is said at `model.SlotDelta`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from servegate.errors import InfrastructureError
from servegate.rollout.ports import Fault, Histogram, Observed, PodSample
from servegate.rollout.seen import Buckets, PodReading, Readings, SlotDelta

GATEWAY = "gateway/"
FORGET_AFTER = 900.0
"""Seconds after which a pod that has not answered is forgotten."""
START_TOLERANCE = 0.5
"""Seconds by which a process start may wobble between readings without being a restart."""


class BucketError(InfrastructureError):
    """Two histograms of one name have different bucket edges and cannot be added or subtracted."""


def between(previous: Readings | None, observed: Observed) -> tuple[dict[str, SlotDelta], Readings]:
    """Deltas per slot since `previous`, and the readings the next call needs.

    A pod that is new since `previous` counts from zero when its process started after `previous`; otherwise its first
    reading is only a baseline. Without `previous` everything is a baseline. A reading that is not newer than the one
    kept (a duplicated or late scrape) is no reading. A pod that did not answer keeps its last reading, so that what it
    did meanwhile is counted when it answers again.

    A histogram whose bucket edges changed under a running process, or differ between the pods of a slot, is left out
    and named in `SlotDelta.missing`.

    Returns:
        (deltas, readings): `deltas` has a slot if one of its pods answered or was asked in vain.
    """
    last = previous.pods if previous else {}
    kept = {pod: reading for pod, reading in last.items() if observed.at - reading.at <= FORGET_AFTER}
    per_slot: dict[str, list[tuple[PodSample, SlotDelta | None]]] = {}
    for sample in observed.pods:
        before = last.get(sample.pod)
        if before is not None and before.slot != sample.slot:
            before = None
        if _is_old(sample, last):
            per_slot.setdefault(sample.slot, []).append((sample, None))
            continue
        current = reading(sample)
        kept[sample.pod] = current if before is None or _restarted(before, current) else _remember(before, current)
        per_slot.setdefault(sample.slot, []).append((sample, _delta(before, current, sample, previous)))

    deltas: dict[str, SlotDelta] = {}
    missing = _missing_per_slot(observed.missing, last, set(per_slot))
    for slot in sorted(set(per_slot) | set(missing)):
        lost = missing.get(slot, {})
        has_gateway = any(_is_gateway(pod, slot) for pod in (*last, *kept, *lost))
        faults: dict[str, Fault] = {pod: observed.faults[pod] for pod in lost if pod in observed.faults}
        # The same scrape once more is no reading; a pod's first one is only a baseline.
        faults |= {sample.pod: "stale" for sample, _ in per_slot.get(slot, []) if _is_old(sample, last)}
        deltas[slot] = _slot(per_slot.get(slot, []), lost, has_gateway).model_copy(update={"faults": faults})
    return deltas, Readings(at=max(observed.at, previous.at if previous else observed.at), pods=kept)


def reading(sample: PodSample) -> PodReading:
    """A sample as it is remembered. Values that are no numbers are left out: they were not measured."""
    return PodReading(
        slot=sample.slot,
        at=sample.at,
        release=sample.release,
        started=sample.started,
        counters={name: value for name, value in sample.counters.items() if math.isfinite(value) and value >= 0},
        histograms={
            name: buckets for name, value in sample.histograms.items() if (buckets := _buckets(value)) is not None
        },
    )


def _is_old(sample: PodSample, last: Mapping[str, PodReading]) -> bool:
    before = last.get(sample.pod)
    return before is not None and before.slot == sample.slot and sample.at <= before.at


def _is_gateway(pod: str, slot: str) -> bool:
    return pod == GATEWAY + slot or pod.startswith(f"{GATEWAY}{slot}/")


def add(name: str, one: Buckets, other: Buckets) -> Buckets:
    """Sum of two histograms. Raises BucketError when the edges differ."""
    _same_edges(name, one, other)
    return Buckets.model_construct(
        edges=one.edges,
        counts=tuple(a + b for a, b in zip(one.counts, other.counts, strict=True)),
        sum=one.sum + other.sum,
    )


def _delta(
    before: PodReading | None, now: PodReading, sample: PodSample, previous: Readings | None
) -> SlotDelta | None:
    """Delta of one pod; None when the reading is only a baseline."""
    if before is None:
        is_new_process = previous is not None and now.started is not None and now.started > previous.at
        if not is_new_process:
            return None
        restarted, base = True, PodReading(slot=now.slot, at=now.at)
    else:
        restarted, base = _restarted(before, now), before
    counters = {
        name: value - (0.0 if restarted else base.counters[name])
        for name, value in now.counters.items()
        # A name that appears under a running process: its first value is only a baseline.
        if restarted or name in base.counters
    }
    histograms: dict[str, Buckets] = {}
    missing: dict[str, str] = {}
    for name, buckets in now.histograms.items():
        if restarted:
            histograms[name] = buckets
        elif name in base.histograms:
            try:
                histograms[name] = _subtract(name, buckets, base.histograms[name])
            except BucketError as error:
                missing[f"{sample.pod} {name}"] = str(error)
    return SlotDelta(
        counters=counters,
        histograms=histograms,
        gauges={name: value for name, value in sample.gauges.items() if math.isfinite(value)},
        missing=missing,
    )


def _remember(before: PodReading, now: PodReading) -> PodReading:
    """What was not exported this time keeps its last total, so that nothing is lost when it comes back."""
    return now.model_copy(
        update={
            "counters": {**before.counters, **now.counters},
            "histograms": {**before.histograms, **now.histograms},
        }
    )


def _restarted(before: PodReading, now: PodReading) -> bool:
    """The totals began anew: the process says so, or a total fell."""
    if before.started is not None and now.started is not None and now.started > before.started + START_TOLERANCE:
        return True
    if any(value < before.counters[name] for name, value in now.counters.items() if name in before.counters):
        return True
    return any(
        buckets.total < before.histograms[name].total
        for name, buckets in now.histograms.items()
        if name in before.histograms
    )


def _subtract(name: str, now: Buckets, before: Buckets) -> Buckets:
    _same_edges(name, now, before)
    # One scrape is not one instant: a bucket may lag behind its total by a request, never below zero for us.
    return Buckets.model_construct(
        edges=now.edges,
        counts=tuple(max(0.0, a - b) for a, b in zip(now.counts, before.counts, strict=True)),
        sum=max(0.0, now.sum - before.sum),
    )


def _same_edges(name: str, one: Buckets, other: Buckets) -> None:
    if one.edges != other.edges:
        unlike = sorted(set(one.edges) ^ set(other.edges))
        raise BucketError(
            f"histogram {name}: bucket edges differ ({len(one.edges)} and {len(other.edges)} edges; only in one of "
            f"them: {', '.join(f'{edge:g}' for edge in unlike[:5])}): the slots run engines that cannot be compared"
        )


def _buckets(histogram: Histogram) -> Buckets | None:
    """Cumulative Prometheus buckets as plain ones; None when they are not a histogram."""
    edges, cumulative = histogram.edges, histogram.counts
    if len(edges) != len(cumulative) or not edges or edges[-1] != math.inf:
        return None
    if any(not math.isfinite(value) or value < 0 for value in cumulative) or not math.isfinite(histogram.sum):
        return None
    if any(b <= a for a, b in itertools.pairwise(edges)):
        return None
    if any(b < a for a, b in itertools.pairwise(cumulative)):
        return None
    counts = (cumulative[0], *(b - a for a, b in itertools.pairwise(cumulative)))
    return Buckets(edges=edges[:-1], counts=counts, sum=histogram.sum)


def _missing_per_slot(
    missing: Mapping[str, str], last: Mapping[str, PodReading], answered: set[str]
) -> dict[str, dict[str, str]]:
    """Pods that did not answer, by slot: from their last reading, else from the slot their name starts with."""
    slots = answered | {reading.slot for reading in last.values()}
    by_slot: dict[str, dict[str, str]] = {}
    for pod, why in missing.items():
        name = pod.removeprefix(GATEWAY).split("/", 1)[0]
        slot = last[pod].slot if pod in last else name if name in slots else None
        if slot is not None:
            by_slot.setdefault(slot, {})[pod] = why
    return by_slot


def _slot(pods: list[tuple[PodSample, SlotDelta | None]], missing: dict[str, str], has_gateway: bool) -> SlotDelta:
    counters: dict[str, float] = {}
    histograms: dict[str, Buckets] = {}
    gauges: dict[str, float] = {}
    missing = dict(missing)
    engines = with_cache = 0
    for sample, delta in pods:
        if delta is None:
            continue
        engines += not sample.pod.startswith(GATEWAY)
        with_cache += "kv_cache_usage" in delta.gauges
        missing.update(delta.missing)
        for name, value in delta.counters.items():
            counters[name] = counters.get(name, 0.0) + value
        for name, buckets in delta.histograms.items():
            if f"{name} of {sample.slot}" in missing:
                continue
            try:
                histograms[name] = add(name, histograms[name], buckets) if name in histograms else buckets
            except BucketError as error:
                del histograms[name]
                missing[f"{name} of {sample.slot}"] = str(error)
        for name, value in delta.gauges.items():
            gauges[name] = gauges.get(name, 0.0) + value
    if with_cache:
        gauges["kv_cache_usage"] /= with_cache
    return SlotDelta(
        gateway=has_gateway,
        pods=engines,
        counters=counters,
        histograms=histograms,
        gauges=gauges,
        missing=missing,
    )
