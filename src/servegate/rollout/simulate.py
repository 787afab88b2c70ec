"""The same `decide` over invented traffic: how often is a healthy release rolled back, and how soon a broken one?

Requests arrive by a Poisson law and are split by the weights that the plan wants. Times to first token are log-normal
and fall into vLLM's buckets; answers complete a little later, errors at once. A scenario bends this: the candidate
fails more often or is slower, a shock lies on its latency (an autoregressive process, so that good and bad minutes
last), a burst takes a slot out for some seconds, a pod dies. Every run has its own random numbers from one seed, so any
run can be repeated alone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from servegate.report.records import CanaryTick
from servegate.rollout.checks import EDGES
from servegate.rollout.decide import decide
from servegate.rollout.model import (
    Buckets,
    Observation,
    Phase,
    Preparation,
    SetWeights,
    SlotDelta,
    SlotRelease,
    State,
    start,
)
from servegate.rollout.plan import Plan
from servegate.rollout.ports import RouteStatus, SlotStatus

STABLE, CANDIDATE = "blue", "green"
_RELEASES = {
    STABLE: SlotRelease(release="sha256:" + "1" * 64, name="v1"),
    CANDIDATE: SlotRelease(release="sha256:" + "2" * 64, name="v2"),
}
_LOG_EDGES = {name: np.log(np.array(edges)) for name, edges in EDGES.items()}


@dataclass(frozen=True)
class Side:
    """How one slot serves.

    Args:
        error_rate: fraction of requests that fail.
        ttft_median, ttft_sigma: seconds, and standard deviation of its logarithm. itl_median, itl_sigma: alike, of
            the gaps between tokens; those of one request are one value.
        e2e_latency: seconds until a good answer is complete.
        shock_sd, shock_rho: stationary standard deviation and autocorrelation per second of a shock on log(ttft).
        burst_at, burst_seconds, burst_error_rate: a time of trouble, in seconds since the candidate's first traffic.
        slow_share, slow_ttft, slow_itl: fraction of the requests (those of some pods) that are slower, and factors.
        dies_at: seconds since first traffic from which no replica is ready.
    """

    error_rate: float = 0.0
    ttft_median: float = 0.072
    ttft_sigma: float = 0.2
    itl_median: float = 0.012
    itl_sigma: float = 0.3
    slow_share: float = 0.0
    slow_ttft: float = 1.0
    slow_itl: float = 1.0
    e2e_latency: float = 1.5
    shock_sd: float = 0.0
    shock_rho: float = 0.9
    burst_at: float | None = None
    burst_seconds: float = 5.0
    burst_error_rate: float = 1.0
    dies_at: float | None = None


@dataclass(frozen=True)
class Scenario:
    """Both slots and their traffic.

    Args:
        broken: the candidate should be rolled back.
        burst_anywhere: `burst_at` of the candidate (or of stable, if it has one) is drawn anew for each run, evenly
            over this many seconds.
        onset: seconds since first traffic from which `stable` and `candidate` hold.
        before: how both serve before that; like stable when None.
        busy_over_quiet, day: traffic follows a sine of that length in seconds between these rates, with
            `requests_per_second` on average; every run begins at another time of the day.
    """

    name: str
    stable: Side = field(default_factory=Side)
    candidate: Side = field(default_factory=Side)
    broken: bool = False
    requests_per_second: float = 20.0
    burst_anywhere: float | None = None
    onset: float = 0.0
    before: Side | None = None
    busy_over_quiet: float = 1.0
    day: float = 86400.0


@dataclass(frozen=True)
class Run:
    """What became of one release.

    Args:
        phase: PROMOTED, ROLLED_BACK, or where it stood when time was up.
        seconds: from first traffic to the end.
        decided: seconds from first traffic to ROLLING_BACK, else None.
        weights_at: seconds since first traffic at which each weight was first wanted.
        weight: the candidate's percent when it was decided to roll back.
        cause, reason: what decided.
        requests, failures: of the candidate.
    """

    phase: Phase
    seconds: float
    decided: float | None
    weights_at: dict[float, float]
    weight: float
    cause: str
    reason: str
    requests: float
    failures: float


def simulate(plan: Plan, scenario: Scenario, seed: int, max_seconds: float = 3600.0) -> Run:
    """One release under a plan. `max_seconds` bounds invented time."""
    final: tuple[State, CanaryTick] | None = None
    weights_at: dict[float, float] = {}
    decided: float | None = None
    weight = 0.0
    first = 0.0
    for state, tick in trace(plan, scenario, seed, max_seconds):
        if state.first_traffic is not None:
            first = state.first_traffic
            weights_at.setdefault(state.weights[CANDIDATE], tick.at - first)
        if state.phase is Phase.ROLLING_BACK and decided is None:
            decided = tick.at - first
            weight = final[0].weights[CANDIDATE] if final else 0.0
        final = state, tick
    assert final is not None
    state = final[0]
    totals = state.totals.get(CANDIDATE)
    return Run(
        phase=state.phase,
        seconds=state.updated - first,
        decided=decided,
        weights_at=weights_at,
        weight=weight,
        cause=state.cause,
        reason=state.reason,
        requests=totals.requests if totals else 0.0,
        failures=totals.failures if totals else 0.0,
    )


def trace(plan: Plan, scenario: Scenario, seed: int, max_seconds: float = 3600.0) -> Iterator[tuple[State, CanaryTick]]:
    """Every tick of one run, from the first to the last."""
    world = _World(plan, scenario, seed)
    for seen in world.observations(max_seconds):
        decision = decide(plan, world.state, seen, seen.at)
        world.take(decision.state, [action for action in decision.actions if isinstance(action, SetWeights)])
        yield decision.state, decision.tick
        if decision.state.phase.finished:
            return


class _World:
    """Invented slots, router and traffic."""

    def __init__(self, plan: Plan, scenario: Scenario, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        if scenario.burst_anywhere is not None:
            at = float(self.rng.uniform(0, scenario.burst_anywhere))
            if scenario.candidate.burst_at is not None:
                scenario = replace(scenario, candidate=replace(scenario.candidate, burst_at=at))
            if scenario.stable.burst_at is not None:
                scenario = replace(scenario, stable=replace(scenario.stable, burst_at=at))
        self.plan, self.scenario = plan, scenario
        self.state = start(
            rollout="simulated", plan=plan.identity(), stable=STABLE, candidate=CANDIDATE, slots=_RELEASES, now=0.0
        )
        self.served = dict(self.state.weights)
        self.hour = float(self.rng.uniform(0, scenario.day)) if scenario.busy_over_quiet > 1 else 0.0
        self.slots = {STABLE: _Slot(scenario.stable, self.rng), CANDIDATE: _Slot(scenario.candidate, self.rng)}

    def take(self, state: State, writes: list[SetWeights]) -> None:
        """Carry a decision out: the router serves new weights from now on."""
        self.state = state
        for write in writes:
            self.served = dict(write.weights)

    def observations(self, max_seconds: float) -> Iterator[Observation]:
        """One observation per tick of the plan."""
        tick = self.plan.tick
        for number in range(1, math.ceil(max_seconds / tick) + 1):
            now = number * tick
            since = now - self.state.first_traffic if self.state.first_traffic is not None else -1.0
            like = (self.scenario.before or self.scenario.stable) if since < self.scenario.onset else None
            deltas, status = {}, {}
            for name, slot in self.slots.items():
                rate = self._rate(now) * self.served[name] / 100
                dead = slot.side.dies_at is not None and since >= slot.side.dies_at
                deltas[name] = slot.serve(rate * tick, since, tick, dead, like)
                status[name] = SlotStatus(release=_RELEASES[name].release, replicas=1, ready=0 if dead else 1)
            yield Observation(
                at=now,
                slots=deltas,
                status=status,
                route=RouteStatus(accepted=True, weights=self.served),
                preparation=Preparation(verdict="pass", smoke="ok", warm="ok"),
            )

    def _rate(self, now: float) -> float:
        ratio, scenario = self.scenario.busy_over_quiet, self.scenario
        swing = (ratio - 1) / (ratio + 1)
        return scenario.requests_per_second * (1 + swing * math.sin(2 * math.pi * (now + self.hour) / scenario.day))


class _Slot:
    """One slot's requests."""

    def __init__(self, side: Side, rng: np.random.Generator) -> None:
        self.side, self.rng = side, rng
        self.shock = float(rng.normal(0, side.shock_sd)) if side.shock_sd else 0.0
        self.under_way: deque[int] = deque()
        self.laws: dict[tuple[str, float], NDArray[np.float64]] = {}

    def serve(self, mean: float, since: float, tick: float, dead: bool, like: Side | None) -> SlotDelta:
        side = like or self.side
        n = int(self.rng.poisson(mean))
        p = 1.0 if dead else side.error_rate
        if self.side.burst_at is not None and 0 <= since - self.side.burst_at < self.side.burst_seconds:
            p = max(p, self.side.burst_error_rate)
        failed = int(self.rng.binomial(n, p)) if p else 0
        if self.side.shock_sd:
            rho = self.side.shock_rho**tick
            self.shock = rho * self.shock + float(self.rng.normal(0, self.side.shock_sd * math.sqrt(1 - rho * rho)))
        good = n - failed
        slow = int(self.rng.binomial(good, side.slow_share)) if side.slow_share else 0
        ttft = self._buckets("ttft", good - slow, slow, side.ttft_median, side.slow_ttft, side.ttft_sigma)
        itl = self._buckets("itl", good - slow, slow, side.itl_median, side.slow_itl, side.itl_sigma)
        self.under_way.append(good)
        lag = max(1, round(side.e2e_latency / tick))
        done = self.under_way.popleft() if len(self.under_way) > lag else 0
        return SlotDelta.model_construct(
            gateway=True,
            pods=0 if dead else 1,
            counters={"gateway_requests": float(done + failed), "gateway_5xx": float(failed)},
            histograms={"ttft": ttft, "itl": itl},
            gauges={"running": float(sum(self.under_way)), "waiting": 0.0},
            missing={},
        )

    def _buckets(self, name: str, usual: int, slow: int, median: float, factor: float, sigma: float) -> Buckets:
        centre = math.log(median) + self.shock
        counts = self.rng.multinomial(usual, self._law(name, centre, sigma))
        if slow:
            counts = counts + self.rng.multinomial(slow, self._law(name, centre + math.log(factor), sigma))
        return Buckets.model_construct(edges=EDGES[name], counts=tuple(map(float, counts)), sum=0.0)

    def _law(self, name: str, mu: float, sigma: float) -> NDArray[np.float64]:
        law = self.laws.get((name, mu))
        if law is None:
            below = ndtr((_LOG_EDGES[name] - mu) / sigma)
            law = np.diff(below, prepend=0.0, append=1.0)
            if not self.side.shock_sd:
                self.laws[(name, mu)] = law
        return law


