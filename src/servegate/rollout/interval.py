"""The open interval of a check: what both slots did in it, and whether they can be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from servegate.rollout.checks import Check, EventsVsStable, OfFailures, OfLatency
from servegate.rollout.deltas import BucketError, add
from servegate.rollout.model import CheckState, SlotDelta, SlotInterval
from servegate.rollout.seen import Asked


@dataclass(frozen=True)
class View:
    """What a tick shows to the checks.

    Args:
        at: time of the observation.
        previous: time of the one before; the deltas cover the time in between.
        weight: percent of the traffic that the candidate is given.
        cold: the candidate is still warming up; its latency does not count.
        warm_for: seconds since the candidate's first traffic.
        deltas, ready: per slot.
        asked: items asked of both slots.
    """

    at: float
    previous: float
    stable: str
    candidate: str
    weight: float
    cold: bool
    deltas: Mapping[str, SlotDelta]
    ready: Mapping[str, int]
    warm_for: float = math.inf
    asked: tuple[Asked, ...] = field(default=())


_NOTHING = SlotInterval.model_validate(SlotInterval().model_dump())  # all fields given: a copy has no set to make
Opened = dict[str, SlotInterval]
"""Sums of an open interval, per slot."""


def is_latency(check: Check) -> bool:
    """The check looks at a histogram."""
    return isinstance(check, OfLatency)


def take_in(check: Check, state: CheckState, view: View, *, need_both: bool) -> Opened | None:
    """The open interval with this tick in it; None when a slot that is needed could not be read."""
    opened = dict(state.open)
    for slot in (view.candidate, view.stable):
        delta = view.deltas.get(slot)
        if delta is None or delta.requests is None:
            if slot == view.candidate or need_both:
                return None
            continue
        opened[slot] = _plus(check, opened.get(slot) or _NOTHING, delta, view.ready.get(slot, 0))
    return opened


def size(check: Check, sums: SlotInterval | None) -> float:
    """Requests that count for the check."""
    if sums is None:
        return 0.0
    if isinstance(check, OfLatency):
        total = sums.buckets.total if sums.buckets else 0.0
        # Gaps between tokens: those of one request belong together.
        return min(total, sums.requests) if check.metric == "itl" else total
    return sums.requests


def exposed(served: Mapping[str, float], view: View) -> float:
    """Fraction of the requests that the candidate is exposed to.

    The router's weight, because each request goes to the candidate with that probability whatever becomes of it.
    Completed requests say it less well: they scatter, and as errors are answered at once and good answers late, they
    understate the traffic right after a step up. But where clearly more of them were the candidate's than the weight
    explains (two standard deviations, over all closed intervals at these weights), the router does not keep to it, and
    they count.
    """
    weight, everything = view.weight / 100, sum(served.values())
    if everything <= 0:
        return weight
    share = served.get(view.candidate, 0.0) / everything
    scatter = math.sqrt(weight * (1 - weight) / everything)
    return share if share > weight + 2 * scatter else weight


def load_ratio(served: Mapping[str, float], view: View) -> float | None:
    """How many times as many requests a ready replica of the candidate is sent as one of stable; None if unknown.

    Requests that are *sent*, not those that are open: a release that is slow has more of them open because it is slow,
    and that is no reason to look away from it.
    """
    ours, theirs = view.ready.get(view.candidate, 0), view.ready.get(view.stable, 0)
    share = exposed(served, view)
    if ours < 1 or theirs < 1 or share >= 1:
        return None
    return share / (1 - share) * theirs / ours


def with_served(state: CheckState, opened: Opened, view: View) -> dict[str, float]:
    """Requests of all closed intervals at these weights, with the one that closes now."""
    return {
        slot: state.served.get(slot, 0.0) + (opened[slot].requests if slot in opened else 0.0)
        for slot in (view.candidate, view.stable)
    }


def unmeasured(view: View, metric: str) -> str | None:
    """Why a histogram is not there, with the nearest that is; None when both slots export it."""
    for slot in (view.candidate, view.stable):
        delta = view.deltas.get(slot)
        if delta is None or delta.pods < 1 or metric in delta.histograms:
            continue
        told = next((why for name, why in delta.missing.items() if name.startswith(f"{metric} ")), "")
        if told:
            return told
        there = sorted(delta.histograms, key=lambda name: (_distance(metric, name), name))
        nearest = f"; the nearest it has is {there[0]}" if there else ""
        return f"the engine of {slot} does not export {metric}{nearest}"
    return None


_KIN = {"itl": ("tpot",), "tpot": ("itl",), "ttft": ("queue_time", "e2e_latency"), "e2e_latency": ("tpot", "ttft"),
        "queue_time": ("ttft", "e2e_latency")}  # fmt: skip


def _distance(wanted: str, name: str) -> int:
    kin = _KIN.get(wanted, ())
    return kin.index(name) if name in kin else len(kin)


def _metric(check: Check) -> str:
    return check.metric if isinstance(check, OfLatency) else ""


def _plus(check: Check, sums: SlotInterval, delta: SlotDelta, ready: int) -> SlotInterval:
    requests = delta.requests or 0.0
    if isinstance(check, OfFailures):
        return sums.model_copy(
            update={
                "requests": sums.requests + max(0.0, requests - delta.set_apart),
                "bad": sums.bad + (delta.failures or 0.0),
                "rejected": sums.rejected + (delta.rejected or 0.0),
            }
        )
    if isinstance(check, EventsVsStable):
        happened, base = delta.event(check.event) or (0.0, 0.0)
        return sums.model_copy(update={"requests": sums.requests + base, "bad": sums.bad + happened})
    buckets, gauges, counters = delta.histograms.get(_metric(check)), delta.gauges, delta.counters
    if buckets is None:
        buckets = sums.buckets
    elif sums.buckets is not None:
        with suppress(BucketError):  # edges that changed: what came before them is dropped
            buckets = add(_metric(check), sums.buckets, buckets)
    return sums.model_copy(
        update={
            "requests": sums.requests + requests,
            "buckets": buckets,
            "waiting": max(sums.waiting, gauges.get("waiting", 0.0) / max(ready, 1)),
            "running": gauges.get("running", 0.0) / max(ready, 1),
            "cache_hits": sums.cache_hits + counters.get("prefix_cache_hits", 0.0),
            "cache_queries": sums.cache_queries + counters.get("prefix_cache_queries", 0.0),
        }
    )
