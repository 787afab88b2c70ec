"""Invented traffic of two slots, all runs of a cell at once.

Arrivals are Poisson and split by the weight. Times to first token are log-normal (median 0.3 s, sigma 0.6), the mean
gap between tokens is log-normal over requests (median 30 ms, sigma 0.25) and each request shows a hundred gaps
scattered around its own level; both fall into vLLM's bucket edges. A scenario bends rate, latency, failures and quality
of either slot over time. Counts are per tick and slot, as a scrape would give them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]

TICK = 5.0
TICKS = 360
SECONDS = TICK * TICKS
TTFT_EDGES = np.array([0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40,
                       80, 160, 640, 2560])  # fmt: skip
ITL_EDGES = np.array([0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80])
TTFT, TTFT_SIGMA = 0.3, 0.6
ITL, ITL_SIGMA, GAP_SIGMA, GAPS = 0.03, 0.25, 0.3, 100
ERRORS = 0.005
DISCORD = 0.12
PODS = 2
"""Pods of the candidate; stable has as many times more as it has more traffic, so that load per pod is the same."""
BATCH = 8.0
"""Requests per pod that a batch takes in before anything waits."""
CANDIDATE, STABLE = 0, 1
RATES = (0.1, 1.0, 10.0, 50.0, 500.0)


def weight(rate: float) -> float:
    """Share of the traffic on the candidate."""
    return 0.1 if rate >= 10 else 0.5


@dataclass
class Slot:
    """How one slot serves, per run and tick (arrays broadcast to runs x ticks).

    Args:
        rate: factor on arrivals.
        ttft, itl: logarithms of factors on the latencies.
        bad: fraction of requests that fall on pods with `bad_shift` on the logarithm of their time to first token.
        errors: fraction of requests that fail.
        hanging: fraction that is never answered.
        outage: fraction lost in an outage.
        tail: fraction drawn from a far wider law.
        hits: prefix-cache hit rate.
        quality: change of the fraction of items answered correctly.
    """

    rate: Floats = field(default_factory=lambda: np.ones((1, TICKS)))
    ttft: Floats = field(default_factory=lambda: np.zeros((1, TICKS)))
    itl: Floats = field(default_factory=lambda: np.zeros((1, TICKS)))
    bad: Floats = field(default_factory=lambda: np.zeros((1, TICKS)))
    bad_shift: float = 0.0
    errors: Floats = field(default_factory=lambda: np.full((1, TICKS), ERRORS))
    hanging: Floats = field(default_factory=lambda: np.zeros((1, TICKS)))
    outage: Floats = field(default_factory=lambda: np.zeros((1, TICKS)))
    tail: float = 0.0
    hits: Floats = field(default_factory=lambda: np.full((1, TICKS), 0.5))
    quality: float = 0.0


@dataclass
class Draws:
    """What was seen. Every array is runs x ticks (x buckets), index 0 of the outer tuples is the candidate.

    Args:
        requests: completed, failures among them.
        routed: sent to the slot.
        unanswered: found to have passed their time limit.
        load: arrivals per pod, relative to stable's.
        waiting, running: requests queueing and in work per pod.
        items: difference of scores (candidate - stable) of the item asked at this tick.
    """

    rate: float
    weight: float
    requests: tuple[Floats, Floats]
    routed: tuple[Floats, Floats]
    failures: tuple[Floats, Floats]
    unanswered: tuple[Floats, Floats]
    ttft: tuple[Floats, Floats]
    itl: tuple[Floats, Floats]
    hits: tuple[Floats, Floats]
    waiting: tuple[Floats, Floats]
    running: tuple[Floats, Floats]
    load: Floats
    items: Floats

    @property
    def runs(self) -> int:
        return len(self.requests[0])


@dataclass(frozen=True)
class Scenario:
    """A row of the table.

    Args:
        onset: seconds from which a broken candidate is broken.
        metric: what the fair limit looks at; empty for a healthy one.
        effect: log ratio (latency), odds ratio (errors) or difference (quality) that the limit is told.
    """

    name: str
    broken: bool = False
    onset: float = 0.0
    metric: str = ""
    effect: float = 0.0


HEALTHY = tuple(
    Scenario(name)
    for name in (
        "iid",
        "common drift",
        "diurnal",
        "overload of both",
        "shocks 15 %, rho 0.5",
        "shocks 15 %, rho 0.9",
        "bursts of errors",
        "bunched slow requests",
        "heavy tail",
        "cold cache",
        "load ratio 0.3-1.5",
    )
)
BROKEN = (
    Scenario("errors 0.5 -> 1 %", True, 0, "errors", 0.01),
    Scenario("errors 0.5 -> 3 %", True, 0, "errors", 0.03),
    Scenario("errors 0.5 -> 20 %", True, 0, "errors", 0.20),
    Scenario("dead pods", True, 300, "errors", 0.5),
    Scenario("hanging pods", True, 300, "unanswered", 0.5),
    Scenario("TTFT x1.2", True, 0, "ttft", math.log(1.2)),
    Scenario("TTFT x1.5", True, 0, "ttft", math.log(1.5)),
    Scenario("TTFT x3", True, 0, "ttft", math.log(3)),
    Scenario("ITL x1.3", True, 0, "itl", math.log(1.3)),
    Scenario("leak", True, 0, "leak"),
    Scenario("half of the pods bad", True, 0, "half"),
    Scenario("quality -3 points", True, 0, "quality", 0.03),
    Scenario("quality -10 points", True, 0, "quality", 0.10),
)
SCENARIOS = HEALTHY + BROKEN


def ar1(rng: np.random.Generator, runs: int, sd: float, rho: float) -> Floats:
    """A stationary autoregressive process, runs x ticks."""
    found = np.empty((runs, TICKS))
    found[:, 0] = rng.normal(0, sd, runs)
    for tick in range(1, TICKS):
        found[:, tick] = rho * found[:, tick - 1] + rng.normal(0, sd * math.sqrt(1 - rho * rho), runs)
    return found


def leak(time: Floats) -> Floats:
    """Logarithm of the factor on latency of a leaking release: nothing for five minutes, then up to 2 after 25 more."""
    found: Floats = np.log1p(np.clip((time - 300) / 1500, 0, 1))
    return found


def slots(scenario: Scenario, rng: np.random.Generator, runs: int) -> tuple[Slot, Slot]:
    """How candidate and stable serve in a scenario."""
    candidate, stable = Slot(), Slot()
    time = (np.arange(TICKS) * TICK)[None, :]
    match scenario.name:
        case "common drift":
            candidate.ttft = stable.ttft = np.log(1 + time / SECONDS)
            candidate.itl = stable.itl = np.log(1 + 0.5 * time / SECONDS)
            candidate.errors = stable.errors = ERRORS * (1 + 4 * time / SECONDS)
        case "diurnal":
            wave = np.sin(2 * math.pi * time / SECONDS)
            candidate.rate = stable.rate = 1 + 0.6 * wave
            candidate.ttft = stable.ttft = 0.4 * wave
            candidate.itl = stable.itl = 0.25 * wave
        case "overload of both":
            candidate.rate = stable.rate = np.where((time >= 600) & (time < 1200), 1.15, 0.5)
        case "shocks 15 %, rho 0.5" | "shocks 15 %, rho 0.9":
            rho = float(scenario.name[-3:])
            candidate.ttft, candidate.itl = ar1(rng, runs, 0.15, rho), ar1(rng, runs, 0.15, rho)
        case "bursts of errors":
            for slot, pods in ((candidate, PODS), (stable, 0)):
                slot.outage = _bursts(rng, runs, pods)
        case "bunched slow requests":
            for slot in (candidate, stable):
                first = rng.random((runs, TICKS)) < 0.02
                second = np.roll(first, 1, axis=1) & (rng.random((runs, TICKS)) < 0.5)
                slot.bad, slot.bad_shift = np.where(first | second, 0.5, 0.0), math.log(5)
        case "heavy tail":
            candidate.tail = stable.tail = 0.05
        case "cold cache":
            left = np.exp(-time / 120)
            candidate.hits = 0.5 * (1 - left)
            candidate.ttft = math.log(1.5) * left
        case "load ratio 0.3-1.5":
            candidate.rate = rng.uniform(0.3, 1.5, (runs, 1)) * np.ones((1, TICKS))
            candidate.ttft = 0.3 * np.log(candidate.rate)
            candidate.itl = 0.2 * np.log(candidate.rate)
        case name if name.startswith("errors "):
            candidate.errors = np.full((1, TICKS), scenario.effect)
        case "dead pods":
            candidate.outage = np.where(time >= scenario.onset, 1 / PODS, 0.0)
        case "hanging pods":
            candidate.hanging = np.where(time >= scenario.onset, 1 / PODS, 0.0)
        case name if name.startswith("TTFT"):
            candidate.ttft = np.full((1, TICKS), scenario.effect)
        case name if name.startswith("ITL"):
            candidate.itl = np.full((1, TICKS), scenario.effect)
        case "leak":
            candidate.ttft = candidate.itl = leak(time)
        case "half of the pods bad":
            candidate.bad, candidate.bad_shift = np.full((1, TICKS), 0.5), math.log(2)
            candidate.errors = np.full((1, TICKS), (ERRORS + 0.03) / 2)
        case name if name.startswith("quality"):
            candidate.quality = -scenario.effect
    return candidate, stable


def _bursts(rng: np.random.Generator, runs: int, pods: int) -> Floats:
    """One pod of a slot is lost for five seconds, once per run; it mostly lies in two ticks."""
    begin = rng.uniform(0, SECONDS - 10, runs)
    covered = np.clip(
        np.minimum(begin[:, None] + 5, (np.arange(TICKS) + 1) * TICK)
        - np.maximum(begin[:, None], np.arange(TICKS) * TICK),
        0,
        TICK,
    )
    share: Floats = covered / TICK / (pods or 18)
    return share


def draw(scenario: Scenario, rate: float, runs: int, seed: int) -> Draws:
    """All runs of a cell."""
    rng = np.random.default_rng([seed, SCENARIOS.index(scenario), RATES.index(rate)])
    share = weight(rate)
    both = slots(scenario, rng, runs)
    per_slot = []
    for slot, part in zip(both, (share, 1 - share), strict=True):
        per_slot.append(
            _serve(
                slot,
                rate * part * TICK,
                round(PODS * part / share),
                rng,
                runs,
                overload=scenario.name == "overload of both",
            )
        )
    items = rng.random((runs, TICKS))
    worse = (DISCORD - both[0].quality) / 2
    # Of the items, some are answered better and some worse by an unchanged release; a defect moves the balance.
    difference = np.where(items < worse, -1.0, np.where(items < worse + (DISCORD + both[0].quality) / 2, 1.0, 0.0))
    load = np.broadcast_to(both[0].rate / both[1].rate, (runs, TICKS))
    columns = list(zip(*per_slot, strict=True))
    return Draws(rate, share, *columns, load=load, items=difference)


def _serve(
    slot: Slot, mean: float, pods: int, rng: np.random.Generator, runs: int, *, overload: bool
) -> tuple[Floats, ...]:
    shape = (runs, TICKS)
    routed = rng.poisson(np.broadcast_to(mean * slot.rate, shape))
    ttft_shift, itl_shift, waiting, running = slot.ttft, slot.itl, np.zeros(shape), np.ones(shape)
    if overload:
        waiting, running = _queue(routed, mean, pods, rng)
        queued = waiting / (mean / pods) * TICK
        ttft_shift = ttft_shift + np.log1p(queued / TTFT)
        itl_shift = itl_shift + 0.3 * np.minimum(1.0, waiting / BATCH)
    hanging = rng.binomial(routed, np.broadcast_to(slot.hanging, shape)) if slot.hanging.any() else np.zeros(shape)
    requests = routed - hanging
    # A request that hangs is known to be lost after its time limit of 30 s.
    unanswered = np.zeros(shape)
    unanswered[:, 6:] = hanging[:, :-6]
    wrong = 1 - (1 - slot.errors) * (1 - slot.outage)
    failures = rng.binomial(requests.astype(np.int64), np.broadcast_to(wrong, shape))
    good = (requests - failures).astype(np.int64)
    ttft = _histogram(rng, good, TTFT_EDGES, math.log(TTFT) + ttft_shift, TTFT_SIGMA, slot)
    itl = _gaps(rng, good, math.log(ITL) + itl_shift)
    hits = np.broadcast_to(slot.hits, shape)
    as_float = [array.astype(np.float64) for array in (requests, routed, failures, unanswered)]
    return (*as_float, ttft, itl, hits, waiting, running)


def _queue(routed: NDArray[np.int64], capacity: float, pods: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Requests that wait and that are in work, per pod: a batch takes in what fluctuates, the rest waits."""
    backlog = np.zeros((len(routed), pods))
    waiting, running = np.empty(routed.shape), np.empty(routed.shape)
    for tick in range(TICKS):
        arrived = rng.multinomial(routed[:, tick], np.full(pods, 1 / pods))
        backlog = np.maximum(0, backlog + arrived - capacity / pods)
        waiting[:, tick] = np.maximum(0, backlog - BATCH).mean(1)
        running[:, tick] = np.minimum(backlog, BATCH).mean(1)
    return waiting, running


