"""This project's rule over all runs of a cell at once: the functions that `rollout.evidence` calls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout_bench import filters
from rollout_bench.traffic import GAPS, ITL_EDGES, TICK, TICKS, TTFT_EDGES, Draws, Floats
from servegate.rollout import bets
from servegate.stats import eprocess, shift

ALPHA = 0.01
SHARES = {"errors": 0.3, "errors-slo": 0.05, "ttft": 0.27, "itl": 0.18, "quality": 0.2}
ODDS_RATIO, MARGIN, QUALITY_MARGIN, OBJECTIVE = 1.0, math.log(1.02), 0.01, 0.05
LOAD_RATIO = 1.1
NEED, SLO_NEED = 4, 2
HORIZON = 2 * TICKS
SUITE = 2000


def limit(check: str) -> float:
    """Natural logarithm of the e-value at which a check rolls back."""
    return -math.log(ALPHA * SHARES[check])


@dataclass
class Block:
    """A tick of a latency check: which runs complete an interval, its log ratio and variance, ticks it is long."""

    use: NDArray[np.bool_]
    y: Floats
    v: Floats


def per_request(draws: Draws, metric: str, slot: int) -> Floats:
    """Requests in a histogram, runs x ticks."""
    found: Floats = getattr(draws, metric)[slot].sum(-1) / (1 if metric == "ttft" else GAPS)
    return found


def blocks(draws: Draws, metric: str, need: float = NEED) -> list[Block]:
    """Ticks are added up until both slots have enough requests."""
    edges = np.log(TTFT_EDGES if metric == "ttft" else ITL_EDGES)
    hist, per = getattr(draws, metric), 1 if metric == "ttft" else GAPS
    shape = (draws.runs, hist[0].shape[-1])
    ours, theirs, reference, found = np.zeros(shape), np.zeros(shape), np.zeros(shape), []
    for tick in range(TICKS):
        ours, theirs = ours + hist[0][:, tick], theirs + hist[1][:, tick]
        nc, nb = ours.sum(-1) / per, theirs.sum(-1) / per
        use = (nc >= need) & (nb >= need)
        faded = shift.FADE * reference + theirs / per
        y, v = filters.measure(edges, faded, ours, theirs, np.maximum(nc, 1), np.maximum(nb, 1))
        found.append(Block(use, y, v))
        reference = np.where(use[:, None], faded, reference)
        ours, theirs = np.where(use[:, None], 0.0, ours), np.where(use[:, None], 0.0, theirs)
    return found


def _keep(use: NDArray[np.bool_], new: Any, old: Any) -> Any:
    return type(new)(
        *(np.where(use.reshape((-1,) + (1,) * (np.ndim(a) - 1)), a, b) for a, b in zip(new, old, strict=True))
    )


def latency(draws: Draws, metric: str, all_blocks: list[Block], weather: shift.Weather) -> Floats:
    """Logarithm of the e-value, runs x ticks."""
    state, found = filters.start(weather, (draws.runs,)), np.zeros((draws.runs, TICKS))
    queued, most = np.full(draws.runs, np.inf), np.zeros((2, draws.runs))
    for tick, block in enumerate(all_blocks):
        state = state._replace(since=state.since + 1)
        # The most that waited at any time of the interval, as the engine keeps it.
        most = np.maximum(most, (draws.waiting[0][:, tick], draws.waiting[1][:, tick]))
        crowded = most[1] > bets.QUEUES
        queued = np.where(block.use & crowded, 0.0, queued + TICK)
        same_crowd = queued < bets.DRAINS
        if metric == "ttft":
            same_crowd |= draws.running[1][:, tick] >= bets.AS_FULL * draws.running[0][:, tick]
        use = block.use & (draws.load[:, tick] <= LOAD_RATIO) & ~crowded & ~((most[0] > 0) & same_crowd)
        use &= draws.hits[0][:, tick] >= draws.hits[1][:, tick] - bets.COLDER
        most = np.where(block.use, 0.0, most)
        state = _keep(use, filters.advance(weather, state, block.y - MARGIN, block.v), state)
        found[:, tick] = filters.log_e(weather, state)
    return found


class Wealth:
    """`eprocess.advance` and `log_e` for many runs (the test of this module compares the two)."""

    def __init__(self, how: Any, runs: int) -> None:
        self.how, self.n = how, np.zeros(runs, int)
        self.log_wealth = np.full((runs, len(how.stakes)), -np.inf)
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, how.horizon + 1))])
        timed = how.timed
        self.enters = np.concatenate([[how.at_once], timed / np.arange(1, how.horizon + 1) / harmonic[-1], [0.0]])
        self.waits = np.concatenate([[1.0 - how.reserve], np.maximum(0, timed * (1 - harmonic / harmonic[-1]))])
        self.reserve = np.full(runs, how.reserve)
        with np.errstate(divide="ignore"):
            self.prior = np.log(how.prior)

    def advance(self, use: NDArray[np.bool_], ratio: Floats, call: NDArray[np.bool_] | None = None) -> None:
        called = np.where(use & call, eprocess.CALLED * self.reserve, 0.0) if call is not None else np.zeros(len(use))
        self.reserve = self.reserve - called
        with np.errstate(divide="ignore"):
            entering = np.log(self.enters[np.minimum(self.n, len(self.enters) - 1)] + called)[:, None]
        grown = np.logaddexp(self.log_wealth, entering)
        grown = grown + np.log1p(np.array(self.how.stakes) * (ratio[:, None] - 1))
        self.log_wealth = np.where(use[:, None], grown, self.log_wealth)
        self.n = self.n + use

    def log_e(self) -> Floats:
        with np.errstate(divide="ignore"):
            waiting = np.log(self.waits[np.minimum(self.n, len(self.waits) - 1)] + self.reserve)
        found: Floats = np.logaddexp(np.logaddexp.reduce(self.log_wealth + self.prior, axis=1), waiting)
        return found


class Outages:
    """Caps and calls of `evidence_counts` for many runs."""

    def __init__(self, runs: int, usual: float) -> None:
        self.usual, self.last, self.lasted = usual, np.zeros(runs), np.zeros(runs)

    def cap(self, fraction: Floats, neighbours: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_], Floats]:
        """Largest ratio of this interval, whether the reserve is called before it, how long the outage has lasted."""
        alone = np.where(fraction >= bets.OUTAGE, 1.0, 0.0)
        same = neighbours & (np.minimum(fraction, self.last) > 0) & (np.maximum(fraction, self.last) >= bets.OUTAGE)
        lasted = np.where(same, np.maximum(self.lasted, 1) + 1, alone)
        in_full = (lasted < 2) | ((lasted > 2) & (fraction >= bets.OUTAGE))
        return np.where(in_full, self.usual, bets.OUTAGE_CAP), self.last >= bets.OUTAGE, lasted

    def keep(self, close: NDArray[np.bool_], fraction: Floats, lasted: Floats) -> None:
        self.last, self.lasted = np.where(close, fraction, self.last), np.where(close, lasted, self.lasted)


def events(draws: Draws, seen: tuple[Floats, Floats], base: tuple[Floats, Floats]) -> Floats:
    """Logarithm of the e-value about the candidate's share of the events (failures, unanswered requests)."""
    wealth, found = Wealth(bets.bets_against(HORIZON), draws.runs), np.zeros((draws.runs, TICKS))
    outages = Outages(draws.runs, bets.RELATIVE_CAP)
    served, long = np.zeros((2, draws.runs)), np.zeros(draws.runs)
    sums = np.zeros((4, draws.runs))
    for tick in range(TICKS):
        sums += seen[0][:, tick], seen[1][:, tick], base[0][:, tick], base[1][:, tick]
        long = long + 1
        ours, theirs, ran, control = sums
        close = (ran >= 1) & (control >= 1)
        served += np.where(close, sums[2:], 0.0)
        everything = np.maximum(served.sum(0), 1)
        share = served[0] / everything
        scatter = np.sqrt(draws.weight * (1 - draws.weight) / everything)
        exposed = np.where(share > draws.weight + 2 * scatter, share, draws.weight)
        bound = ODDS_RATIO * exposed / (1 - exposed + ODDS_RATIO * exposed)
        fraction = ours / np.maximum(ran, 1)
        cap, call, lasted = outages.cap(fraction, long <= 1)
        ratio = ours / np.maximum(ours + theirs, 1) / bound
        wealth.advance(close & (ours + theirs > 0), np.minimum(ratio, cap), call)
        found[:, tick] = wealth.log_e()
        outages.keep(close, fraction, lasted)
        sums, long = np.where(close, 0.0, sums), np.where(close, 0.0, long)
    return found


