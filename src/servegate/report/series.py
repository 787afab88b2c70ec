"""Points of the plots: requests and ticks, binned over time. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from servegate.report.records import CanaryTick, RequestRecord
from servegate.report.story import Facts

MAX_BINS = 120
MIN_IN_BIN = 5


@dataclass(frozen=True)
class Bin:
    """Requests of one slot sent in one stretch of time. Quantiles are None below MIN_IN_BIN answers."""

    middle: float
    requests: int
    failed: int
    p50: float | None
    p95: float | None


def bins(records: Sequence[RequestRecord], known: Facts, slot: str, width: float) -> list[Bin]:
    """Requests of a slot per `width` seconds since the rollout's start; stretches without requests are left out."""
    found: dict[int, list[RequestRecord]] = {}
    for record in records:
        if record.slot == slot:
            found.setdefault(int(known.since(record.sent) // width), []).append(record)
    result = []
    for index, group in sorted(found.items()):
        times = sorted(record.ttft for record in group if record.ttft is not None)
        enough = len(times) >= MIN_IN_BIN
        result.append(
            Bin(
                middle=(index + 0.5) * width,
                requests=len(group),
                failed=sum(not record.ok for record in group),
                p50=nearest_rank(times, 0.5) if enough else None,
                p95=nearest_rank(times, 0.95) if enough else None,
            )
        )
    return result


def bin_width(length: float) -> float:
    """Seconds per bin: whole, and at most MAX_BINS of them."""
    return float(max(2, math.ceil(length / MAX_BINS)))


def thin(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most `limit` points, evenly chosen, and always the slowest ones."""
    if len(points) <= limit:
        return list(points)
    slowest = sorted(range(len(points)), key=lambda index: -points[index][1])[: limit // 5]
    step = len(points) / (limit - len(slowest))
    even = {int(index * step) for index in range(limit - len(slowest))}
    return [points[index] for index in sorted(even | set(slowest))]


def with_gaps(rows: list[tuple[float, float, float]], width: float) -> list[tuple[float, float, float]]:
    """Zero where a slot had no request, so that a line does not bridge a silence."""
    result: list[tuple[float, float, float]] = []
    for row in rows:
        if result and row[0] - result[-1][0] > width * 1.5:
            result += [(result[-1][0] + width, 0.0, 0.0), (row[0] - width, 0.0, 0.0)]
        result.append(row)
    return [(rows[0][0] - width, 0.0, 0.0), *result, (rows[-1][0] + width, 0.0, 0.0)] if rows else []


def rates_by_ticks(
    ticks: Sequence[CanaryTick], known: Facts, slot: str, width: float
) -> list[tuple[float, float, float]]:
    found: dict[int, list[int]] = {}
    for tick in ticks:
        did = tick.slots.get(slot)
        if did is not None and did.requests is not None:
            cell = found.setdefault(int(known.since(tick.at) // width), [0, 0])
            cell[0] += did.requests
            cell[1] += did.failures or 0
    return [((index + 0.5) * width, n / width, bad / width) for index, (n, bad) in sorted(found.items())]


def nearest_rank(ordered: Sequence[float], q: float) -> float:
    """The smallest value that at least a share `q` of the values does not exceed."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]
