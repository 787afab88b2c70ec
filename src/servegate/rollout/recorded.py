"""Recorded series of a Prometheus → what every process did in every tick, as one table per process.

The same rules as for a running rollout (rollout/deltas.py), in whole arrays: a total that fell, or a process that
started anew, counts from zero; the first scrape is only a baseline; a scrape that lacks a series loses nothing, because
the next one is compared with the last that had it. A day of a few processes is millions of samples.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servegate.errors import ConfigError
from servegate.garbage import collection_paused
from servegate.metrics import names
from servegate.rollout.deltas import START_TOLERANCE
from servegate.rollout.sources.prometheus_api import Matrix, PrometheusApi
from servegate.rollout.sources.prometheus_config import PrometheusConfig, selector
from servegate.rollout.sources.prometheus_series import UP, wanted

CHUNK = 1800.0
"""Seconds asked for at once."""
MAX_BYTES = 4 * 1024**3
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """What the columns of a table mean: counters by our names first, then the buckets of each histogram.

    Args:
        counters: our names, one column each.
        histograms: our name → (finite edges, first column); one more column than edges.
    """

    counters: tuple[str, ...]
    histograms: dict[str, tuple[tuple[float, ...], int]]

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.counters) + sum(len(edges) + 1 for edges, _ in self.histograms.values())


@dataclass(frozen=True)
class Recording:
    """A time of a service.

    Args:
        start: seconds since the epoch of the beginning of the first tick.
        tick: seconds.
        columns: of the tables.
        pods: name → table, shape (ticks, columns.width): events within the tick.
        scraped: name → shape (ticks,): a new scrape fell into the tick.
    """

    start: float
    tick: float
    columns: Columns
    pods: dict[str, NDArray[np.int32]]
    scraped: dict[str, NDArray[np.bool_]]

    @property
    def ticks(self) -> int:
        """Number of ticks."""
        return len(next(iter(self.scraped.values())))


def fetch(
    config: PrometheusConfig, start: float, end: float, progress: Callable[[int, int], None] = lambda _d, _a: None
) -> Matrix:
    """Raw samples of all engines between two times, piece by piece.

    Raises:
        InfrastructureError: Prometheus cannot be asked.
    """
    api = PrometheusApi(config)
    query = selector(wanted(config.metrics), config.select)
    found: dict[tuple[tuple[str, str], ...], list[Any]] = {}
    pieces = max(1, math.ceil((end - start) / CHUNK))
    try:
        for number in range(pieces):
            until = min(end, start + (number + 1) * CHUNK)
            length = until - (start + number * CHUNK)
            for row in api.instant(f"{query}[{round(length * 1000)}ms]", until):
                key = tuple(sorted(row["metric"].items()))
                found.setdefault(key, []).extend(row["values"])
            progress(number + 1, pieces)
    finally:
        api.close()
    return [{"metric": dict(key), "values": values} for key, values in found.items()]


def save(path: Path, rows: Matrix) -> None:
    """Write rows as Prometheus itself would answer; compressed when the name ends with .gz."""
    from servegate.contract import write_atomic

    document = {"status": "success", "data": {"resultType": "matrix", "result": rows}}
    data = json.dumps(document, separators=(",", ":")).encode()
    write_atomic(path, gzip.compress(data, 6) if path.suffix == ".gz" else data)


def load(paths: Iterable[Path]) -> Matrix:
    """Read saved answers of a Prometheus (`/api/v1/query` with a range, or `/api/v1/query_range`).

    Raises:
        ConfigError: a file cannot be read, or is no such answer.
    """
    import orjson

    rows: Matrix = []
    for path in paths:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes")
            data = path.read_bytes()
            text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
            with collection_paused():
                document = orjson.loads(text)
            found = document["data"]["result"] if isinstance(document, dict) else document
            if not all({"metric", "values"} <= row.keys() for row in found):
                raise KeyError("values")
            rows += found
        except (OSError, EOFError, gzip.BadGzipFile) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: is not an answer of Prometheus with ranges of samples") from error
    return rows


def recording(rows: Matrix, config: PrometheusConfig, tick: float) -> Recording:
    """Tables of all processes in the rows.

    Raises:
        ConfigError: there is no engine in them, or too little time.
    """
    by_pod: dict[str, list[tuple[dict[str, str], Floats, Floats]]] = {}
    for row in rows:
        labels = {str(name): str(value) for name, value in row["metric"].items()}
        pod = labels.get(config.labels.pod, "")
        if labels.get("__name__") == UP or not pod or not row["values"]:
            continue
        try:
            times = np.array([float(point[0]) for point in row["values"]])
            values = np.array([float(point[1]) for point in row["values"]])
        except (TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"a sample of {labels.get('__name__', '?')} is no number: {error}") from error
        by_pod.setdefault(pod, []).append((labels, times, values))
    processes = {pod: _Process(series, config) for pod, series in sorted(by_pod.items())}
    processes = {pod: process for pod, process in processes.items() if process.counters}
    if not processes:
        raise ConfigError(f"no engine in the data: no series with label {config.labels.pod!r} and a known metric")
    start = min(process.times[0] for process in processes.values())
    end = max(process.times[-1] for process in processes.values())
    ticks = math.floor((end - start) / tick)
    if ticks < 2:
        raise ConfigError(f"the data covers {end - start:.0f} s; that is less than two ticks")
    columns = _columns(processes.values())
    tables, scraped = {}, {}
    for pod, process in processes.items():
        deltas = process.deltas(columns)
        index = np.ceil((process.times - start) / tick).astype(int) - 1
        inside = (index >= 0) & (index < ticks)
        inside[0] = False  # a baseline
        table = np.zeros((ticks, columns.width))
        np.add.at(table, index[inside], deltas[inside])
        seen = np.zeros(ticks, dtype=bool)
        seen[index[inside]] = True
        tables[pod], scraped[pod] = np.rint(table).astype(np.int32), seen
    return Recording(start, tick, columns, tables, scraped)


class _Process:
    """Totals of one process at the times of its scrapes; NaN where a scrape lacks them."""

    def __init__(self, series: Sequence[tuple[dict[str, str], Floats, Floats]], config: PrometheusConfig) -> None:
        self.times = np.unique(np.concatenate([times for _, times, _ in series]))
        by_name: dict[str, list[tuple[dict[str, str], Floats]]] = {}
        for labels, times, values in series:
            row = np.full(len(self.times), np.nan)
            row[np.searchsorted(self.times, times)] = np.where(np.isfinite(values) & (values >= 0), values, np.nan)
            by_name.setdefault(labels.get("__name__", ""), []).append((labels, row))
        self.counters: dict[str, Floats] = {}
        for ours, metric in names.COUNTERS.items():
            name = next((name for name in _names(ours, metric, config) if name in by_name), None)
            if name is not None:
                rows = [row for labels, row in by_name[name] if metric.matches(labels)]
                self.counters[ours] = _sum(rows) if rows else np.zeros(len(self.times))
        self.histograms: dict[str, tuple[tuple[float, ...], Floats]] = {}
        for ours, metric in names.HISTOGRAMS.items():
            name = next((name for name in _names(ours, metric, config) if f"{name}_bucket" in by_name), None)
            if name is not None:
                found = _buckets(by_name[f"{name}_bucket"])
                if found is not None:
                    self.histograms[ours] = found
        started = by_name.get(names.STARTED)
        self.started = _filled(started[0][1]) if started else None

    def deltas(self, columns: Columns) -> Floats:
        """Events between a scrape and the one before, shape (scrapes, columns.width)."""
        totals = np.zeros((len(self.times), columns.width))
        for number, name in enumerate(columns.counters):
            if name in self.counters:
                totals[:, number] = _filled(self.counters[name])
        for name, (edges, first) in columns.histograms.items():
            if name in self.histograms and self.histograms[name][0] == edges:
                totals[:, first : first + len(edges) + 1] = _filled(self.histograms[name][1])
        before = np.vstack([np.zeros(columns.width), totals[:-1]])
        restarted = self._restarted(totals, before, columns)
        return np.where(restarted[:, None], totals, np.maximum(totals - before, 0.0))

    def _restarted(self, totals: Floats, before: Floats, columns: Columns) -> NDArray[np.bool_]:
        count = len(columns.counters)
        fell = np.any(totals[:, :count] < before[:, :count], axis=1)
        for edges, first in columns.histograms.values():
            width = slice(first, first + len(edges) + 1)
            fell = fell | (totals[:, width].sum(axis=1) < before[:, width].sum(axis=1))
        if self.started is not None:
            fell = fell | (np.diff(self.started, prepend=self.started[0]) > START_TOLERANCE)
        restarted: NDArray[np.bool_] = np.asarray(fell)
        return restarted


def _names(ours: str, metric: names.Metric, config: PrometheusConfig) -> Iterator[str]:
    yield from [config.metrics[ours]] if ours in config.metrics else [name for name, _ in metric.names]


def _sum(rows: Sequence[Floats]) -> Floats:
    """Sum of series: one that is not there yet is nothing, one that was there keeps its total."""
    total: Floats = np.nansum([_filled(row) for row in rows], axis=0)
    return total


def _buckets(rows: Sequence[tuple[dict[str, str], Floats]]) -> tuple[tuple[float, ...], Floats] | None:
    """Finite edges and plain (not cumulative) totals, shape (scrapes, edges + 1)."""
    by_edge: dict[float, list[Floats]] = {}
    try:
        for labels, row in rows:
            by_edge.setdefault(float(labels["le"]), []).append(row)
    except (KeyError, ValueError):  # a series without a number for its edge: no histogram
        return None
    edges = sorted(by_edge)
    if not edges or edges[-1] != math.inf:
        return None
    cumulative = np.stack([_sum(by_edge[edge]) for edge in edges], axis=1)
    return tuple(edges[:-1]), np.maximum(np.diff(cumulative, axis=1, prepend=0.0), 0.0)


def _filled(values: Floats) -> Floats:
    """NaN replaced by the value before it, and by 0 at the start."""
    known = ~np.isnan(values)
    index = np.where(known, np.arange(len(values))[(...,) + (None,) * (values.ndim - 1)], 0)
    np.maximum.accumulate(index, axis=0, out=index)
    filled: Floats = np.take_along_axis(values, index, axis=0)
    return np.nan_to_num(filled)


def _columns(processes: Iterable[_Process]) -> Columns:
    """Columns that fit all processes; a histogram takes the edges of the first that has it."""
    counters: dict[str, None] = {}
    edges: dict[str, tuple[float, ...]] = {}
    for process in processes:
        counters.update(dict.fromkeys(process.counters))
        for name, (found, _) in process.histograms.items():
            edges.setdefault(name, found)
    first, histograms = len(counters), {}
    for name, found in edges.items():
        histograms[name] = (found, first)
        first += len(found) + 1
    return Columns(tuple(counters), histograms)
