"""Is one slot slower than the other? Sequential evidence of a lasting shift that sees through passing weather.

Every interval gives one number y_t: the logarithm of how many times slower the candidate is than stable, from their two
bucket vectors (`measure`). Two slots of the same release differ too: a noisy neighbour, a long prompt, a fuller batch
push one of them up for a while. A test that takes intervals as independent condemns healthy releases for that weather.
So the model is

    y_t = shift + s_t + noise_t,   s_t = rho s_{t-1} + sqrt(1 - rho^2) sd w_t,   Var(noise_t) = v_t from the counts,

and the null hypothesis is shift <= 0 under any weather (sd, rho) of a grid up to the worst that is called healthy.
A Kalman filter per weather turns y into innovations e_t with variance S_t; a lasting shift of size mu moves e_t by
mu h_t, where h_t is the filter's answer to a unit step. Evidence:

* For one weather and one mu: prod exp(l_t z_t - c(l_t)) with z_t = clip(e_t / sqrt(S_t), -k, k),
  l_t = mu h_t / sqrt(S_t) and c the cumulant of a clipped standard normal (`cumulant`). It is a martingale under
  Gaussian weather. Because of the clipping no interval multiplies it by more than 1 / P(Z >= k), so that a burst is one
  piece of evidence. For shift < 0 it is a supermartingale, as l_t >= 0.
* Sizes mu are mixed, and so are starting times: a share of the wealth enters at every interval. A convex combination of
  martingales is one, and it finds defects that begin late; its bound holds over the whole run (the Shiryaev-Roberts
  statistic against T/alpha: Shin, Ramdas and Rinaldo, "E-detectors", NEJSDS, arXiv 2203.03532).
* Which weather it is, nobody knows. Universal inference (Wasserman, Ramdas and Balakrishnan, PNAS 2020,
  arXiv 1912.11436) divides the mixture over weathers of likelihood x evidence by the *largest* likelihood of a weather
  without shift. Under weather j the ratio L_i / L_j x evidence_i has expectation at most 1 for every i, so the quotient
  is an e-process under all of them at once. In quiet weather the likelihood of the rough one falls, and the test
  becomes as fast as one that had known.

The scale of the noise is learned from how much y moves from one interval to the next (`Filter.moved`), as requests may
come in bunches and gaps of one request belong together. What is proved is proved for Gaussian weather on the grid and a
known noise; how far that carries, `benchmarks/rollout_detection.py` measures.

All of it in plain floats: a filter has nine cells, and an array costs more than nine of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from scipy.special import ndtri

from servegate.stats.eprocess import logaddexp

GRID = (1.0, 0.45, 0.13)
"""Parts of the worst weather's standard deviation that make the grid of weathers."""
SIZES = (0.2, 0.4, 1.0)
"""Sizes of a shift that are looked for, as logarithms: 22 %, 49 %, 2.7 times as slow."""
WEATHER_PRIOR = (0.55, 0.2, 0.25)
SIZE_PRIOR = (0.3, 0.5, 0.2)
CLIP = 3.0
"""No interval multiplies the evidence by more than 1 / P(Z >= 3), about 740."""
AT_ONCE = 0.9
FADE = 0.97
"""Weight of the past in the histogram that resolution and scale are taken from, per interval."""
NOISE_PRIOR = 10.0
"""Intervals that the formula of the noise is worth against what is seen."""
NOISE_CAP = 9.0


@dataclass(frozen=True)
class Weather:
    """What a healthy slot may do for no reason of its own.

    Args:
        sd: stationary standard deviations of the logarithm of the latency, one per weather.
        rho: autocorrelation from tick to tick.
        horizon: intervals over which the wealth that does not bet at once enters.
    """

    sd: tuple[float, ...]
    rho: float
    horizon: int


@lru_cache(maxsize=256)
def weather(sd: float, lasts: float, tick: float, horizon: int) -> Weather:
    """Weathers up to a worst one: standard deviation `sd`, forgotten to 1/e after `lasts` seconds."""
    return Weather(tuple(sd * part for part in GRID), math.exp(-tick / lasts), horizon)


