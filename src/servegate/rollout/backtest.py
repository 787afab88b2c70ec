"""A plan over recorded traffic: how often would it have rolled back yesterday, when nothing was wrong?

The recording is of a service in which nothing was rolled out, so every rollback is a false one. One of its processes
plays the candidate, the others play stable, and requests are left out by lot until the shares are those of the plan's
weight: so the two together see fewer requests than the service did. What happened to one process alone, such as a slow
node, stays with the candidate; that is what a plan must forgive. With one process in the recording its requests are
dealt out by lot, and nothing ever happens to one slot alone: the answer is then too friendly, and says so.

Rollouts follow one another, each beginning when the one before has ended; processes take turns as the candidate.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from servegate.errors import ConfigError
from servegate.rollout.decide import decide
from servegate.rollout.model import Phase, SlotRelease, State, start
from servegate.rollout.plan import Plan
from servegate.rollout.ports import RouteStatus, SlotStatus
from servegate.rollout.recorded import Columns, Recording
from servegate.rollout.seen import Buckets, Observation, Preparation, SlotDelta
from servegate.stats.intervals import wilson

STABLE, CANDIDATE = "blue", "green"
PART = 6 * 3600.0
"""Seconds of one part; a rollout that is under way at its end is given up."""
_RELEASES = {
    STABLE: SlotRelease(release="sha256:" + "1" * 64, name="the others"),
    CANDIDATE: SlotRelease(release="sha256:" + "2" * 64, name="candidate"),
}
_READY = {slot: SlotStatus(release=_RELEASES[slot].release, replicas=1, ready=1) for slot in (STABLE, CANDIDATE)}


@dataclass(frozen=True)
class Past:
    """One rollout that did not happen.

    Args:
        began, ended: seconds since the epoch.
        candidate: the process that played it; "" when requests were dealt out by lot.
        phase: PROMOTED or ROLLED_BACK.
        cause, reason: what decided.
    """

    began: float
    ended: float
    candidate: str
    phase: Phase
    cause: str
    reason: str
    requests: float


@dataclass(frozen=True)
class Backtest:
    """What came of it.

    Args:
        rollouts: those that ended within their part of the recording, in order.
        ticks: ticks that were decided.
        unfinished: where the last one stood when the recording ended; None when it had just ended.
        by_lot: requests were dealt out by lot, as there was one process.
        hours: length of the recording.
    """

    rollouts: tuple[Past, ...]
    ticks: int
    unfinished: str | None
    by_lot: bool
    hours: float

    @property
    def rolled_back(self) -> tuple[Past, ...]:
        """The false rollbacks."""
        return tuple(past for past in self.rollouts if past.phase is not Phase.PROMOTED)

    @property
    def share(self) -> tuple[float, float, float] | None:
        """Share of rollouts that were rolled back, with its 95 % interval; None without rollouts."""
        if not self.rollouts:
            return None
        found = wilson(len(self.rolled_back), len(self.rollouts))
        return len(self.rolled_back) / len(self.rollouts), found.low, found.high

    @property
    def causes(self) -> dict[str, int]:
        """What rolled back, most frequent first."""
        return dict(Counter(past.cause for past in self.rolled_back).most_common())


def backtest(
    plan: Plan,
    recording: Recording,
    *,
    seed: int = 0,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Backtest:
    """Run the plan over the recording, rollout after rollout. The same seed gives the same, whatever `jobs`.

    Args:
        recording: with the plan's tick.
        jobs: processes; None: one per core. Parts of the recording are independent of each other.
        progress: (parts done, of all).

    Raises:
        ConfigError: the recording has another tick.
    """
    if recording.tick != plan.tick:
        raise ConfigError(f"the recording has ticks of {recording.tick:g} s, the plan of {plan.tick:g} s")
    length = max(1, round(PART / recording.tick))
    parts = [_cut(recording, begin, begin + length) for begin in range(0, recording.ticks, length)]
    found: list[tuple[list[Past], str | None]] = []
    if len(parts) == 1:
        found.append(_part(plan, parts[0], seed, 0))
    else:
        with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:
            tasks = [pool.submit(_part, plan, part, seed, number) for number, part in enumerate(parts)]
            for number, task in enumerate(tasks):
                found.append(task.result())
                progress(number + 1, len(parts))
    return Backtest(
        rollouts=tuple(past for rollouts, _ in found for past in rollouts),
        ticks=recording.ticks,
        unfinished=found[-1][1],
        by_lot=len(recording.pods) == 1,
        hours=recording.ticks * recording.tick / 3600,
    )


def _cut(recording: Recording, begin: int, end: int) -> Recording:
    return replace(
        recording,
        start=recording.start + begin * recording.tick,
        pods={pod: table[begin:end] for pod, table in recording.pods.items()},
        scraped={pod: seen[begin:end] for pod, seen in recording.scraped.items()},
    )


def _part(plan: Plan, recording: Recording, seed: int, number: int) -> tuple[list[Past], str | None]:
    """Rollout after rollout over one part; where the last one stood when it ended."""
    rng = np.random.default_rng((seed, number))
    pods = sorted(recording.pods)
    tables = {pod: _apart(recording.columns, recording.pods[pod]) for pod in pods}
    total: NDArray[np.int64] = np.zeros_like(next(iter(tables.values())))
    for table in tables.values():
        total += table
    scraped = np.any([recording.scraped[pod] for pod in pods], axis=0)
    rollouts: list[Past] = []
    world: _World | None = None
    for index in range(recording.ticks):
        if world is None:
            pod = pods[(number + len(rollouts)) % len(pods)] if len(pods) > 1 else ""
            own = tables[pod] if pod else None
            world = _World(plan, recording, pod, own, recording.scraped[pod] if pod else scraped, total, scraped, index)
        world.tick(index, rng)
        if world.state.phase.finished:
            rollouts.append(world.past())
            world = None
    return rollouts, None if world is None else world.state.waiting or world.state.reason


class _World:
    """One rollout over the recording."""

    def __init__(
        self,
        plan: Plan,
        recording: Recording,
        pod: str,
        own: NDArray[np.int64] | None,
        own_scraped: NDArray[np.bool_],
        total: NDArray[np.int64],
        scraped: NDArray[np.bool_],
        index: int,
    ) -> None:
        self.plan, self.recording, self.pod, self.own, self.total = plan, recording, pod, own, total
        self.own_scraped, self.scraped = own_scraped, scraped
        self.began = recording.start + index * recording.tick
        self.state: State = start(
            rollout="backtest", plan=plan.identity(), stable=STABLE, candidate=CANDIDATE, slots=_RELEASES,
            now=self.began,
        )  # fmt: skip
        self.served = dict(self.state.weights)
        # The share of all requests that the process has had: of the whole time, so that its bad minutes stay bad.
        column = _requests_column(recording.columns)
        self.share = 0.0 if own is None else float(own[:, column].sum() / max(1, total[:, column].sum()))

    def tick(self, index: int, rng: np.random.Generator) -> None:
        """Look and decide once."""
        now = self.recording.start + (index + 1) * self.recording.tick
        weight = self.served[CANDIDATE] / 100
        if self.own is None:
            mine = rng.binomial(self.total[index], weight)
            others = self.total[index] - mine
        else:
            keep, keep_others = self._kept(weight)
            mine = rng.binomial(self.own[index], keep)
            others = rng.binomial(self.total[index] - self.own[index], keep_others)
        columns = self.recording.columns
        seen = Observation.model_construct(
            at=now,
            slots={
                CANDIDATE: _delta(columns, mine, seen=bool(self.own_scraped[index])),
                STABLE: _delta(columns, others, seen=bool(self.scraped[index])),
            },
            status=_READY,
            route=RouteStatus(accepted=True, weights=self.served),
            intents=(),
            preparation=Preparation(verdict="pass", smoke="ok", warm="ok"),
        )
        decision = decide(self.plan, self.state, seen, now)
        self.state = decision.state
        for action in decision.actions:
            if action.kind == "set-weights":
                self.served = dict(action.weights)

    def past(self) -> Past:
        """What became of it."""
        totals = self.state.totals.get(CANDIDATE)
        return Past(
            began=self.began,
            ended=self.state.updated,
            candidate=self.pod,
            phase=self.state.phase,
            cause=self.state.cause,
            reason=self.state.reason,
            requests=totals.requests if totals else 0.0,
        )

    def _kept(self, weight: float) -> tuple[float, float]:
        """Fractions of the candidate's and the others' requests to keep, as many as the weight allows."""
        share = min(max(self.share, 1e-9), 1 - 1e-9)
        if weight <= 0 or weight >= 1:
            return weight, 1 - weight
        odds = weight / (1 - weight) * (1 - share) / share
        return min(1.0, odds), min(1.0, 1 / odds)


def _requests_column(columns: Columns) -> int:
    for name in ("http_requests", "finished_stop"):
        if name in columns.counters:
            return columns.counters.index(name)
    raise ConfigError("the data has neither http_requests_total nor vllm:request_success_total: nothing to count")


def _apart(columns: Columns, table: NDArray[np.int32]) -> NDArray[np.int64]:
    """The table with requests that ended well in place of all requests, so that each request is drawn once."""
    apart = table.astype(np.int64)
    if "http_requests" in columns.counters:
        requests = columns.counters.index("http_requests")
        for name in ("http_4xx", "http_5xx"):
            if name in columns.counters:
                apart[:, requests] -= apart[:, columns.counters.index(name)]
        np.maximum(apart[:, requests], 0, out=apart[:, requests])
    return apart


def _delta(columns: Columns, row: NDArray[np.int64], *, seen: bool) -> SlotDelta:
    if not seen:
        return SlotDelta.model_construct(gateway=False, pods=0, counters={}, histograms={}, gauges={}, missing={})
    values = row.tolist()
    counters = {name: float(value) for name, value in zip(columns.counters, values, strict=False)}
    if "http_requests" in counters:
        counters["http_requests"] += counters.get("http_4xx", 0.0) + counters.get("http_5xx", 0.0)
    else:
        counters["http_requests"] = sum(value for name, value in counters.items() if name.startswith("finished_"))
    return SlotDelta.model_construct(
        gateway=False,
        pods=1,
        counters=counters,
        histograms={
            name: Buckets.model_construct(
                edges=edges, counts=tuple(map(float, values[first : first + len(edges) + 1])), sum=0.0
            )
            for name, (edges, first) in columns.histograms.items()
        },
        gauges={"running": 1.0, "waiting": 0.0},
        missing={},
    )
