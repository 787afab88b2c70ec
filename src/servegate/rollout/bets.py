"""How the checks bet: the few numbers behind all evidence, each chosen by simulation (benchmarks/rollout_decisions.py).

They change how soon a check speaks, never how often it is wrong: any stake in (0, 1) and any prior keeps the bound.
"""

from __future__ import annotations

import math
from functools import lru_cache

from servegate.stats.eprocess import Bets

STAKES = (0.1, 0.35, 0.65, 0.95)
PRIOR = (0.1, 0.25, 0.3, 0.35)
AT_ONCE = 0.75
"""Share of the wealth that bets from the start; the rest waits for defects that begin late."""
RESERVE = 0.15
"""Part of that rest which waits for an outage, and not for its time: pods that die in the tenth minute are seen as soon
as if they had died in the first."""

PRIOR_ITEMS = (0.1, 0.25, 0.45, 0.2)
AT_ONCE_ITEMS = 0.95
"""The same for answers: a release that is wrong is wrong from its first item on, and rarely in every one."""

PRIOR_FOR = (0.05, 0.1, 0.25, 0.6)
AT_ONCE_FOR = 0.7
"""The same for evidence that promotion waits for, which has more time."""

RELATIVE_CAP = 10.0
"""Largest multiple of its bound that one interval's share of failures may count as, so that one cannot decide."""
OUTAGE = 1 / 3
"""Fraction of its requests that a slot loses in an interval from which on this is an outage, and a neighbouring
interval with failures the same one. A burst as long as an interval reaches over two, and takes most of one of them."""
OUTAGE_CAP = 6.0
"""Instead of the other caps, for the later of two such intervals: a burst and a stray failure do not decide. From the
third on an interval that is an outage by itself counts in full again: no burst is that long."""
SLO_CAP = 10.0
"""The same for the fraction of bad requests."""

LOAD_RATIO = 1.5
"""Multiple of the requests a replica of stable is sent, up to which requests turned away are the candidate's doing."""
QUEUES = 0.25
"""Waiting requests per replica of stable above which latency tells how much traffic there is, not how fast it is."""
AS_FULL = 0.1
"""Part of the requests in work in a replica of the candidate: where a replica of stable has as many, there is a crowd,
and who of the two queues is chance. At a quarter, 3 % of healthy releases under overload at 1/s were blamed for it."""
DRAINS = 300.0
"""Seconds since stable queued in which a queue of the candidate may be what is left of the same crowd."""
COLDER = 0.1
"""Difference of hit rates from which on a cache counts as colder."""
RECLAIMS = 6
"""Pods of a slot whose failures may be put down to the platform: a release that is evicted again and again (for the
memory it takes, say) is not well."""
RECLAIM_NOTICED = 5.0
"""Seconds in which requests may still be sent to a pod that is gone: its address must be taken out of the gateway."""
RECLAIM_LASTS = 30.0
"""Seconds since a pod is gone in which failures may be its: clocks differ, and answers break late."""

SUSPICION = 0.5
"""Part of the limit's logarithm from which on a candidate gets no more traffic, and stable counts as breaching: under
the null an e-value reaches the square root of its limit in at most one of that many runs."""
FORGIVEN_AFTER = 4
"""Intervals without more of it after which such suspicion no longer holds a step up; the evidence itself stays."""

FADE = 0.8
"""Weight of the past per interval in the recent fraction of bad requests: a memory of about five intervals."""


@lru_cache(maxsize=256)
def bets_against(horizon: int) -> Bets:
    """Bets against a candidate, whose defect may begin at any of `horizon` intervals."""
    return Bets(stakes=STAKES, prior=PRIOR, at_once=AT_ONCE, horizon=horizon, reserve=RESERVE)


@lru_cache(maxsize=256)
def bets_on_items(horizon: int) -> Bets:
    """Bets against a candidate's answers, one item each."""
    return Bets(stakes=STAKES, prior=PRIOR_ITEMS, at_once=AT_ONCE_ITEMS, horizon=horizon)


@lru_cache(maxsize=256)
def bets_for(horizon: int) -> Bets:
    """Bets for a candidate. Some of the wealth waits: a bad minute is not held against a healthy release for long."""
    return Bets(stakes=STAKES, prior=PRIOR_FOR, at_once=AT_ONCE_FOR, horizon=horizon)


def failure_share_bound(exposed: float, odds_ratio: float) -> float:
    """Largest mean share of failures that fall on the candidate under the null hypothesis.

    Let m failures be spread over the requests of an interval, of which the candidate had the fraction `exposed`. Where
    a request's odds of failing are the same on both slots, the candidate's share of the m has mean `exposed`, whatever
    m is; with odds up to R times higher it is at most R x / (1 - x + R x). That is exact for m = 1; for larger m the
    mean of Fisher's noncentral hypergeometric distribution lies closer to `exposed`.
    """
    return odds_ratio * exposed / (1 - exposed + odds_ratio * exposed)


ODDS_RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0)
"""How many times the accepted odds the per-request test looks for."""


def per_request(
    log_wealth: tuple[float, ...], bad: float, control_bad: float, exposed: float, odds_ratio: float
) -> tuple[float, ...]:
    """Likelihood ratios after an interval whose failures each count by themselves, one per `ODDS_RATIOS`.

    Given their number, independent failures fall on the candidate like a binomial with the null's share at most
    `failure_share_bound`; a mixture of its likelihood ratios is an e-process (Lindon and Malek, NeurIPS 2022, arXiv
    2011.03567). Failures that come in bursts are not independent: this is why it is not the default.
    """
    null = failure_share_bound(exposed, odds_ratio)
    after = []
    for before, ratio in zip(log_wealth or (0.0,) * len(ODDS_RATIOS), ODDS_RATIOS, strict=True):
        other = failure_share_bound(exposed, odds_ratio * ratio)
        after.append(before + bad * math.log(other / null) + control_bad * math.log((1 - other) / (1 - null)))
    return tuple(after)


def log_e_per_request(log_wealth: tuple[float, ...]) -> float:
    """Their average, as a logarithm."""
    if not log_wealth:
        return 0.0
    top = max(log_wealth)
    return top + math.log(sum(math.exp(value - top) for value in log_wealth) / len(log_wealth))
