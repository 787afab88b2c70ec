"""One-sided non-inferiority of paired scores: is the candidate, item by item, worse than the baseline by a margin?

Pairing removes what makes questions hard or easy, which is most of the variance of an accuracy: the same 200 questions
asked twice differ far less than two samples of 200 questions. A three-way answer needs two one-sided statements, each
at the stated confidence: "not worse than the margin" and "worse than the margin".

Scores are better when higher and lie in [0, 1]. Positive differences favour the candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from servegate.stats import special
from servegate.stats.intervals import check_level, cluster_index, finite, standard_error

Floats = NDArray[np.float64]

# Below this many changed clusters a variance is guessed rather than estimated, and two pseudo-clusters are added.
FEW_CHANGED = 10
# The bootstrap is used between these numbers of clusters: below it is anti-conservative, above it the t interval is the
# same to the third digit and a thousand times cheaper.
BOOTSTRAP_CLUSTERS = (50, 2000)
REPLICATES = 4000


@dataclass(frozen=True)
class Comparison:
    """A candidate against a baseline.

    Attributes:
        estimate: mean difference, candidate − baseline.
        low, high: one-sided bounds, each at `confidence`.
        confidence: of each bound.
        p_pass: p-value against "worse than the margin"; small: not worse.
        p_fail: p-value against "not worse than the margin"; small: worse.
        error: standard error of the estimate; None where the method has none.
        n, clusters: pairs, and independent groups of pairs.
        worse, better: pairs in which the candidate lost or won.
        method: how it was computed.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    p_pass: float
    p_fail: float
    error: float | None
    n: int
    clusters: int
    worse: int
    better: int
    method: str


def non_inferiority(
    candidate: ArrayLike,
    baseline: ArrayLike,
    margin: float,
    *,
    confidence: float = 0.95,
    clusters: Sequence[object] | None = None,
) -> Comparison:
    """Compare paired scores against a margin, by the method that fits the data.

    Right-or-wrong scores of independent items: Tango's score test, and exact McNemar on top: an unchanged model is
    called worse in at most 1 − confidence of the runs for every n. Right-or-wrong scores in clusters: cluster-robust t.
    Scores between: bias-corrected and accelerated bootstrap over clusters, or t where there are few or very many.

    Args:
        candidate, baseline: shape (n,), scores in [0, 1] of the same items in the same order.
        margin: greatest loss that is accepted, ≥ 0.
        confidence: of each one-sided statement.
        clusters: n labels; items with equal labels are not independent.

    Raises:
        ValueError: other lengths, no pairs, scores outside [0, 1], a negative margin, fewer than 2 clusters.
    """
    new, old = finite(candidate), finite(baseline)
    if new.shape != old.shape:
        raise ValueError(f"{new.size} scores against {old.size}: not pairs")
    if min(new.min(), old.min()) < 0 or max(new.max(), old.max()) > 1:
        raise ValueError("scores lie in [0, 1]")
    if not 0 <= margin < 1:
        raise ValueError(f"a margin lies in [0, 1), not {margin}")
    check_level(confidence)
    differences = new - old
    sums, sizes = _totals(differences, clusters)
    binary = all(bool(((scores == 0) | (scores == 1)).all()) for scores in (new, old))
    if binary and sums.size == new.size:
        return _tango(differences, margin, confidence)
    if sums.size < 2:
        raise ValueError("a comparison needs at least 2 clusters")
    few, many = BOOTSTRAP_CLUSTERS
    changed = int(np.count_nonzero(sums))
    if not binary and changed >= few and sums.size <= many:
        low, high, p_pass, p_fail = _bca(sums, sizes, margin, confidence)
        error, method = standard_error(differences, clusters)[0], "paired bootstrap BCa"
    else:
        low, high, p_pass, p_fail, error, method = _t(sums, sizes, margin, confidence, binary or changed < FEW_CHANGED)
    return Comparison(
        estimate=float(differences.mean()),
        low=max(-1.0, low),
        high=min(1.0, high),
        confidence=confidence,
        p_pass=p_pass,
        p_fail=p_fail,
        error=error,
        n=new.size,
        clusters=sums.size,
        worse=int(np.count_nonzero(differences < 0)),
        better=int(np.count_nonzero(differences > 0)),
        method=method,
    )


