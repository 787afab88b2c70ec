"""E-processes for bounded observations: evidence that may be looked at after every interval.

A bet is made on each interval before it is seen. If the null hypothesis holds, no way of betting gains in expectation,
so the wealth E_t satisfies P(there is a t with E_t >= 1/a) <= a (Ville 1939): looking often costs nothing, and stopping
at will is allowed. The observation of an interval is one bounded number, so whatever happens *inside* an interval
(bursts, requests that influence each other) is covered without any assumption.

Null hypothesis: the observations x_t lie in [0, c] and E[x_t | everything before t] <= m_t, where m_t is known before
x_t is. With the fraction f of the wealth at stake the factor is 1 + f (x_t / m_t - 1); it is never below 1 - f, and its
conditional expectation is at most 1 (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS-B 2024, arXiv 2010.09686). Two mixtures keep the bets from having to be tuned:

* over f, because the best stake depends on the size of the effect, which nobody knows;
* over the time a defect begins. A martingale that has seen an hour of good service needs as long to forget it. Here a
  share w_s of the wealth waits and enters only at interval s; a convex combination of martingales that start late is
  one again, so the bound holds for the whole run without a word about "average run length". With w spread evenly over
  T intervals this is the Shiryaev-Roberts statistic compared with T/a (Shin, Ramdas and Rinaldo, "E-detectors",
  NEJSDS, arXiv 2203.03532); here most enters at once, so that early defects cost next to nothing, and the rest as 1/s.

A reserve waits for a call instead of a time: whoever has just seen an interval that looks like an outage lets most of
what is left of it enter before the next one. When to bet how much may depend on all that was seen before the bet, so
the bound is the same; a call costs a constant, where a share that entered by the clock has become small by then. A call
for nothing loses what it let in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

CALLED = 0.6
"""Part of what is left of the reserve that a call lets in: the first outage is mostly the real one."""


@dataclass(frozen=True, eq=False)
class Bets:
    """How to bet. Compared and hashed by identity, which is quick: make each once.

    Args:
        stakes: fractions of the wealth at stake, each in (0, 1).
        prior: initial share of each stake; sums to 1.
        at_once: share of the wealth that bets from the first interval on, in (0, 1].
        horizon: number of intervals over which the rest enters; what has not entered by then never does.
        reserve: share that enters when it is called, in [0, 1 - at_once].
    """

    stakes: tuple[float, ...]
    prior: tuple[float, ...]
    at_once: float
    horizon: int
    reserve: float = 0.0

    def __post_init__(self) -> None:
        if not self.stakes or len(self.stakes) != len(self.prior):
            raise ValueError("as many stakes as shares in the prior, at least one")
        if not all(0 < stake < 1 for stake in self.stakes):
            raise ValueError("a stake is between 0 and 1")
        if not math.isclose(sum(self.prior), 1) or min(self.prior) < 0:
            raise ValueError("the prior is a distribution")
        if not 0 < self.at_once <= 1 or self.horizon < 1:
            raise ValueError("at_once is in (0, 1], horizon at least 1")
        if not 0 <= self.reserve <= 1 - self.at_once:
            raise ValueError("the reserve is in [0, 1 - at_once]")

    @cached_property
    def timed(self) -> float:
        """Share that enters by the clock."""
        return 1 - self.at_once - self.reserve


def advance(
    bets: Bets, n: int, log_wealth: Sequence[float], ratios: Sequence[tuple[float, float]], call: int = 0
) -> tuple[float, ...]:
    """Wealth after interval number `n` (counted from 0), as natural logarithms, one per stake.

    Args:
        n: intervals before this one.
        log_wealth: what `advance` returned for the interval before; empty when `n` is 0.
        ratios: (x / m, times): the observation as a multiple of its largest mean under the null, at least 0; several
            when the interval holds several observations whose bound holds for each given the ones before.
        call: which call upon the reserve precedes this interval, counted from 1; 0 when none does. It may depend on
            nothing that is seen in the interval.
    """
    entering = _log_enters(bets, n, call)
    before = log_wealth or (-math.inf,) * len(bets.stakes)
    after = []
    for stake, wealth in zip(bets.stakes, before, strict=True):
        gain = 0.0
        for ratio, times in ratios:
            gain += times * math.log1p(stake * (ratio - 1))
        after.append(logaddexp(wealth, entering) + gain)
    return tuple(after)


@lru_cache(maxsize=1024)
def log_e(bets: Bets, n: int, log_wealth: tuple[float, ...], calls: int = 0) -> float:
    """Natural logarithm of the e-value after `n` intervals and `calls` upon the reserve; 0 before the first."""
    if n == 0:
        return 0.0
    top = max(log_wealth)
    betting = 0.0
    for share, wealth in zip(bets.prior, log_wealth, strict=True):
        betting += share * math.exp(wealth - top)
    in_play = top + math.log(betting) if betting > 0 else -math.inf
    return logaddexp(in_play, _log_waits(bets, n, calls))


@lru_cache(maxsize=4096)
def _harmonic(n: int) -> float:
    if n < 100:
        return math.fsum(1 / k for k in range(1, n + 1))
    # Euler and Maclaurin; the next term is below 4e-15 here.
    return math.log(n) + _EULER + 1 / (2 * n) - 1 / (12 * n**2) + 1 / (120 * n**4)


_EULER = 0.5772156649015329


@lru_cache(maxsize=4096)
def _log_enters(bets: Bets, n: int, call: int) -> float:
    """Logarithm of the share of the wealth that enters before interval n, with this call upon the reserve or none."""
    if n == 0:
        share = bets.at_once
    elif n <= bets.horizon:
        share = bets.timed / (n * _harmonic(bets.horizon))
    else:
        share = 0.0
    if call:
        share += CALLED * _reserve(bets, call - 1)
    return math.log(share) if share > 0 else -math.inf


@lru_cache(maxsize=4096)
def _log_waits(bets: Bets, n: int, calls: int) -> float:
    """Logarithm of the share that has not entered after n intervals, at least one, and so many calls."""
    share = _reserve(bets, calls)
    if n <= bets.horizon:
        share += max(0.0, bets.timed * (1 - _harmonic(n - 1) / _harmonic(bets.horizon)))
    return math.log(share) if share > 0 else -math.inf


def _reserve(bets: Bets, calls: int) -> float:
    return float(bets.reserve * (1 - CALLED) ** calls)


def logaddexp(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a == -math.inf:
        return b
    if b == -math.inf:
        return a
    top, low = (a, b) if a >= b else (b, a)
    return top + math.log1p(math.exp(low - top))
