"""The filter of stats/shift.py over many runs at once; a test holds the two together.

Arrays have any leading axes (runs); weathers and sizes are the last ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from servegate.stats.shift import AT_ONCE, CLIP, NOISE_CAP, NOISE_PRIOR, SIZE_PRIOR, SIZES, WEATHER_PRIOR, Weather

Floats = NDArray[np.float64]


class Filter(NamedTuple):
    """State, a few floats: per weather level, answer, variance and fit; per weather and size the wealth.

    Args:
        n: intervals judged.
        since: ticks since the last one.
        last, last_noise: y and v of the last one.
        moved, moves: sum of squared moves of y over their variance by the formula, and how many.
        level, answer: the filter's prediction basis for y and for a unit step.
        variance: of `level`.
        fit: log likelihood, up to a common constant.
        wealth: log evidence.
    """

    n: Floats
    since: Floats
    last: Floats
    last_noise: Floats
    moved: Floats
    moves: Floats
    level: Floats
    answer: Floats
    variance: Floats
    fit: Floats
    wealth: Floats


def start(how: Weather, shape: tuple[int, ...] = ()) -> Filter:
    """Before the first interval."""
    one, per, cells = np.zeros(shape), np.zeros((*shape, len(how.sd))), (*shape, len(how.sd), len(SIZES))
    prior = np.full(shape, NOISE_PRIOR)
    sd2 = np.broadcast_to(np.square(how.sd), per.shape)
    return Filter(one, one, one, one + 1, prior, prior, per, per, sd2, per, np.full(cells, -np.inf))


def advance(how: Weather, state: Filter, y: Floats, v: Floats) -> Filter:
    """One more interval.

    Args:
        state: with `since` counting the ticks up to now.
        y: measured log ratio, less the margin.
        v: its variance by the formula.
    """
    y, v = np.asarray(y, float), np.asarray(v, float)
    first = state.n == 0
    noise = (v * state.moved / state.moves)[..., None]
    sd2 = np.square(how.sd)
    rho = np.where(first, 0.0, how.rho ** np.maximum(state.since, 1.0))[..., None]
    prior = rho * rho * state.variance + (1 - rho * rho) * sd2
    total = prior + noise
    root = np.sqrt(total)
    predicted, followed = rho * state.level, rho * state.answer
    e, h = y[..., None] - predicted, 1 - followed
    gain = prior / total
    z = np.clip(e / root, -CLIP, CLIP)[..., None]
    stakes = (h / root)[..., None] * np.array(SIZES)
    entering = _enters(how, state.n)[..., None, None]
    wealth = np.logaddexp(state.wealth, entering) + stakes * z - cumulant(stakes, CLIP)
    fit = state.fit - 0.5 * (np.log(total) + e * e / total)
    move = np.minimum(np.square(y - state.last) / (v + state.last_noise), NOISE_CAP)
    return Filter(
        n=state.n + 1,
        since=np.zeros_like(y),
        last=y,
        last_noise=v,
        moved=state.moved + np.where(first, 0.0, move),
        moves=state.moves + np.where(first, 0.0, 1.0),
        level=predicted + gain * e,
        answer=followed + gain * h,
        variance=prior * (1 - gain),
        fit=fit - fit.max(-1, keepdims=True),
        wealth=wealth,
    )


def log_e(how: Weather, state: Filter) -> Floats:
    """Natural logarithm of the e-value; 0 before the first interval."""
    each = state.fit[..., None] + state.wealth
    each = each.reshape(*state.n.shape, -1)
    top = np.maximum(each.max(-1), -1e6)
    prior = np.multiply.outer(WEATHER_PRIOR, SIZE_PRIOR).reshape(-1)
    betting = top + np.log(np.maximum((np.exp(each - top[..., None]) * prior).sum(-1), 1e-300))
    found: Floats = np.logaddexp(betting, _waits(how, state.n))
    return found


def cumulant(stake: Floats, clip: float) -> Floats:
    """log E exp(stake x z) for stake >= 0, where z is a standard normal clipped to [-k, k]."""
    outside = float(ndtr(-clip))
    # All of it divided by exp(stake x k), the largest value, so that nothing overflows.
    inner = np.exp(np.minimum(stake * (stake / 2 - clip), 600.0)) * (ndtr(clip - stake) - ndtr(-clip - stake))
    inner = np.where(stake > 25, 0.0, inner)
    found: Floats = stake * clip + np.log(inner + outside * (1 + np.exp(-2 * stake * clip)))
    return found


def _enters(how: Weather, n: Floats) -> Floats:
    later = math.log((1 - AT_ONCE) / how.horizon)
    return np.where(n == 0, math.log(AT_ONCE), np.where(n <= how.horizon, later, -np.inf))


def _waits(how: Weather, n: Floats) -> Floats:
    left = (1 - AT_ONCE) * np.maximum(0.0, 1 - np.maximum(n - 1, 0) / how.horizon)
    return np.where(n == 0, 0.0, np.log(np.maximum(left, 1e-300)))


def measure(
    log_edges: Floats, reference: Floats, candidate: Floats, stable: Floats, nc: Floats, nb: Floats
) -> tuple[Floats, Floats]:
    """Log ratio of two slots' latencies and its sampling variance, from bucket vectors on the same edges.

    The Mann-Whitney statistic U of the two vectors has mean 1/2 + g shift for small shifts, with g from the density at
    the edges: sum over edges of density x half of the two adjoining buckets' mass. Beyond the linear part it is
    stretched like that of a normal law. Its variance is that of the Mann-Whitney statistic with ties.

    Args:
        log_edges: logarithms of the finite edges, (k,).
        reference: a smoothed histogram of stable, (..., k + 1): where the edges lie in the distribution.
        candidate, stable: counts, (..., k + 1).
        nc, nb: how many independent values they are worth; several gaps of one request are one.
    """
    width = np.diff(log_edges)
    width = np.concatenate([width[:1], width, width[-1:]])
    p = reference / np.maximum(reference.sum(-1, keepdims=True), 1e-12)
    density = p / width
    g = ((density[..., 1:] + density[..., :-1]) * (p[..., 1:] + p[..., :-1])).sum(-1) / 4
    c = candidate / np.maximum(candidate.sum(-1, keepdims=True), 1e-12)
    b = stable / np.maximum(stable.sum(-1, keepdims=True), 1e-12)
    u = (c * (np.cumsum(b, -1) - b / 2)).sum(-1)
    variance = (1 - (p**3).sum(-1)) / 12 * (1 / nc + 1 / nb + 1 / (nc * nb))
    # Where nearly all lies in one bucket, one request in the next is chance: U moves by half of 1 / nc then.
    variance = np.maximum(variance, 0.125 / (nc * nc))
    g = np.maximum(g, 1e-6)
    low = 1 / (2 * (nc + nb))
    y = ndtri(np.clip(u, low, 1 - low)) / (math.sqrt(2 * math.pi) * g)
    if not np.any((u <= low) | (u >= 1 - low)):
        return y, variance / (g * g)
    apart = _gap(log_edges, candidate, stable) - _gap(log_edges, stable, candidate)
    return np.where(apart != 0, np.sign(apart) * np.maximum(np.abs(apart), np.abs(y)), y), variance / (g * g)


def _gap(log_edges: Floats, slow: Floats, fast: Floats) -> Floats:
    """By how much every value of one exceeds every value of the other at least; 0 where they overlap.

    U says that they are apart, but not how far.
    """
    edges = np.concatenate([[-np.inf], log_edges, [np.inf]])
    lowest = edges[(slow > 0).argmax(-1)]
    highest = edges[slow.shape[-1] - (fast > 0)[..., ::-1].argmax(-1)]
    there = (slow.sum(-1) > 0) & (fast.sum(-1) > 0) & np.isfinite(lowest) & np.isfinite(highest)
    with np.errstate(invalid="ignore"):
        return np.where(there, np.maximum(lowest - highest, 0.0), 0.0)
