"""What other tools would have decided on the same draws: Flagger, Argo Rollouts and Kayenta, by their exact rules.

Flagger v1.44 (pkg/controller/scheduler.go): every interval each metric is compared with its range; the first that fails
adds one to a counter that success never resets; the tick after the counter has reached `threshold` rolls back. No value
(NaN) is a failure. Argo Rollouts v1.10 (analysis/analysis.go): a metric fails the run when it has failed more than
`failureLimit` times, anywhere in the run; a comparison with NaN is false, thus failed. Kayenta
(NetflixACAJudge-v1.0): a Mann-Whitney interval of the shift between the two slots' points per minute, looked at again
and again on a growing window; a metric is High when the interval's lower end exceeds a quarter of the shift and the
ratio of means exceeds the allowed increase; any High of three equally weighted metrics is below the marginal score of
75.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rollout_bench.traffic import CANDIDATE, ITL_EDGES, STABLE, TICK, TICKS, TTFT_EDGES, Draws, Floats

MINUTE = 60.0
PER_MINUTE = int(MINUTE / TICK)
MINUTES = TICKS // PER_MINUTE


@dataclass(frozen=True)
class Minutes:
    """Metrics of one slot, runs x minutes: share of failures, and 95th percentiles by `histogram_quantile`."""

    errors: Floats
    ttft: Floats
    itl: Floats


def minutes(draws: Draws, slot: int) -> Minutes:
    """What PromQL over one-minute windows returns; NaN where there were no requests."""
    requests, failures = _sum(draws.requests[slot]), _sum(draws.failures[slot] + draws.unanswered[slot])
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.where(requests > 0, failures / requests, np.nan)
    return Minutes(
        errors,
        quantile(TTFT_EDGES, _sum(draws.ttft[slot]), 0.95),
        quantile(ITL_EDGES, _sum(draws.itl[slot]), 0.95),
    )


def _sum(per_tick: Floats) -> Floats:
    shape = (len(per_tick), MINUTES, PER_MINUTE, *per_tick.shape[2:])
    found: Floats = per_tick.reshape(shape).sum(2, dtype=np.float64)
    return found


def quantile(edges: Floats, counts: Floats, q: float) -> Floats:
    """`histogram_quantile`: linear inside the bucket, the last finite edge beyond."""
    cumulative = np.cumsum(counts, -1)
    total = cumulative[..., -1]
    rank = q * total
    bucket = (cumulative < rank[..., None]).sum(-1)
    inner = np.minimum(bucket, len(edges) - 1)
    lower = np.where(inner > 0, edges[np.maximum(inner - 1, 0)], 0.0)
    before = np.where(inner > 0, np.take_along_axis(cumulative, np.maximum(inner - 1, 0)[..., None], -1)[..., 0], 0)
    inside = np.take_along_axis(counts, inner[..., None], -1)[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        value = lower + (edges[inner] - lower) * (rank - before) / inside
    value = np.where(bucket >= len(edges), edges[-1], value)
    return np.where(total > 0, value, np.nan)


@dataclass(frozen=True)
class Thresholds:
    """Settings of a threshold tool: largest error rate, 95th percentiles in seconds, and the count of failures."""

    errors: float
    ttft: float
    itl: float
    count: int


def flagger(seen: Minutes, settings: Thresholds) -> Floats:
    """Seconds until rollback per run, infinite when there is none. `count` is Flagger's `threshold`."""
    failed = (
        _outside(seen.errors, settings.errors) | _outside(seen.ttft, settings.ttft) | _outside(seen.itl, settings.itl)
    )
    when = _first(np.cumsum(failed, 1) >= settings.count)
    found = when + MINUTE
    return np.where(found <= MINUTES * MINUTE, found, np.inf)


def argo(seen: Minutes, settings: Thresholds) -> Floats:
    """The same for Argo Rollouts; `count` is `failureLimit`."""
    each = [
        _first(np.cumsum(_outside(values, limit), 1) > settings.count)
        for values, limit in ((seen.errors, settings.errors), (seen.ttft, settings.ttft), (seen.itl, settings.itl))
    ]
    return np.minimum.reduce(each)


