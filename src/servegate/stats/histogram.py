"""Bucket vectors: what a Prometheus histogram can and cannot say.

Quantiles interpolated inside a bucket lie: with vLLM's edges a log-normal time to first token of median 0.3 s has its
true 99th percentile at 1.2 s and is shown at 1.8 s. So nothing is decided on them here. Two statistics are exact
whatever the edges: how often one slot's value is in a higher bucket than the other's, and the share above an edge.
Counts are per bucket, not cumulative; the last one is above all edges.
"""

from __future__ import annotations

from collections.abc import Sequence


def slower(candidate: Sequence[float], stable: Sequence[float]) -> float | None:
    """P(candidate > stable) + P(equal) / 2 over all pairs, from two bucket vectors on the same edges; in [0, 1].

    The Mann-Whitney statistic as a fraction, also called common-language effect size. Its expectation is a property of
    the two distributions alone, whatever the counts. Values in one bucket count as equal.

    Returns:
        None when a side has no values.
    """
    if len(candidate) != len(stable):
        raise ValueError(f"bucket vectors of {len(candidate)} and {len(stable)} counts cannot be compared")
    pairs = sum(candidate) * sum(stable)
    if pairs <= 0:
        return None
    below = wins = 0.0
    for count, control in zip(candidate, stable, strict=True):
        wins += count * (below + control / 2)
        below += control
    return wins / pairs


def fraction_over(edges: Sequence[float], counts: Sequence[float], edge: float) -> float | None:
    """Share of values above `edge`, exactly. None when there are no values.

    Raises:
        ValueError: `edge` is not one of `edges`; the share above it is not known.
    """
    try:
        above = edges.index(edge) + 1
    except ValueError:
        raise ValueError(f"{edge:g} is not a bucket edge") from None
    total = sum(counts)
    return sum(counts[above:]) / total if total > 0 else None


def quantile(edges: Sequence[float], counts: Sequence[float], q: float) -> float | None:
    """Quantile interpolated inside its bucket, for showing only. None when there are no values.

    In the last bucket, which has no upper edge, it is the last edge: the true value is at least that.
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank, seen = q * total, 0.0
    for index, count in enumerate(counts):
        if count > 0 and seen + count >= rank:
            if index == len(edges):
                break
            low = edges[index - 1] if index else 0.0
            return low + (edges[index] - low) * max(0.0, rank - seen) / count
        seen += count
    return edges[-1] if edges else None
