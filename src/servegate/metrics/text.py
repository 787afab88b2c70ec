"""Prometheus text → samples by name. Reads only the names that are wanted.

An engine exports some 700 lines, most of them buckets nobody reads, and anything may stand in them. Lines of other
names are dropped before parsing: a tick stays cheap, and a broken line of a stranger's metric cannot blind us.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise

Labels = Mapping[str, str]
Sample = tuple[Labels, float]

# A metric is named by its TYPE line, or by a sample.
_NAME = re.compile(r"(# TYPE )?([a-zA-Z_:][a-zA-Z0-9_:]*)")
_SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass(frozen=True)
class Exposition:
    """What one scrape said.

    Args:
        names: metrics that are exported, also those without any series yet: exported and empty is zero,
            not exported is unknown.
        samples: (labels, value) per sample name, such as `x_total` or `x_bucket`.
    """

    names: frozenset[str]
    samples: Mapping[str, tuple[Sample, ...]]


@dataclass(frozen=True)
class Buckets:
    """Cumulative histogram: `counts[i]` values are at most `edges[i]`; the last edge is infinity."""

    edges: tuple[float, ...]
    counts: tuple[float, ...]
    sum: float


def families(text: str) -> frozenset[str]:
    """Names of all metrics that `/metrics` declares, as `parse` takes them."""
    return frozenset(match[2] for line in text.split("\n") if (match := _NAME.match(line)) and match[1])


def parse(text: str, wanted: Collection[str]) -> Exposition:
    """Parse the lines of the wanted metrics.

    Args:
        text: the whole answer of `/metrics`.
        wanted: names as exported: a counter with `_total`, a histogram without suffix.

    Raises:
        ValueError: a wanted line is not Prometheus text.
    """
    from prometheus_client.parser import text_string_to_metric_families

    accepted = {name + suffix: name for name in wanted for suffix in ("", *_SUFFIXES)}
    names: set[str] = set()
    kept: list[str] = []
    for line in text.split("\n"):
        match = _NAME.match(line)
        if match and match[2] in accepted:
            names.add(accepted[match[2]])
            if not match[1]:
                kept.append(line)
    samples: dict[str, list[Sample]] = {}
    try:
        for family in text_string_to_metric_families("\n".join(kept) + "\n"):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append((sample.labels, float(sample.value)))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not Prometheus text: {str(error)[:200]}") from error
    return Exposition(frozenset(names), {name: tuple(rows) for name, rows in samples.items()})


def total(rows: Collection[Sample]) -> float | None:
    """Sum of counter series; None when one is not a count (NaN, infinite, negative)."""
    values = [value for _, value in rows]
    return sum(values) if all(math.isfinite(value) and value >= 0 for value in values) else None


def histogram(exposition: Exposition, name: str) -> Buckets | None:
    """Sum of all series of a histogram (engines of one server); None when it is missing, empty or inconsistent."""
    buckets: dict[float, float] = {}
    try:
        for labels, value in exposition.samples.get(f"{name}_bucket", ()):
            edge = float(labels["le"])
            buckets[edge] = buckets.get(edge, 0.0) + value
    except (KeyError, ValueError):
        return None
    amount = total(exposition.samples.get(f"{name}_sum", ()))
    edges = tuple(sorted(buckets))
    counts = tuple(buckets[edge] for edge in edges)
    if amount is None or not edges or edges[-1] != math.inf or any(math.isnan(edge) for edge in edges):
        return None
    if not all(math.isfinite(count) and count >= 0 for count in counts):
        return None
    if any(later < earlier for earlier, later in pairwise(counts)):
        return None
    return Buckets(edges, counts, amount)
