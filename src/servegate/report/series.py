"""Points of the plots: requests and ticks, binned over time. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from servegate.report.records import CanaryTick, RequestRecord
from servegate.report.story import Facts

MAX_BINS = 60
MIN_FOR_P50 = 5
MIN_FOR_P95 = 20


@dataclass(frozen=True)
class Bin:
    """Requests of one slot sent in one stretch of time. Quantiles of too few answers are None."""

    middle: float
    seconds: float
    requests: int
    failed: int
    p50: float | None
    p95: float | None


def bins(records: Sequence[RequestRecord], known: Facts, slot: str, width: float) -> list[Bin]:
    """Requests of a slot per `width` seconds since the rollout's start; stretches without requests are left out."""
    found: dict[int, list[RequestRecord]] = {}
    for record in records:
        if record.slot == slot:
            found.setdefault(_index(known.since(record.sent), known.length, width), []).append(record)
    result = []
    for index, group in sorted(found.items()):
        times = sorted(record.ttft for record in group if record.ttft is not None)
        result.append(
            Bin(
                middle=_middle(index, known.length, width),
                seconds=_seconds(index, known.length, width),
                requests=len(group),
                failed=sum(not record.ok for record in group),
                p50=nearest_rank(times, 0.5) if len(times) >= MIN_FOR_P50 else None,
                p95=nearest_rank(times, 0.95) if len(times) >= MIN_FOR_P95 else None,
            )
        )
    return result


def bin_width(length: float) -> float:
    """Seconds per bin: whole, and at most MAX_BINS of them."""
    return float(max(5, math.ceil(length / MAX_BINS)))


def thin(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most `limit` points, evenly chosen, and always the slowest ones."""
    if len(points) <= limit:
        return list(points)
    slowest = sorted(range(len(points)), key=lambda index: -points[index][1])[: limit // 5]
    step = len(points) / (limit - len(slowest))
    even = {int(index * step) for index in range(limit - len(slowest))}
    return [points[index] for index in sorted(even | set(slowest))]


def with_gaps(rows: list[tuple[float, float, float]], width: float, length: float) -> list[tuple[float, float, float]]:
    """Zero where a slot had no request, so that a line does not bridge a silence."""
    result: list[tuple[float, float, float]] = []
    for row in rows:
        if result and row[0] - result[-1][0] > width * 1.5:
            result += [(result[-1][0] + width, 0.0, 0.0), (row[0] - width, 0.0, 0.0)]
        result.append(row)
    if not result:
        return []
    # A step is drawn from middle to middle, so the first and the last bin need a neighbour to have a width.
    first, last = result[0], result[-1]
    before = (first[0] - width, first[1] if first[0] < width else 0.0, 0.0)
    after = (last[0] + width, last[1] if last[0] + width > length else 0.0, 0.0)
    return [before, *result, after]


def rates_by_ticks(
    ticks: Sequence[CanaryTick], known: Facts, slot: str, width: float
) -> list[tuple[float, float, float]]:
    """Middle of the bin, requests per second and failed requests, from the ticks of a slot."""
    found: dict[int, list[int]] = {}
    for tick in ticks:
        did = tick.slots.get(slot)
        if did is not None and did.requests is not None:
            cell = found.setdefault(_index(known.since(tick.at), known.length, width), [0, 0])
            cell[0] += did.requests
            cell[1] += did.failures or 0
    result: list[tuple[float, float, float]] = []
    for index, (n, bad) in sorted(found.items()):
        seconds = _seconds(index, known.length, width)
        result.append((_middle(index, known.length, width), n / seconds, bad))
    return result


def _last(length: float, width: float) -> int:
    """The last bin takes what is left: between a half and one and a half of the width."""
    return max(0, round(length / width) - 1)


def _index(since: float, length: float, width: float) -> int:
    return min(int(since // width), _last(length, width))


def _seconds(index: int, length: float, width: float) -> float:
    return width if index < _last(length, width) else length - index * width


def _middle(index: int, length: float, width: float) -> float:
    return index * width + _seconds(index, length, width) / 2


def nearest_rank(ordered: Sequence[float], q: float) -> float:
    """The smallest value that at least a share `q` of the values does not exceed."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]
