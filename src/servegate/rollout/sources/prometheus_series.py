"""Series of a Prometheus → scrapes of processes, in our names.

A selector with a range gives the samples as they were scraped, with the time of the scrape: nothing is extrapolated or
carried forward, so what is old is seen to be old. All samples of one scrape have one timestamp. A process is read as of
its newest whole scrape; series that a scrape did not have are not taken from an older one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from servegate.metrics import names
from servegate.metrics.text import Exposition
from servegate.rollout.ports import Histogram, PodSample

UP = "up"
_SUFFIXES = ("_bucket", "_sum", "_count")
_TARGET = ("cluster", "container", "endpoint", "instance", "job", "prometheus", "prometheus_replica")
"""Labels that tell the targets apart through which one process is scraped more than once."""
Point = tuple[float, float]


@dataclass
class Series:
    """One series: labels with the metric's name in `__name__`, and points of (time, value), oldest first."""

    labels: Mapping[str, str]
    points: list[Point]

    @property
    def name(self) -> str:
        """Name of the metric."""
        return self.labels.get("__name__", "")


@dataclass
class Process:
    """All series of one process, by the target through which they were scraped."""

    slot: str
    pod: str
    targets: dict[tuple[str, ...], list[Series]] = field(default_factory=dict)


def read_matrix(rows: Iterable[Any]) -> list[Series]:
    """Rows of the API as series. Points that are no numbers stay as NaN: such a value was not measured.

    Raises:
        ValueError: not what Prometheus answers.
    """
    series = []
    try:
        for row in rows:
            labels = {str(name): str(value) for name, value in row["metric"].items()}
            points = [(float(at), float(value)) for at, value in row["values"]]
            series.append(Series(labels, points))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"not a matrix of Prometheus: {type(error).__name__}: {str(error)[:80]}") from error
    return series


def processes(series: Iterable[Series], slot_label: str, slots: Mapping[str, str], pod_label: str) -> list[Process]:
    """Series by process, in a fixed order.

    Args:
        slots: slot → value of `slot_label`. Series of other slots are left out.
    """
    slot_of = {value: slot for slot, value in slots.items()}
    found: dict[tuple[str, str], Process] = {}
    for item in series:
        slot, pod = slot_of.get(item.labels.get(slot_label, "")), item.labels.get(pod_label, "")
        if slot is None or not pod or not item.points:
            continue
        process = found.setdefault((slot, pod), Process(slot, pod))
        process.targets.setdefault(tuple(item.labels.get(name, "") for name in _TARGET), []).append(item)
    return [found[key] for key in sorted(found)]


def newest(targets: Mapping[tuple[str, ...], list[Series]]) -> tuple[float, list[Series]] | None:
    """Time and series of the newest whole scrape, of the target that has it; None when all were in vain.

    A process that is scraped through two targets would count twice if both were taken. A scrape is whole when it lacks
    no series of the one before it: a store that is written from afar may have got only a part yet, and will have the
    rest at the next look. What is missing twice is gone.
    """
    best: tuple[float, list[Series]] | None = None
    for _, series in sorted(targets.items()):
        scraped = [item for item in series if item.name != UP]
        times = sorted({at for item in scraped for at, _ in item.points}, reverse=True)
        if not times:
            continue
        at = times[0]
        if len(times) > 1 and _carried(scraped, times[1]) - _carried(scraped, at):
            at = times[1]
        if best is None or at > best[0]:
            best = at, scraped
    return best


def down(targets: Mapping[tuple[str, ...], list[Series]]) -> bool:
    """No target of the process answered the last scrape."""
    last = [item.points[-1][1] for series in targets.values() for item in series if item.name == UP]
    return bool(last) and not any(value == 1 for value in last)


def rows_at(series: Iterable[Series], at: float) -> dict[str, list[tuple[Mapping[str, str], float]]]:
    """(labels, value) by metric name of one scrape."""
    rows: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for item in series:
        for when, value in reversed(item.points):
            if when <= at:
                if when == at:
                    rows.setdefault(item.name, []).append((item.labels, value))
                break
    return rows


def family(name: str) -> str:
    """Name of the metric a sample belongs to: a histogram's samples have suffixes."""
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def engine_sample(
    slot: str,
    pod: str,
    at: float,
    series: Iterable[Series],
    release_label: str,
    renamed: Mapping[str, str],
    described: Iterable[str] = (),
) -> PodSample:
    """What one engine had counted at the scrape of time `at`.

    Args:
        renamed: our name → the name under which it is stored.
        described: metrics that the engine exports though they have no series yet: exported and empty is zero.
    """
    rows = rows_at(series, at)
    exposition = Exposition(
        names=frozenset({*rows, *map(family, rows), *described}),
        samples={name: tuple(found) for name, found in rows.items()},
    )
    reading = names.translate(exposition, renamed)
    releases = {labels.get(release_label) for found in rows.values() for labels, _ in found} - {None, ""}
    return PodSample(
        pod=f"{slot}/{pod}",
        slot=slot,
        at=at,
        counters=reading.counters,
        histograms={
            name: Histogram(value.edges, value.counts, value.sum) for name, value in reading.histograms.items()
        },
        gauges=reading.gauges,
        release=releases.pop() if len(releases) == 1 else None,
        started=reading.started,
    )


def wanted(renamed: Mapping[str, str]) -> frozenset[str]:
    """Names of all samples that an engine is asked for."""
    tables = (names.COUNTERS, names.GAUGES)
    plain = {
        name
        for table in tables
        for ours, metric in table.items()
        for name in ([renamed[ours]] if ours in renamed else [name for name, _ in metric.names])
    }
    histograms = {
        name + suffix
        for ours, metric in names.HISTOGRAMS.items()
        for name in ([renamed[ours]] if ours in renamed else [name for name, _ in metric.names])
        for suffix in ("_bucket", "_sum")
    }
    return frozenset({*plain, *histograms, names.STARTED, UP})


def _carried(series: Iterable[Series], at: float) -> set[int]:
    return {number for number, item in enumerate(series) if any(when == at for when, _ in item.points)}
