"""A small world for controllers that die: two slots, a gateway, users, and everything that can go wrong around them.

Time passes only when somebody sleeps. Each controller has a life (crash_life.py) and a name, so the world knows who did
what: a write that changes something although its writer's lease is over is a violation, and so is a weight that moves
to a slot without a ready pod.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from crash_life import Life, Router, Store, Workload

from servegate.config import validate
from servegate.errors import ConfigError, InfrastructureError
from servegate.release import Engine, Model, Release
from servegate.report.verdict import Outcome, Verdict
from servegate.rollout import memory
from servegate.rollout.controller import Controller
from servegate.rollout.memory import Memory
from servegate.rollout.model import Phase, State
from servegate.rollout.plan import TTFT_EDGES, Plan
from servegate.rollout.ports import (
    FencedError,
    Histogram,
    LeaseLostError,
    Observed,
    PodSample,
    RouteStatus,
    SlotStatus,
    Weights,
)
from servegate.rollout.stores.sqlite import SqliteStore

RATE = 40.0
START_TIME = 3.0
PLAN = validate(
    {
        "version": 1,
        "name": "crash",
        "tick": "1s",
        "expect": {"requests_per_second": RATE},
        "alpha": "5%",
        "steps": [
            {"weight": "10%", "min_time": "4s"},
            {"weight": "50%", "min_time": "10s"},
            {"weight": "100%", "min_time": "2s"},
        ],
        "checks": [
            {"kind": "errors-vs-stable", "name": "errors", "share": "50%", "interval": "1s", "odds_ratio": 1.5},
            {
                "kind": "errors-slo", "name": "slo", "share": "50%", "interval": "1s", "at_most": "5%",
                "promote_at_most": "10%",
            },
        ],
        "watchdogs": {"unready": "5s", "no_data": "15s", "route": "15s", "lease": "1h"},
        "limits": {"prepare": "1h", "step": "1h", "held": "2min"},
        "rollback": {"prove": "2s", "limit": "10min"},
        "warmup_requests": 0,
    },
    Plan,
    "plan",
)  # fmt: skip


def release(name: str) -> Release:
    return Release(
        name=name, model=Model(uri="file:///m", served_name="m"), engine=Engine(name="simulator", version="1")
    )


def _verdict(item: Release) -> Verdict:
    return Verdict(
        policy="p", policy_sha256="sha256:" + "0" * 64, release=item.identity(), outcome=Outcome.PASS, results=(),
        reports=(), decided_at=0.0, decided_by="test", tool="servegate 0",
    )  # fmt: skip


OLD, GOOD, BAD = release("v1"), release("v2"), release("v3")
FAILING = {"v3": 0.3}
VERDICTS = {item.identity(): _verdict(item) for item in (GOOD, BAD)}
SLOTS = ("blue", "green")


@dataclass
class Pod:
    release: Release
    replicas: int
    since: float
    requests: float = 0.0
    failures: float = 0.0


class World:
    """Everything but the controller."""

    def __init__(self, folder: Path, pace: float = 0.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.now = folder, 1_000_000.0
        self.pods: dict[str, Pod] = {"blue": Pod(OLD, 1, 0.0)}
        self.wanted: dict[str, float] = {"blue": 100.0, "green": 0.0}
        self.served, self.served_from = dict(self.wanted), 0.0
        self.router_epoch = self.acted_epoch = 0
        self.workload_epochs = dict.fromkeys(SLOTS, 0)
        self.due = dict.fromkeys(SLOTS, 0.0)
        self.gateway = {slot: {"gateway_requests": 0.0, "gateway_5xx": 0.0} for slot in SLOTS}
        self.faults: dict[str, float] = {}
        self.last_reading: Observed | None = None
        self.violations: list[str] = []
        self.lives = 0
        self._looked = (0, False)
        self.store = self.open_store()
        self.store.pace = pace

    def open_store(self) -> SqliteStore:
        store = SqliteStore(self.folder / "rollout.db")
        store._db.execute("PRAGMA synchronous = OFF")  # thousands of ticks: the disk is not what is tested here
        return store

    def close(self) -> None:
        self.store.close()

    # --- time, traffic, trouble

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self._let_take_effect()
        for slot in SLOTS:
            self._serve(slot, RATE * seconds * self.served[slot] / 100)
        self.now += max(seconds, 0.001)
        for thread in threading.enumerate():
            if thread.name.startswith(("smoke-", "warm-")):
                thread.join(10)

    def trouble(self, kind: str, seconds: float) -> None:
        """Something is wrong from now on for some seconds."""
        if kind in ("engines-restart", "pods-lost"):
            for pod in self.pods.values():
                pod.requests = pod.failures = 0.0
                # New counters: ready again at once, or only after a while.
                pod.since = self.now - (START_TIME if kind == "engines-restart" else 0.0)
            return
        self.faults[kind] = self.now + seconds

    def has(self, kind: str) -> bool:
        return self.faults.get(kind, 0.0) > self.now

    def ready(self, slot: str) -> int:
        pod = self.pods.get(slot)
        return pod.replicas if pod is not None and self.now - pod.since >= START_TIME else 0

    def _let_take_effect(self) -> None:
        if self.now >= self.served_from:
            self.served = dict(self.wanted)

    def _serve(self, slot: str, requests: float) -> None:
        self.due[slot] += requests
        whole = float(math.floor(self.due[slot]))
        self.due[slot] -= whole
        pod = self.pods.get(slot)
        if pod is None or not self.ready(slot):
            failed = whole
        else:
            share = FAILING.get(pod.release.name, 0.0)
            failed = float(round((pod.requests + whole) * share) - round(pod.requests * share))
            pod.requests += whole
            pod.failures += failed
        self.gateway[slot]["gateway_requests"] += whole
        self.gateway[slot]["gateway_5xx"] += failed

    def acts(self, life: Life, what: str, wanted: Callable[[State], bool] = lambda _: False) -> None:
        """Somebody changes something. Once a newer one has done or saved something, only what is wanted may happen.

        Moving weights is never allowed then. An effect on a slot that is late may still arrive while nobody newer has
        touched that slot: it must be one that the stored state asks for.
        """
        if life.epoch < self.acted_epoch:
            state = self.state()
            if state is None or not wanted(state):
                self.violations.append(f"{life.name} {what} after its lease at {self.now}")
        self.acted_epoch = max(self.acted_epoch, life.epoch)

    # --- what happens when a controller does something

    def write(self, life: Life, weights: Weights, epoch: int) -> None:
        if epoch < self.router_epoch:
            raise FencedError(f"epoch {epoch} is over")
        if self.has("router-429"):
            raise InfrastructureError("HTTP 429")
        changes = dict(weights) != self.wanted
        if changes:
            self.acts(life, "moved weights")
        for slot, weight in weights.items():
            if weight > self.wanted[slot] and not self.ready(slot):
                self.violations.append(f"{slot} got {weight:g} % without a ready pod at {self.now}")
        self.router_epoch, self.wanted = epoch, dict(weights)
        if changes:
            self.served_from = self.now + (4.0 if self.has("router-lag") else 0.0)
        self._let_take_effect()
        if self.has("router-timeout"):
            raise InfrastructureError("no answer in time")  # and yet it was done

    def verify(self) -> RouteStatus:
        if self.has("router-500"):
            raise InfrastructureError("HTTP 500")
        self._let_take_effect()
        return RouteStatus(self.served == self.wanted, dict(self.served), "some replicas have not got it yet")

    def ensure(self, life: Life, slot: str, wanted: Release, replicas: int) -> None:
        self._fence(life, slot)
        if self.has("workload-500"):
            raise InfrastructureError("HTTP 500")
        pod = self.pods.get(slot)
        changes = pod is None or pod.release != wanted or pod.replicas != replicas
        if self.wanted[slot] > 0 and pod is not None and pod.release != wanted:
            self.violations.append(f"{slot} lost {pod.release.name} under traffic at {self.now}")
        if changes:
            self.acts(
                life,
                f"filled {slot}",
                lambda state: state.slots[slot].release == wanted.identity() and state.phase is not Phase.ROLLED_BACK,
            )
            self.pods[slot] = Pod(wanted, replicas, self.now)
        if self.has("workload-timeout"):
            raise InfrastructureError("no answer in time")

    def scale(self, life: Life, slot: str, replicas: int) -> None:
        self._fence(life, slot)
        if self.has("workload-500"):
            raise InfrastructureError("HTTP 500")
        if replicas == 0 and slot in self.pods:
            self.acts(
                life,
                f"emptied {slot}",
                lambda state: state.phase is Phase.ROLLED_BACK and slot == state.candidate,
            )
            if self.wanted[slot] > 0:
                self.violations.append(f"{slot} was emptied under traffic at {self.now}")
            self.pods.pop(slot)
        if self.has("workload-timeout"):
            raise InfrastructureError("no answer in time")

    def _fence(self, life: Life, slot: str) -> None:
        if life.epoch < self.workload_epochs[slot]:
            raise FencedError(f"epoch {life.epoch} is over")
        self.workload_epochs[slot] = life.epoch

    def status(self, slot: str) -> SlotStatus:
        if self.has("workload-500"):
            raise InfrastructureError("HTTP 500")
        pod = self.pods.get(slot)
        if pod is None:
            return SlotStatus(None, 0, 0)
        return SlotStatus(pod.release.identity(), pod.replicas, self.ready(slot))

    def observe(self, at: float) -> Observed:
        if self.has("source-down"):
            return Observed(at, (), {f"{slot}/prometheus": "Prometheus: HTTP 503" for slot in SLOTS})
        if self.has("source-stale") and self.last_reading is not None:
            return replace(self.last_reading, at=at)
        pods = []
        for slot in SLOTS:
            pods.append(PodSample(f"gateway/{slot}", slot, at, self._numbers(self.gateway[slot])))
            pod = self.pods.get(slot)
            if pod is not None and self.ready(slot):
                edges = (*TTFT_EDGES, math.inf)
                counts = tuple(pod.requests if edge >= 0.25 else 0.0 for edge in edges)
                counters = self._numbers({"http_requests": pod.requests, "http_5xx": pod.failures})
                histograms = {"ttft": Histogram(edges, counts, 0.1 * pod.requests)}
                gauges = {"running": float(self.served[slot] > 0), "waiting": 0.0}
                pods.append(PodSample(f"{slot}/0", slot, at, counters, histograms, gauges, started=pod.since))
        missing = {}
        if self.has("source-partial"):
            pods = [pod for pod in pods if pod.pod != "green/0"]
            missing = {"green/0": "no answer in 2 s"}
        self.last_reading = Observed(at, tuple(pods), missing)
        return self.last_reading

    def _numbers(self, counters: dict[str, float]) -> dict[str, float]:
        return dict.fromkeys(counters, math.nan) if self.has("source-nan") else dict(counters)

    # --- lives

    def life(self, at: Callable[[int, str], None] = lambda _n, _what: None) -> Life:
        self.lives += 1
        return Life(f"controller {self.lives}", at)

    def controller(self, life: Life, sleep: Callable[[float], None] | None = None) -> Controller:
        """A controller whose every effect passes through `life`."""
        store = Store(self, life)
        return Controller(
            PLAN,
            Router(self, life),
            self,
            Workload(self, life),
            store,
            smoke=lambda _url, _release: (True, "fine"),
            verdict=VERDICTS.get,
            timeline=self.folder / "timeline.jsonl",
            trail=self.folder / "audit.jsonl",
            holder=life.name,
            clock=self.clock,
            sleep=sleep or self.sleep,
        )

    def state(self) -> State | None:
        found, _ = memory.load(self.store)
        return None if found is None else found.state

    def finished(self) -> bool:
        text, version = self.store.load()
        if version != self._looked[0]:
            self._looked = version, text is not None and Memory.model_validate_json(text).state.phase.finished
        return self._looked[1]

    def place(self) -> tuple[object, ...]:
        """Where the rollout has ended: phase, roles, weights everywhere, and what runs."""
        state = self.state()
        assert state is not None
        self._let_take_effect()
        names = {slot: pod.release.name for slot, pod in sorted(self.pods.items())}
        return state.phase.value, state.stable, dict(state.weights), dict(self.wanted), dict(self.served), names


def begin_or_go_on(controller: Controller, item: Release) -> None:
    try:
        controller.resume()
    except ConfigError:
        controller.start(item, OLD)


TROUBLES = (
    "router-429", "router-500", "router-timeout", "router-lag", "workload-500", "workload-timeout", "source-down",
    "source-stale", "source-nan", "source-partial", "engines-restart", "pods-lost", "store-conflict", "store-500",
    "store-timeout",
)  # fmt: skip
"""All that can go wrong, apart from death and pauses."""

LOST = (LeaseLostError, FencedError)
