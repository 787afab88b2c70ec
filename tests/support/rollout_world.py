"""A small world for controllers: two slots, a gateway, users, and a time that passes only when somebody sleeps."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servegate.config import validate
from servegate.release import Engine, Model, Release
from servegate.report.records import CanaryTick
from servegate.report.verdict import Outcome, Verdict
from servegate.rollout import memory
from servegate.rollout.controller import Controller
from servegate.rollout.plan import TTFT_EDGES, Plan
from servegate.rollout.ports import (
    FencedError,
    Histogram,
    Observed,
    PodSample,
    RouteStatus,
    SlotStatus,
    Weights,
)
from servegate.rollout.stores.sqlite import SqliteStore

RATE = 40
"""Requests per second on all slots together."""
RULES: dict[str, Any] = {
    "version": 1,
    "name": "short",
    "tick": "1s",
    "expect": {"requests_per_second": RATE},
    "alpha": "5%",
    "steps": [
        {"weight": "10%", "min_time": "4s"},
        {"weight": "50%", "min_time": "12s"},
        {"weight": "100%", "min_time": "2s"},
    ],
    "checks": [
        {"kind": "errors-vs-stable", "name": "errors", "share": "100%", "interval": "1s", "odds_ratio": 1.5},
    ],
    "watchdogs": {"unready": "3s", "no_data": "10s", "route": "10s"},
    "limits": {"prepare": "60s", "step": "120s", "held": "60s"},
    "warmup_requests": 0,
}
PLAN = validate(RULES, Plan, "plan")


def release(name: str) -> Release:
    return Release(
        name=name,
        model=Model(uri="file:///m", served_name="m"),
        engine=Engine(name="simulator", version="1"),
    )


STABLE, GOOD, BAD = release("v1"), release("v2"), release("v3")


class Killed(BaseException):
    """The controller is dead: nothing it does after this moment happens."""


@dataclass
class Effects:
    """Counts what the controller does to the world, and kills it at the moment wanted."""

    log: list[str] = field(default_factory=list)
    kill_at: Callable[[int, str, str], bool] = lambda _n, _name, _when: False
    dead: bool = False

    def of(self, name: str, target: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._moment(name, "before")
            result = target(*arguments, **options)
            self._moment(name, "after")
            return result

        return call

    def _moment(self, name: str, when: str) -> None:
        if self.dead:
            raise Killed
        self.log.append(f"{name} {when}")
        if self.kill_at(len(self.log), name, when):
            self.dead = True
            raise Killed


@dataclass
class Pod:
    release: Release
    replicas: int
    since: float


class World:
    """Two slots, a gateway and users, in a time that passes only when somebody sleeps."""

    def __init__(self, folder: Path, failing: dict[str, float] | None = None, start_time: float = 3.0) -> None:
        self.folder, self.failing, self.start_time = folder, failing or {}, start_time
        self.now = 1_000_000.0
        self.pods: dict[str, Pod] = {"blue": Pod(STABLE, 1, 0.0)}
        self.weights: dict[str, float] = {"blue": 100.0, "green": 0.0}
        self.epoch = 0
        self.due = {"blue": 0.0, "green": 0.0}
        self.counters: dict[str, dict[str, float]] = {slot: _zero() for slot in ("blue", "green")}
        self.ttft = dict.fromkeys(("blue", "green"), 0.0)
        self.violations: list[str] = []
        self.store = self.open_store()
        self.verdicts: dict[str, Verdict] = {item.identity(): verdict(item) for item in (GOOD, BAD)}
        self.smoke: Callable[[str, Release], tuple[bool, str]] = lambda _url, _release: (True, "fine")
        self.before_sleep: Callable[[], None] = lambda: None
        self.ticks: list[CanaryTick] = []
        self.notices: list[str] = []

    def open_store(self) -> SqliteStore:
        store = SqliteStore(self.folder / "rollout.db")
        store._db.execute("PRAGMA synchronous = OFF")  # thousands of ticks: the disk is not what is tested here
        return store

    # --- time and traffic

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.before_sleep()
        for slot in ("blue", "green"):
            self._serve(slot, RATE * seconds * self.weights[slot] / 100)
        self.now += max(seconds, 0.001)
        # Smoke tests run in threads: give them the moment they need.
        for thread in threading.enumerate():
            if thread.name.startswith(("smoke-", "warm-")):
                thread.join(10)

    def _serve(self, slot: str, requests: float) -> None:
        self.due[slot] += requests
        whole = math.floor(self.due[slot])
        self.due[slot] -= whole
        pod = self.pods.get(slot)
        share = 1.0 if pod is None or not self.ready(slot) else self.failing.get(pod.release.name, 0.0)
        counters = self.counters[slot]
        failed = round((counters["gateway_requests"] + whole) * share) - round(counters["gateway_requests"] * share)
        counters["gateway_requests"] += whole
        counters["gateway_5xx"] += max(0, failed)
        self.ttft[slot] += whole

    def ready(self, slot: str) -> int:
        pod = self.pods.get(slot)
        return pod.replicas if pod is not None and self.now - pod.since >= self.start_time else 0

    # --- Router

    def read(self) -> Weights:
        return dict(self.weights)

    def write(self, weights: Weights, epoch: int) -> None:
        if epoch < self.epoch:
            raise FencedError(f"epoch {epoch} is over")
        for slot, weight in weights.items():
            if weight > self.weights[slot] and not self.ready(slot):
                self.violations.append(f"{slot} got {weight:g} % without a ready pod at {self.now}")
        self.epoch, self.weights = epoch, dict(weights)

    def verify(self) -> RouteStatus:
        return RouteStatus(True, dict(self.weights))

    # --- Workload

    def ensure(self, slot: str, wanted: Release, replicas: int) -> None:
        pod = self.pods.get(slot)
        if self.weights[slot] > 0 and pod is not None and pod.release != wanted:
            self.violations.append(f"{slot} lost {pod.release.name} under traffic")
        if pod is None or pod.release != wanted or pod.replicas != replicas:
            self.pods[slot] = Pod(wanted, replicas, self.now)

    def status(self, slot: str) -> SlotStatus:
        pod = self.pods.get(slot)
        if pod is None:
            return SlotStatus(None, 0, 0)
        return SlotStatus(pod.release.identity(), pod.replicas, self.ready(slot))

    def scale(self, slot: str, replicas: int) -> None:
        if replicas == 0:
            if self.weights[slot] > 0:
                self.violations.append(f"{slot} was emptied under traffic")
            self.pods.pop(slot, None)

    def address(self, slot: str) -> str:
        return f"http://{slot}"

    # --- Source

    def observe(self, at: float) -> Observed:
        samples = []
        for slot in ("blue", "green"):
            samples.append(PodSample(f"gateway/{slot}", slot, at, dict(self.counters[slot])))
            pod = self.pods.get(slot)
            if pod is not None and self.ready(slot):
                edges = (*TTFT_EDGES, math.inf)
                counts = tuple(self.ttft[slot] if edge >= 0.25 else 0.0 for edge in edges)
                samples.append(
                    PodSample(
                        f"{slot}/0",
                        slot,
                        at,
                        {"http_requests": self.counters[slot]["gateway_requests"], "http_5xx": 0.0},
                        {"ttft": Histogram(edges, counts, 0.1 * self.ttft[slot])},
                        {"running": float(self.weights[slot] > 0), "waiting": 0.0},
                        started=pod.since,
                    )
                )
        return Observed(at, tuple(samples))

    # --- controllers

    def controller(self, effects: Effects | None = None, **options: Any) -> Controller:
        """A controller whose every effect passes through `effects`."""
        through = effects or Effects()
        return Controller(
            options.pop("plan", PLAN),
            _Through(self, through, ("write",), "router"),
            self,
            _Through(self, through, ("ensure", "scale"), "workload"),
            _Through(self.store, through, ("acquire", "renew", "release", "save", "append_history", "settle"), "store"),
            smoke=lambda url, item: self.smoke(url, item),
            verdict=self.verdicts.get,
            timeline=self.folder / "timeline.jsonl",
            on_tick=self.ticks.append,
            on_notice=lambda level, message: self.notices.append(f"{level}: {message}"),
            clock=self.clock,
            sleep=self.sleep,
            **options,
        )

    def place(self) -> tuple[object, ...]:
        """Where the rollout has ended."""
        found, _ = memory.load(self.store)
        assert found is not None
        return (
            found.state.phase,
            found.state.stable,
            found.state.weights,
            self.weights,
            {slot: pod.release.name for slot, pod in sorted(self.pods.items())},
        )


class _Through:
    """A port whose effects are counted; the rest is passed on."""

    def __init__(self, target: Any, effects: Effects, names: tuple[str, ...], kind: str) -> None:
        self._target, self._effects, self._names, self._kind = target, effects, names, kind

    def __getattr__(self, name: str) -> Any:
        target = getattr(self._target, name)
        return self._effects.of(f"{self._kind}.{name}", target) if name in self._names else target


def _zero() -> dict[str, float]:
    return dict.fromkeys(
        ("gateway_requests", "gateway_5xx", "gateway_connect_failures", "gateway_resets", "gateway_timeouts"), 0.0
    )


def verdict(item: Release, outcome: Outcome = Outcome.PASS) -> Verdict:
    return Verdict(
        outcome=outcome,
        release=item.identity(),
        policy="default",
        policy_sha256="sha256:" + "0" * 64,
        reports=(),
        results=(),
        decided_at=1.0,
        decided_by="test",
        tool="servegate",
    )