def objective(bad: Floats, base: Floats, at_most: float) -> Floats:
    """Logarithm of the e-value that more of the candidate's requests are bad than the objective lets pass."""
    runs = len(bad)
    wealth, found = Wealth(bets.bets_against(HORIZON), runs), np.zeros((runs, TICKS))
    outages = Outages(runs, bets.SLO_CAP)
    ours, ran, long = np.zeros(runs), np.zeros(runs), np.zeros(runs)
    for tick in range(TICKS):
        ours, ran, long = ours + bad[:, tick], ran + base[:, tick], long + 1
        close = ran >= SLO_NEED
        fraction = ours / np.maximum(ran, 1)
        cap, call, lasted = outages.cap(fraction, long <= 1)
        wealth.advance(close, np.minimum(fraction / at_most, cap), call)
        found[:, tick] = wealth.log_e()
        outages.keep(close, fraction, lasted)
        ours, ran, long = (np.where(close, 0.0, value) for value in (ours, ran, long))
    return found


def quality(draws: Draws) -> Floats:
    """Logarithm of the e-value that the candidate answers the suite worse by more than the margin."""
    wealth, found = Wealth(bets.bets_on_items(HORIZON), draws.runs), np.zeros((draws.runs, TICKS))
    bound, spent, always = (1 + QUALITY_MARGIN) / 2, np.zeros(draws.runs), np.ones(draws.runs, bool)
    for tick in range(TICKS):
        worse = (1 - draws.items[:, tick]) / 2
        mean = np.clip((SUITE * bound - spent) / (SUITE - tick), 0.0, 1.0)
        wealth.advance(always, worse / np.maximum(mean, 1e-9))
        spent += worse
        found[:, tick] = wealth.log_e()
    return found