class Filter(NamedTuple):
    """State, a few floats: per weather level, answer, variance and fit; per weather and size the wealth.

    Args:
        n: intervals judged.
        last, last_noise: y and v of the last one.
        moved, moves: sum of squared moves of y over their variance by the formula, and how many.
        level, answer: the filter's prediction basis for y and for a unit step.
        variance: of `level`.
        fit: log likelihood, up to a common constant.
        wealth: log evidence, weather by weather.
    """

    n: int
    last: float
    last_noise: float
    moved: float
    moves: float
    level: tuple[float, ...]
    answer: tuple[float, ...]
    variance: tuple[float, ...]
    fit: tuple[float, ...]
    wealth: tuple[float, ...]


@lru_cache(maxsize=256)
def start(how: Weather) -> Filter:
    """Before the first interval."""
    zeros, sd2 = (0.0,) * len(how.sd), tuple(sd * sd for sd in how.sd)
    return Filter(
        0, 0.0, 1.0, NOISE_PRIOR, NOISE_PRIOR, zeros, zeros, sd2, zeros, (-math.inf,) * (len(how.sd) * len(SIZES))
    )


def advance(how: Weather, state: Filter, since: float, y: float, v: float) -> Filter:
    """One more interval.

    Args:
        since: ticks since the last one; of no meaning at the first.
        y: measured log ratio, less the margin.
        v: its variance by the formula.
    """
    noise = v * state.moved / state.moves
    rho = how.rho ** max(since, 1.0) if state.n else 0.0
    entering = _enters(how, state.n)
    level, answer, variance, fit, wealth = [], [], [], [], []
    kept, k, exp, log1p = rho * rho, 0, math.exp, math.log1p
    for i, sd in enumerate(how.sd):
        prior = kept * state.variance[i] + (1 - kept) * sd * sd
        total = prior + noise
        root, gain = math.sqrt(total), prior / total
        predicted, followed = rho * state.level[i], rho * state.answer[i]
        e, h = y - predicted, 1 - followed
        z, unit = min(max(e / root, -CLIP), CLIP), h / root
        for size in SIZES:
            stake, low, high = unit * size, state.wealth[k], entering
            if low > high:
                low, high = high, low
            # logaddexp, written out: a decision adds dozens. After the first interval `low` alone may be infinite.
            wealth.append(high + log1p(exp(low - high)) + stake * z - cumulant(stake))
            k += 1
        level.append(predicted + gain * e)
        answer.append(followed + gain * h)
        variance.append(prior * (1 - gain))
        fit.append(state.fit[i] - 0.5 * (math.log(total) + e * e / total))
    best = max(fit)
    moved, moves = state.moved, state.moves
    if state.n:
        moved += min((y - state.last) ** 2 / (v + state.last_noise), NOISE_CAP)
        moves += 1
    return Filter(
        n=state.n + 1,
        last=y,
        last_noise=v,
        moved=moved,
        moves=moves,
        level=tuple(level),
        answer=tuple(answer),
        variance=tuple(variance),
        fit=tuple(value - best for value in fit),
        wealth=tuple(wealth),
    )