def mcnemar(worse: int, better: int) -> float:
    """One-sided exact p-value of "the candidate is not worse" (McNemar, Psychometrika 12:153, 1947).

    Given d = worse + better changed items, an unchanged model's losses are Binomial(d, ½): P(X ≥ worse). 1 when
    nothing changed.

    Raises:
        ValueError: a negative count.
    """
    if worse < 0 or better < 0:
        raise ValueError("counts are not negative")
    return 1.0 if worse == 0 else special.betainc(worse, better + 1, 0.5)


def tango_z(worse: ArrayLike, better: ArrayLike, n: int, difference: float) -> Floats:
    """Score statistic of "the difference of paired proportions is `difference`" (Tango, Stat. Med. 17:891, 1998).

    z = (better − worse − nλ) / √(n(2ŵ + λ(1 − λ))), with ŵ the probability of a loss that is most likely under λ: the
    larger root of 2nw² − (b + c + λ(c − b − 2n))w − bλ(1 − λ) = 0 for b losses and c wins.

    Args:
        worse, better: counts, any equal shapes.
        n: pairs.
        difference: λ in (−1, 1), candidate − baseline.

    Returns:
        z, of the shape of the counts.
    """
    b, c = np.asarray(worse, dtype=float), np.asarray(better, dtype=float)
    linear = -(b + c) - difference * (c - b - 2 * n)
    root = np.sqrt(np.maximum(linear * linear + 8 * n * b * difference * (1 - difference), 0.0))
    losses = np.maximum((root - linear) / (4 * n), max(0.0, -difference))
    variance = n * (2 * losses + difference * (1 - difference))
    gap = c - b - n * difference
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 1e-12, gap / np.sqrt(variance), np.where(gap == 0, 0.0, np.sign(gap) * np.inf))


def tango_bounds(worse: int, better: int, n: int, confidence: float) -> tuple[float, float]:
    """One-sided bounds of the difference of paired proportions, each at `confidence`, by inverting `tango_z`."""
    z = special.ndtri(check_level(confidence))

    def solve(target: float) -> float:
        low, high = -1.0, 1.0  # z falls as the supposed difference rises
        for _ in range(60):
            middle = (low + high) / 2
            if float(tango_z(worse, better, n, middle)) > target:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    return solve(z), solve(-z)


def p_values(worse: ArrayLike, better: ArrayLike, n: int, margin: float) -> tuple[Floats, Floats]:
    """p-values (pass, fail) of many runs of independent right-or-wrong pairs, by the rule of `p_values_of`.

    Args:
        worse, better: counts, any equal shapes.
    """
    from scipy import special as arrays  # slow to import, and no verdict needs it

    b, c = np.asarray(worse, dtype=float), np.asarray(better, dtype=float)
    exact_fail = np.where(b == 0, 1.0, arrays.betainc(np.maximum(b, 1), c + 1, 0.5))
    if margin == 0:
        return np.where(c == 0, 1.0, arrays.betainc(np.maximum(c, 1), b + 1, 0.5)), exact_fail
    z = tango_z(b, c, n, -margin)
    return arrays.ndtr(-z), np.maximum(arrays.ndtr(z), exact_fail)


def p_values_of(worse: int, better: int, n: int, margin: float) -> tuple[float, float]:
    """p-values (pass, fail) of independent right-or-wrong pairs.

    Without a margin the exact McNemar test decides both sides. With one, Tango's statistic does, and "worse" must in
    addition be shown by the exact test: the score test alone is only approximate, and a false alarm is what makes
    people switch a gate off.
    """
    if margin == 0:
        return mcnemar(better, worse), mcnemar(worse, better)
    z = float(tango_z(worse, better, n, -margin))
    return special.ndtr(-z), max(special.ndtr(z), mcnemar(worse, better))


