"""The Report of a canary: what each slot did while both carried traffic, and what it was evidence of.

Made from the audit trail alone, so anybody can make it again; the trail is its sidecar.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from servegate import __version__
from servegate.config import validate
from servegate.contract import sha256_file
from servegate.errors import ConfigError
from servegate.report.model import Conditions, Finding, Interval, Measure, Report, Samples, Subject
from servegate.rollout.audit import AuditTick, read_trail
from servegate.rollout.canary_story import story
from servegate.rollout.deltas import BucketError, add
from servegate.rollout.model import State
from servegate.rollout.plan import Plan
from servegate.rollout.seen import Buckets
from servegate.stats.histogram import quantile
from servegate.stats.intervals import wilson

_LATENCIES = ("ttft", "itl", "tpot", "e2e_latency", "queue_time")


def canary_report(trail: Path, output: Path) -> Report:
    """The report of the last rollout in a trail.

    Args:
        output: where the report will be written; the trail is named relative to it.

    Raises:
        ConfigError: the trail cannot be read, or does not hold the beginning of a rollout.
    """
    ticks = read_trail(trail)
    begins = [number for number, tick in enumerate(ticks) if tick.state is not None]
    if not begins:
        raise ConfigError(f"{trail}: does not hold the beginning of a rollout")
    first, of_it = ticks[begins[-1]], ticks[begins[-1] :]
    plan, state = validate(first.plan, Plan, f"{trail}: plan"), validate(first.state, State, f"{trail}: state")
    both = [tick for tick in of_it if tick.evidence and all(weight > 0 for weight in tick.weights.values())]
    released = state.slots[state.candidate]
    return Report(
        kind="canary",
        name=plan.name,
        subject=Subject(release=released.release, name=released.name),
        conditions=Conditions(plan_sha256=plan.identity()),
        started=first.at,
        finished=max(of_it[-1].at, first.at),
        tool=f"servegate {__version__}",
        measures=(*_measures(both, state), *_evidence(plan, of_it)),
        samples=(
            Samples(
                path=os.path.relpath(trail.absolute(), output.absolute().parent),
                sha256=sha256_file(trail),
                record="AuditTick",
                n=len(ticks),
            ),
        ),
        findings=tuple(_findings(of_it)),
        canary=story(plan, state, of_it),
    )


def _measures(ticks: Sequence[AuditTick], state: State) -> list[Measure]:
    """Of each slot, while both carried traffic."""
    measures = []
    for slot in sorted((state.stable, state.candidate)):
        seen = [tick.observation.slots[slot] for tick in ticks if slot in tick.observation.slots]
        read = [delta for delta in seen if delta.requests is not None]
        apart = round(sum(tick.set_apart.get(slot, 0.0) for tick in ticks))
        requests = max(0, round(sum(delta.requests or 0.0 for delta in read)) - apart)
        told = round(sum((delta.failures or 0.0) + (delta.rejected or 0.0) for delta in read)) - apart
        failed = min(requests, max(0, told))
        interval = wilson(failed, requests) if requests else None
        measures.append(
            Measure(
                name="error_rate", statistic="rate", slot=slot, unit="fraction", better="lower", n=requests,
                attempted=requests, value=failed / requests if requests else None,
                interval=None if interval is None else Interval(
                    low=interval.low, high=interval.high, level=0.95, method="wilson"
                ),
            )
        )  # fmt: skip
        for name in _LATENCIES:
            total = _sum([delta.histograms[name] for delta in seen if name in delta.histograms], name)
            if total is None:
                continue
            for statistic, level in (("p50", 0.5), ("p95", 0.95)):
                measures.append(
                    Measure(
                        name=name, statistic=statistic, slot=slot, unit="seconds", better="lower", n=round(total.total),
                        attempted=round(total.total), value=quantile(total.edges, total.counts, level),
                    )
                )  # fmt: skip
    return measures


def _sum(buckets: Sequence[Buckets], name: str) -> Buckets | None:
    total: Buckets | None = None
    for one in buckets:
        try:
            total = one if total is None else add(name, total, one)
        except BucketError:
            return None  # engines that cannot be compared have no common quantile
    return total


def _evidence(plan: Plan, ticks: Sequence[AuditTick]) -> list[Measure]:
    """The largest e-value of each check, as a fraction of its limit in logarithms: at 1 it fires."""
    measures = []
    for check in plan.checks:
        lines = [line for tick in ticks for line in tick.evidence if line.check == check.name]
        value = max((line.log_e / line.log_limit for line in lines), default=None)
        measures.append(
            Measure(
                name="evidence_against", statistic="max", slice=f"check={check.name}", unit="score", better="lower",
                n=len(lines), attempted=len(ticks), value=value,
            )
        )  # fmt: skip
    return measures


def _findings(ticks: Sequence[AuditTick]) -> list[Finding]:
    last = ticks[-1]
    reason = next((tick.reason for tick in reversed(ticks) if tick.reason), "nothing was decided yet")
    good = last.phase in ("PROMOTED", "GUARDED")
    ended = good or last.phase == "ROLLED_BACK"
    found = [
        Finding(
            severity="info" if good else "error" if ended else "warning",
            code=last.phase.lower().replace("_", "-"),
            message=reason,
        )
    ]
    lost = sum(tick.effects is None for tick in ticks)
    if lost:
        found.append(
            Finding(severity="info", code="controller-killed", message=f"a controller was killed at {lost} ticks")
        )
    for slot in sorted({slot for tick in ticks for slot in tick.observation.status}):
        pods = {
            f"{pod.pod} ({pod.why})"
            for tick in ticks
            if slot in tick.observation.status
            for pod in tick.observation.status[slot].reclaimed
        }
        apart = sum(tick.set_apart.get(slot, 0.0) for tick in ticks)
        if pods:
            message = f"the platform took away {', '.join(sorted(pods))} of {slot}: {apart:.0f} failures were set apart"
            found.append(Finding(severity="info", code="reclaimed", message=message))
    if any(set(tick.weights.values()) == {0.0, 100.0} and tick.phase == "BAKING" for tick in ticks):
        message = "at 100 % there was no control: only absolute checks were judged"
        found.append(Finding(severity="info", code="no-control", message=message))
    return found