def log_e(how: Weather, state: Filter) -> float:
    """Natural logarithm of the e-value; 0 before the first interval."""
    if state.n == 0:
        return 0.0
    each = [state.fit[k // len(SIZES)] + wealth for k, wealth in enumerate(state.wealth)]
    top = max(*each, -1e6)
    betting = math.fsum(share * math.exp(value - top) for share, value in zip(_PRIOR, each, strict=True))
    return logaddexp(top + math.log(max(betting, 1e-300)), _waits(how, state.n))


_PRIOR = tuple(weather_share * size_share for weather_share in WEATHER_PRIOR for size_share in SIZE_PRIOR)


def cumulant(stake: float) -> float:
    """log E exp(stake x z) for stake >= 0, where z is a standard normal clipped to [-k, k] with k = `CLIP`."""
    # All of it divided by exp(stake x k), the largest value, so that nothing overflows.
    inner = 0.0
    if stake <= 25:
        mass = math.erfc((stake - CLIP) * _ROOT_HALF) - math.erfc((stake + CLIP) * _ROOT_HALF)
        inner = 0.5 * math.exp(stake * (stake / 2 - CLIP)) * mass
    return stake * CLIP + math.log(inner + _OUTSIDE * (1 + math.exp(-2 * stake * CLIP)))


_ROOT_HALF = math.sqrt(0.5)
_OUTSIDE = 0.5 * math.erfc(CLIP * _ROOT_HALF)
"""Probability of a standard normal beyond `CLIP`."""


def _enters(how: Weather, n: int) -> float:
    if n == 0:
        return math.log(AT_ONCE)
    return math.log((1 - AT_ONCE) / how.horizon) if n <= how.horizon else -math.inf


def _waits(how: Weather, n: int) -> float:
    left = (1 - AT_ONCE) * max(0.0, 1 - (n - 1) / how.horizon)
    return math.log(max(left, 1e-300))


def measure(
    log_edges: Sequence[float],
    reference: Sequence[float],
    candidate: Sequence[float],
    stable: Sequence[float],
    nc: float,
    nb: float,
) -> tuple[float, float]:
    """Log ratio of two slots' latencies and its sampling variance, from bucket vectors on the same edges.

    The Mann-Whitney statistic U of the two vectors has mean 1/2 + g shift for small shifts, with g from the density at
    the edges: sum over edges of density x half of the two adjoining buckets' mass. Beyond the linear part it is
    stretched like that of a normal law. Its variance is that of the Mann-Whitney statistic with ties.

    Args:
        log_edges: logarithms of the finite edges, k of them, at least two.
        reference: a smoothed histogram of stable, k + 1 counts: where the edges lie in the distribution.
        candidate, stable: k + 1 counts.
        nc, nb: how many independent values they are worth; several gaps of one request are one.
    """
    all_r, all_c, all_b = (max(sum(counts), 1e-12) for counts in (reference, candidate, stable))
    g = u = cubes = below = last_p = last_density = 0.0
    for k, (r, c, b) in enumerate(zip(reference, candidate, stable, strict=True)):
        if r or last_p:
            inside = min(max(k, 1), len(log_edges) - 1)
            p = r / all_r
            density = p / max(log_edges[inside] - log_edges[inside - 1], 1e-9)
            cubes += p * p * p
            if k:
                g += (density + last_density) * (p + last_p) / 4
            last_p, last_density = p, density
        if c or b:
            u += c / all_c * (below + b / all_b / 2)
            below += b / all_b
    variance = (1 - cubes) / 12 * (1 / nc + 1 / nb + 1 / (nc * nb))
    # Where nearly all lies in one bucket, one request in the next is chance: U moves by half of 1 / nc then.
    variance = max(variance, 0.125 / (nc * nc))
    g = max(g, 1e-6)
    low = 1 / (2 * (nc + nb))
    y = float(ndtri(min(max(u, low), 1 - low))) / (math.sqrt(2 * math.pi) * g)
    if u <= low or u >= 1 - low:
        apart = _gap(log_edges, candidate, stable) - _gap(log_edges, stable, candidate)
        if apart:
            y = math.copysign(max(abs(apart), abs(y)), apart)
    return y, variance / (g * g)


def _gap(log_edges: Sequence[float], slow: Sequence[float], fast: Sequence[float]) -> float:
    """By how much every value of one exceeds every value of the other at least; 0 where they overlap.

    U says that they are apart, but not how far.
    """
    lowest = next((k for k, count in enumerate(slow) if count > 0), 0)
    highest = next((k for k in range(len(fast) - 1, -1, -1) if fast[k] > 0), len(log_edges))
    if lowest == 0 or highest == len(log_edges):
        return 0.0
    return max(log_edges[lowest - 1] - log_edges[highest], 0.0)


__all__ = ["Filter", "Weather", "advance", "cumulant", "log_e", "measure", "start", "weather"]