def _outside(values: Floats, limit: float) -> Floats:
    with np.errstate(invalid="ignore"):
        return ~(values <= limit)


def _first(reached: Floats) -> Floats:
    return np.where(reached.any(1), (reached.argmax(1) + 1) * MINUTE, np.inf)


@dataclass(frozen=True)
class Judge:
    """Settings of Kayenta: normal quantile of its interval, allowed ratio of means, and minutes of the looks."""

    z: float
    increase: float
    looks: tuple[int, ...]


LOOKS = (10, 15, 20, 25, 30)
ZS = (2.326, 3.0, 3.5, 4.0, 4.75)
TOLERANCE = 0.25


def shifts(candidate: Minutes, stable: Minutes) -> Floats:
    """Per run, look, metric: ratio of means, then for each of ZS whether the interval is above the tolerance."""
    found = np.zeros((len(candidate.errors), len(LOOKS), 3, 1 + len(ZS)))
    pairs = [(getattr(candidate, name), getattr(stable, name)) for name in ("errors", "ttft", "itl")]
    for metric, (ours, theirs) in enumerate(pairs):
        for look, minute in enumerate(LOOKS):
            for run in range(len(ours)):
                c, b = ours[run, :minute], theirs[run, :minute]
                c, b = c[~np.isnan(c)], b[~np.isnan(b)]
                if len(c) and len(b) and not np.array_equal(c, b):
                    found[run, look, metric] = _mann_whitney(c, b)
    return found


def _mann_whitney(c: Floats, b: Floats) -> Floats:
    n = len(c) * len(b)
    differences = np.sort((c[:, None] - b[None, :]).ravel())
    shift = float(np.median(differences))
    _, ties = np.unique(np.concatenate([c, b]), return_counts=True)
    size = len(c) + len(b)
    variance = n / 12 * (size + 1 - float((ties**3 - ties).sum()) / (size * (size - 1)))
    mean = b.mean()
    found = np.zeros(1 + len(ZS))
    found[0] = c.mean() / mean if mean > 0 else math.nan
    for index, z in enumerate(ZS):
        rank = math.floor(n / 2 - 0.5 - z * math.sqrt(variance))
        low = differences[rank] if rank >= 0 else -math.inf
        found[1 + index] = low > TOLERANCE * abs(shift)
    return found


def kayenta(found: Floats, settings: Judge) -> Floats:
    """Seconds until the score falls below the marginal one, from `shifts`."""
    ratio, above = found[..., 0], found[..., 1 + ZS.index(settings.z)] > 0
    with np.errstate(invalid="ignore"):
        high = above & (np.isnan(ratio) | (ratio >= settings.increase))
    bad = high.any(2)
    times = np.full(len(found), np.inf)
    for look in reversed(range(len(LOOKS))):
        if LOOKS[look] in settings.looks:
            times[bad[:, look]] = LOOKS[look] * MINUTE
    return times


DOCUMENTED = {
    "Flagger": Thresholds(0.01, 1.0, 0.075, 5),
    "Argo Rollouts": Thresholds(0.05, 1.0, 0.075, 3),
    "Kayenta": Judge(2.326, 1.0, (10, 20, 30)),
}
"""What their documentation shows: success of 99 % and 95 %, a 95th percentile above the healthy one by a quarter."""

ERROR_LIMITS = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.8, 1.0)
TTFT_LIMITS = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, math.inf)
ITL_LIMITS = (0.075, 0.09, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5, 1.0, math.inf)
COUNTS = (1, 2, 3, 4, 5, 8, 12, 20)
INCREASES = (1.0, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 5.0, 10.0)


def thresholds() -> Iterator[tuple[int, tuple[tuple[float, ...], ...]]]:
    """Counts and the limits that are tried for each of the three metrics."""
    return ((count, (ERROR_LIMITS, TTFT_LIMITS, ITL_LIMITS)) for count in COUNTS)


def judges() -> Iterator[Judge]:
    """Settings of Kayenta that are tried."""
    return (Judge(z, increase, LOOKS) for z, increase in itertools.product(ZS, INCREASES))


def both(draws: Draws) -> tuple[Minutes, Minutes]:
    """Metrics of candidate and stable."""
    return minutes(draws, CANDIDATE), minutes(draws, STABLE)