def _tango(differences: Floats, margin: float, confidence: float) -> Comparison:
    n = differences.size
    worse, better = int(np.count_nonzero(differences < 0)), int(np.count_nonzero(differences > 0))
    low, high = tango_bounds(worse, better, n, confidence)
    p_pass, p_fail = p_values_of(worse, better, n, margin)
    return Comparison(
        estimate=(better - worse) / n,
        low=low,
        high=high,
        confidence=confidence,
        p_pass=p_pass,
        p_fail=p_fail,
        error=None,
        n=n,
        clusters=n,
        worse=worse,
        better=better,
        method="exact McNemar" if margin == 0 else "paired score (Tango) with exact McNemar",
    )


def _t(
    sums: Floats, sizes: Floats, margin: float, confidence: float, pseudo: bool
) -> tuple[float, float, float, float, float, str]:
    """Cluster-robust t; with two pseudo-clusters, one all lost and one all won, where changes are rare.

    The pseudo-clusters carry Agresti and Min's correction for paired proportions (Stat. Med. 24:729, 2005; Bonett and
    Price, J. Educ. Behav. Stat. 37:479, 2012: one more pair of each kind) from items to clusters. Without them nothing
    changed in 10 items would be certainty.
    """
    if pseudo:
        size = float(sizes.mean())
        sums, sizes = np.append(sums, (size, -size)), np.append(sizes, (size, size))
    groups, n = sums.size, float(sizes.sum())
    centre = float(sums.sum()) / n
    residuals = sums - centre * sizes
    error = math.sqrt(groups / (groups - 1) * float(residuals @ residuals)) / n
    freedom = groups - 1
    half = special.stdtrit(freedom, confidence) * error
    gap = centre + margin
    t = gap / error if error > 0 else math.copysign(math.inf, gap)
    p_fail = special.stdtr(freedom, t)
    name = ("cluster-robust t" if bool((sizes != 1).any()) else "paired t") + (" + 2" if pseudo else "")
    return centre - half, centre + half, 1 - p_fail, p_fail, error, name


def _bca(sums: Floats, sizes: Floats, margin: float, confidence: float) -> tuple[float, float, float, float]:
    """Bias-corrected and accelerated bootstrap over clusters (Efron, JASA 82:171, 1987); seeded.

    The p-values are those levels at which a bound would lie exactly at −margin (Efron and Tibshirani 1993, §15.4).
    """
    groups = sums.size
    estimate = float(sums.sum() / sizes.sum())
    rng = np.random.default_rng(20261122)
    means = np.empty(REPLICATES)
    step = max(1, 40_000 // groups)  # what fits into a processor's cache
    alike = bool((sizes == sizes[0]).all())
    for start in range(0, REPLICATES, step):
        index = rng.integers(0, groups, size=(min(step, REPLICATES - start), groups))
        weight = groups * sizes[0] if alike else sizes.take(index).sum(axis=1)
        means[start : start + step] = sums.take(index).sum(axis=1) / weight
    means.sort()
    # Ties count half: scores of few repeats are lattices.
    below = (np.count_nonzero(means < estimate) + np.count_nonzero(means <= estimate)) / (2 * REPLICATES)
    bias = special.ndtri(np.clip(below, 1 / REPLICATES, 1 - 1 / REPLICATES))
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)
    pulls = left_out.mean() - left_out
    spread = float(pulls @ pulls)
    skew = float((pulls**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0

    def bound(level: float) -> float:
        shifted = bias + special.ndtri(level)
        return float(np.quantile(means, special.ndtr(bias + shifted / (1 - skew * shifted))))

    at = (np.count_nonzero(means < -margin) + np.count_nonzero(means <= -margin)) / (2 * REPLICATES)
    shifted = special.ndtri(np.clip(at, 0.5 / REPLICATES, 1 - 0.5 / REPLICATES)) - bias
    p_pass = special.ndtr(shifted / (1 + skew * shifted) - bias)
    return bound(1 - confidence), bound(confidence), p_pass, 1 - p_pass


def _totals(differences: Floats, clusters: Sequence[object] | None) -> tuple[Floats, Floats]:
    """Sum and number of differences per cluster."""
    if clusters is None:
        return differences, np.ones(differences.size)
    index = cluster_index(clusters, differences.size)
    sums: Floats = np.bincount(index, weights=differences).astype(np.float64)
    return sums, np.bincount(index).astype(np.float64)