def standard(requests_per_second: float = 20.0, base_error_rate: float = 0.0) -> list[Scenario]:
    """The scenarios that the documentation's table shows."""
    base = Side(error_rate=base_error_rate)

    def scenario(name: str, *, broken: bool = False, **candidate: float) -> Scenario:
        return Scenario(name, base, replace(base, **candidate), broken=broken, requests_per_second=requests_per_second)

    burst = scenario("healthy, one burst of 5 s on the candidate", burst_at=0.0)
    return [
        scenario("healthy"),
        scenario("healthy, shocks of 15 % on the candidate's latency", shock_sd=0.15),
        replace(burst, burst_anywhere=85.0),
        replace(
            scenario("healthy, one burst of 5 s on stable"),
            stable=replace(base, burst_at=0.0),
            burst_anywhere=85.0,
        ),
        Scenario(
            "healthy, both slots twice as slow from 30 s on",
            replace(base, ttft_median=2 * base.ttft_median),
            replace(base, ttft_median=2 * base.ttft_median),
            requests_per_second=requests_per_second,
            onset=30.0,
            before=base,
        ),
        scenario("errors 10 %", broken=True, error_rate=max(0.1, base_error_rate)),
        scenario("ttft x2", broken=True, ttft_median=2 * base.ttft_median),
        replace(
            scenario("ttft x2 from 28 s on", broken=True, ttft_median=2 * base.ttft_median), onset=28.0, before=base
        ),
    ]