def law(edges: Floats, mu: Floats, sigma: float) -> Floats:
    """Probabilities of the buckets, one more than edges, for a log-normal value."""
    below = ndtr((np.log(edges) - np.asarray(mu)[..., None]) / sigma)
    found: Floats = np.diff(below, prepend=0.0, append=1.0, axis=-1)
    return found


def _histogram(
    rng: np.random.Generator, n: NDArray[np.int64], edges: Floats, mu: Floats, sigma: float, slot: Slot
) -> Floats:
    p = law(edges, mu, sigma)
    if slot.bad.any():
        p = (1 - slot.bad[..., None]) * p + slot.bad[..., None] * law(edges, mu + slot.bad_shift, sigma)
    if slot.tail:
        p = (1 - slot.tail) * p + slot.tail * law(edges, mu + 1.5, 1.5)
    found: Floats = rng.multinomial(n, np.broadcast_to(p, (*n.shape, p.shape[-1]))).astype(np.float32)
    return found


LEVELS = np.linspace(-3, 3, 25)
_LEVEL_P = np.exp(-(LEVELS**2) / 2) / np.exp(-(LEVELS**2) / 2).sum()


def gap_law(shift: Floats) -> Floats:
    """Probabilities of a gap's bucket, per level of the request: (..., levels, buckets)."""
    return law(ITL_EDGES, np.asarray(shift)[..., None] + LEVELS * ITL_SIGMA, GAP_SIGMA)


def _gaps(rng: np.random.Generator, n: NDArray[np.int64], mu: Floats) -> Floats:
    levels = rng.multinomial(n, _LEVEL_P)
    p = gap_law(mu)
    if (p.shape[0] == 1 and p.shape[1] == 1) or np.ptp(mu) == 0:
        found: Floats = (levels @ p[0, 0]).astype(np.float32) * GAPS
        return found
    found = np.empty((*n.shape, p.shape[-1]), np.float32)
    for tick in range(n.shape[1]):
        found[:, tick] = np.einsum("rl,rlb->rb", levels[:, tick], np.broadcast_to(p[:, tick], (len(n), *p.shape[2:])))
    return found * GAPS
