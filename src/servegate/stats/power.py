"""What a check can see: the chance that it passes an unchanged model, fails a worse one, and what it cannot tell.

Computed before anything runs, because a gate that alarms on nothing is switched off, and a gate that cannot see the
drop people fear is a green light painted on the wall.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from servegate.stats.intervals import wilson
from servegate.stats.mde import POWER
from servegate.stats.paired import p_values

Floats = NDArray[np.float64]
_EXACT_PAIRS = 5000
# How many detectable effects beyond the margin a loss is that FAILs in 95 % of the runs; the rest is for rounding.
LARGER = 1.35
_SURE = 0.955
# One-sided confidence of what is taken from a single A/A run.
_CAUTION = 0.8


@dataclass(frozen=True)
class Chance:
    """Probabilities of the answers of a check; what is missing to 1 is INCONCLUSIVE."""

    passes: float
    fails: float


def pairs(n: int, discordance: float, margin: float, alpha: float, drop: float = 0.0) -> Chance:
    """Exact chances for right-or-wrong pairs of independent items (normal beyond 5,000 pairs).

    An unchanged model answers a share `discordance` of the items differently by chance, losses and wins alike; a worse
    one loses `drop` on top. All numbers of losses and wins that together matter are enumerated (the trinomial
    distribution) and decided by the rule the gate uses.

    Args:
        n: pairs.
        discordance: share of items that differ between two runs of the same model.
        margin: accepted loss.
        alpha: one-sided level at which p decides.
        drop: true loss.

    Raises:
        ValueError: n < 1, or shares that are no probabilities.
    """
    lose, win = discordance / 2 + drop, discordance / 2
    if n < 1 or not (win >= 0 and lose >= 0 and lose + win <= 1):
        raise ValueError(f"no such pairs: n {n}, discordance {discordance}, drop {drop}")
    if n > _EXACT_PAIRS:
        error = math.sqrt((discordance + drop - drop * drop) / n)
        z = float(special.ndtri(1 - alpha))
        gap = (margin - drop) / error if error > 0 else math.copysign(math.inf, margin - drop)
        return Chance(float(special.ndtr(gap - z)), float(special.ndtr(-gap - z)))
    worse, better = _likely(n, lose)[:, None], _likely(n, win)[None, :]
    same = n - worse - better
    possible = same >= 0
    rest = np.maximum(same, 0)
    log_weight = (
        math.lgamma(n + 1)
        - special.gammaln(worse + 1)
        - special.gammaln(better + 1)
        - special.gammaln(rest + 1)
        + special.xlogy(worse, lose)
        + special.xlogy(better, win)
        + special.xlogy(rest, 1 - lose - win)
    )
    weight = np.where(possible, np.exp(log_weight), 0.0)
    p_pass, p_fail = p_values(worse + 0 * better, better + 0 * worse, n, margin)
    return Chance(float(weight[p_pass <= alpha].sum()), float(weight[p_fail <= alpha].sum()))


def supposed_discordance(differing: int, n: int) -> float:
    """The discordance to plan with when one A/A run of n items had so many that differed.

    The upper end of a one-sided 80 % Wilson bound, because the run's own share is too small as often as too large: a
    plan that trusted it would promise 99 % PASS and keep 97.7 % (n 100, discordance 5 %; benchmarks/gate_rules.py).

    Raises:
        ValueError: more items that differ than items, or none at all.
    """
    return wilson(differing, n, 2 * _CAUTION - 1).high


def supposed_error(error: float, freedom: int) -> float:
    """The standard error to plan with when an A/A run with so many degrees of freedom had `error`; as above, χ² bound.

    Raises:
        ValueError: no degrees of freedom.
    """
    if freedom < 1:
        raise ValueError("a standard error needs degrees of freedom")
    return error * math.sqrt(freedom / float(special.chdtri(freedom, _CAUTION)))


def with_loss(error: float, clusters: float, drop: float) -> float:
    """Standard error of a mean difference when a loss of `drop` comes on top of the noise that `error` was taken from.

    A loss makes runs differ more. It is supposed to befall whole clusters, which is the worst case: the variance grows
    by drop · (1 − drop) / clusters. Left out, a loss that was promised to FAIL in 95 % did so in 59 to 88 % of the runs
    (five items a cluster, half of the changes shared; benchmarks/gate_rules.py).
    """
    return math.sqrt(error * error + max(0.0, drop * (1 - drop)) / clusters)


def extended_pairs(
    looks: Sequence[int], discordance: float, margin: float, levels: Sequence[float], drop: float = 0.0
) -> Chance:
    """Chances of right-or-wrong pairs after all extensions, by simulation of 20,000 runs (seeded; error ≤ 0.0036).

    Args:
        looks: pairs at each look, rising.
        levels: p-value that decides at each look.
        discordance, margin, drop: as `pairs`.

    Raises:
        ValueError: as `pairs`.
    """
    lose, win = discordance / 2 + drop, discordance / 2
    if not (win >= 0 and lose >= 0 and lose + win <= 1):
        raise ValueError(f"no such pairs: discordance {discordance}, drop {drop}")
    rng = np.random.default_rng(20261122)
    counts = np.zeros((20_000, 3))
    before = 0

    def look(n: int) -> tuple[Floats, Floats]:
        nonlocal before
        counts[:] += rng.multinomial(n - before, [lose, win, max(0.0, 1 - lose - win)], size=counts.shape[0])
        before = n
        return p_values(counts[:, 0], counts[:, 1], n, margin)

    return _after_all(looks, levels, look)


def extended_differences(
    looks: Sequence[int], error: float, margin: float, levels: Sequence[float], drop: float = 0.0
) -> Chance:
    """Chances of differences after all extensions, by simulation of normal means; `error` is that of the last look."""
    rng = np.random.default_rng(20261122)
    total = np.zeros(20_000)
    before = 0

    def look(n: int) -> tuple[Floats, Floats]:
        nonlocal before
        share = (n - before) / looks[-1]
        total[:] += (margin - drop) / error * share + rng.normal(size=total.size) * math.sqrt(share)
        before = n
        z = total / math.sqrt(n / looks[-1])
        return np.asarray(special.ndtr(-z)), np.asarray(special.ndtr(z))

    return _after_all(looks, levels, look)


def _after_all(looks: Sequence[int], levels: Sequence[float], look: Callable[[int], tuple[Floats, Floats]]) -> Chance:
    passed = failed = None
    for n, level in zip(looks, levels, strict=True):
        p_pass, p_fail = look(n)
        if passed is None or failed is None:
            passed, failed = p_pass <= level, p_fail <= level
        else:
            passed, failed = passed | (~failed & (p_pass <= level)), failed | (~passed & (p_fail <= level))
    if passed is None or failed is None:
        raise ValueError("no looks")
    return Chance(float(passed.mean()), float(failed.mean()))


def differences(n_error: float, freedom: int, margin: float, alpha: float, drop: float = 0.0) -> Chance:
    """Chances of a t test of differences: clusters, repeats, scores between 0 and 1.

    (mean + margin)/error is noncentral t with noncentrality (margin − drop)/error.

    Args:
        n_error: standard error of the mean difference.
        freedom: degrees of freedom: clusters − 1.

    Raises:
        ValueError: an error that is not positive, or no degrees of freedom.
    """
    if not n_error > 0 or freedom < 1:
        raise ValueError("power needs a positive standard error and degrees of freedom")
    limit = float(special.stdtrit(freedom, 1 - alpha))
    shift = (margin - drop) / n_error
    if abs(shift) > 30:  # beyond the reach of the series, and of doubt
        return Chance(float(shift > 0), float(shift < 0))
    below = float(special.nctdtr(freedom, shift, -limit))
    return Chance(float(1 - special.nctdtr(freedom, shift, limit)), below)


def proportion(n: int, true: float, limit: float, level: float, *, at_least: bool) -> Chance:
    """Exact chances of an absolute check of a proportion that judges its Wilson interval.

    Args:
        n: items or requests.
        true: the proportion as it is.
        limit: what is asked.
        level: of the two-sided interval.
        at_least: whether the proportion must be at least (else at most) the limit.
    """
    counts = _likely(n, true).astype(int)
    weight = np.exp(
        math.lgamma(n + 1)
        - special.gammaln(counts + 1)
        - special.gammaln(n - counts + 1)
        + special.xlogy(counts, true)
        + special.xlogy(n - counts, 1 - true)
    )
    above = np.array([wilson(int(k), n, level).low >= limit for k in counts])
    below = np.array([wilson(int(k), n, level).high <= limit for k in counts])
    good, bad = (above, below) if at_least else (below, above)
    return Chance(float(weight[good].sum()), float(weight[bad & ~good].sum()))


def mde(chance: Callable[[float], Chance], margin: float, guess: float, power: float = POWER) -> float | None:
    """Smallest loss beyond the margin that fails with `power`, to 1 %; None when no possible loss does.

    And one that is `LARGER` times as large, where there is room for it, in 95 % of the runs. With a scatter that does
    not depend on the loss the first says the second (2.486 · 1.35 = 1.645 + 1.711); but a loss on top of what differs
    anyway makes the runs differ more, and the second then asks for a little more.

    Args:
        chance: of a true loss.
        margin: accepted loss; losses are searched beyond it.
        guess: where to begin, such as `normal_mde`.
    """

    def fails(extra: float) -> float | None:
        try:
            return chance(margin + extra).fails
        except ValueError:  # no such loss is possible
            return None

    def found(extra: float) -> bool:
        once, larger = fails(extra), fails(LARGER * extra)
        return once is not None and once >= power and (larger is None or larger >= _SURE)

    high = max(guess, 1e-4)
    while not found(high):
        high *= 1.3
        if margin + high > 1:
            return None
    low = 0.0
    while high - low > max(1e-4, high / 100):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def smallest(good: Callable[[int], bool], start: int, most: int = 1_000_000) -> int | None:
    """Smallest n from `start` with `good(n)`, to about 1 %; None beyond `most`. `good` must not turn bad again."""
    high = max(1, start)
    while not good(high):
        high = math.ceil(high * 1.5)
        if high > most:
            return None
    low = max(start - 1, high * 2 // 3 if high > start else start - 1)
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


def _likely(n: int, p: float) -> Floats:
    """Counts of Binomial(n, p) outside of which lies less than 1e-9."""
    spread = 7 * math.sqrt(n * p * (1 - p)) + 12
    return np.arange(max(0, math.floor(n * p - spread)), min(n, math.ceil(n * p + spread)) + 1, dtype=float)