def weather() -> shift.Weather:
    """The weather of the benchmark's plan."""
    return shift.weather(sd=0.15, lasts=-TICK / math.log(0.9), tick=TICK, horizon=HORIZON)


def outcomes(draws: Draws) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Bad requests and all requests whose fate is known, per slot: a request past its time limit is a failure."""
    bad = (draws.failures[0] + draws.unanswered[0], draws.failures[1] + draws.unanswered[1])
    return bad, (draws.requests[0] + draws.unanswered[0], draws.requests[1] + draws.unanswered[1])


def detect(draws: Draws, all_blocks: dict[str, list[Block]]) -> dict[str, Floats]:
    """Seconds until each check rolls back, per run; infinite when it does not."""
    bad, base = outcomes(draws)
    evidence = {
        "errors": events(draws, bad, base),
        "errors-slo": objective(bad[0], base[0], OBJECTIVE),
        "ttft": latency(draws, "ttft", all_blocks["ttft"], weather()),
        "itl": latency(draws, "itl", all_blocks["itl"], weather()),
        "quality": quality(draws),
    }
    return {check: first(found >= limit(check)) for check, found in evidence.items()}


def first(reached: NDArray[np.bool_]) -> Floats:
    """Seconds until a tick is reached, per run."""
    return np.where(reached.any(1), (reached.argmax(1) + 1) * TICK, np.inf)
