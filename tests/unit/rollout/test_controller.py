"""The loop, in a small world of its own: whole rollouts, trouble in a tick, two controllers, death at any effect."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from servegate.config import validate
from servegate.errors import ConfigError, InfrastructureError
from servegate.release import Engine, Model, Release
from servegate.report.records import CanaryTick, read_records
from servegate.report.verdict import Outcome, Verdict
from servegate.rollout import memory
from servegate.rollout.controller import MAX_FAILED_TICKS, Controller
from servegate.rollout.memory import append_line
from servegate.rollout.model import Phase
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
                        {"running": 1.0, "waiting": 0.0},
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


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, failing={"v3": 0.5})
    yield made
    made.store.close()


# --- whole rollouts ---------------------------------------------------------------------------------------------------


def test_a_healthy_release_is_promoted(world: World) -> None:
    controller = world.controller()
    assert controller.start(GOOD, STABLE).phase is Phase.PENDING
    state = controller.run()
    assert state.phase is Phase.PROMOTED
    assert (state.stable, state.candidate) == ("green", "blue")
    assert world.weights == {"blue": 0.0, "green": 100.0}
    assert world.pods["blue"].release == STABLE  # stays warm
    assert world.violations == []
    assert [tick.weights["green"] for tick in world.ticks if tick.reason][-3:] == [50.0, 100.0, 100.0]
    # The lease was given back: the next controller need not wait.
    assert world.store.holder() is None


def test_a_bad_release_is_rolled_back_and_its_slot_emptied(world: World) -> None:
    controller = world.controller()
    controller.start(BAD, STABLE)
    state = controller.run()
    assert state.phase is Phase.ROLLED_BACK
    assert "fails more often" in state.reason
    assert (state.stable, world.weights) == ("blue", {"blue": 100.0, "green": 0.0})
    assert "green" not in world.pods
    assert world.violations == []
    assert any(notice.startswith("critical: rolling back") for notice in world.notices)


def test_one_rollout_after_the_other_on_one_store(world: World) -> None:
    controller = world.controller()
    controller.start(GOOD, STABLE)
    controller.run()
    following = world.controller()
    state = following.start(BAD)
    assert (state.stable, state.candidate) == ("green", "blue")
    assert following.run().phase is Phase.ROLLED_BACK
    assert world.weights == {"blue": 0.0, "green": 100.0}
    assert "blue" not in world.pods
    assert world.violations == []


def test_everything_is_written_down(world: World) -> None:
    controller = world.controller()
    controller.start(GOOD, STABLE)
    controller.run()
    assert list(read_records(world.folder / "timeline.jsonl", CanaryTick)) == world.ticks
    lines = memory.history(world.store)
    assert [line.phase for line in lines] == ["PREPARING", "STEP", "BAKING", "BAKING", "PROMOTED"]
    assert {line.release for line in lines} == {"v2"}
    assert lines[-1].weights == {"blue": 0.0, "green": 100.0}
    assert all(line.reason for line in lines)


# --- what must hold before traffic ------------------------------------------------------------------------------------


def test_without_a_verdict_nothing_is_started(world: World) -> None:
    world.verdicts.clear()
    controller = world.controller()
    controller.start(GOOD, STABLE)
    state = controller.run()
    assert state.phase is Phase.ROLLED_BACK
    assert "no verdict" in state.reason
    assert list(world.pods) == ["blue"]


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.VOID])
def test_a_verdict_that_is_no_pass_ends_it(world: World, outcome: Outcome) -> None:
    world.verdicts = {GOOD.identity(): verdict(GOOD, outcome)}
    controller = world.controller()
    controller.start(GOOD, STABLE)
    state = controller.run()
    assert state.phase is Phase.ROLLED_BACK
    assert f"{outcome} by default" in state.reason
    assert list(world.pods) == ["blue"]


def test_a_verdict_on_another_release_does_not_count(world: World) -> None:
    world.verdicts = {GOOD.identity(): verdict(BAD)}
    controller = world.controller()
    controller.start(GOOD, STABLE)
    assert controller.run().phase is Phase.ROLLED_BACK
    assert world.ticks[0].phase == "PENDING"


@pytest.mark.parametrize("failure", ["says no", "raises", "breaks"])
def test_a_failed_smoke_test_ends_it_before_any_traffic(world: World, failure: str) -> None:
    def smoke(url: str, item: Release) -> tuple[bool, str]:
        assert (url, item) == ("http://green", GOOD)
        if failure == "raises":
            raise InfrastructureError("it does not stream")
        if failure == "breaks":
            raise KeyError("it does not stream")
        return False, "it does not stream"

    world.smoke = smoke
    controller = world.controller()
    controller.start(GOOD, STABLE)
    state = controller.run()
    assert state.phase is Phase.ROLLED_BACK
    assert "it does not stream" in state.reason
    assert {tick.weights["green"] for tick in world.ticks} == {0.0}


def test_ticks_go_on_while_the_smoke_test_runs(world: World) -> None:
    started, finish = threading.Event(), threading.Event()
    runs: list[str] = []

    def smoke(url: str, item: Release) -> tuple[bool, str]:
        runs.append(url)
        started.set()
        finish.wait(30)
        return True, ""

    world.smoke = smoke
    controller = world.controller()
    controller.start(GOOD, STABLE)
    for _ in range(10):
        controller.tick()
        world.now += 1
    assert started.wait(10)
    assert runs == ["http://green"]
    assert controller.state.phase is Phase.PREPARING
    finish.set()
    assert controller.run().phase is Phase.PROMOTED
    assert len(runs) == 1


def test_the_warm_up_runs_after_the_smoke_test_and_before_traffic(world: World) -> None:
    order: list[str] = []

    def smoke(url: str, item: Release) -> tuple[bool, str]:
        order.append("smoke")
        return True, ""

    def warm(url: str, item: Release) -> tuple[bool, str]:
        order.append("warm")
        assert world.weights["green"] == 0
        return True, ""

    world.smoke = smoke
    controller = world.controller(warm=warm)
    controller.start(GOOD, STABLE)
    assert controller.run().phase is Phase.PROMOTED
    assert order == ["smoke", "warm"]


# --- starting ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_started_is_refused_and_the_lease_given_back(world: World) -> None:
    with pytest.raises(ConfigError, match="which release serves now"):
        world.controller().start(GOOD)
    with pytest.raises(ConfigError, match="serves already"):
        world.controller().start(STABLE, STABLE)
    with pytest.raises(ConfigError, match="blue is said to serve v3"):
        world.controller().start(GOOD, BAD)
    with pytest.raises(ConfigError, match="knows no rollout"):
        world.controller().resume()
    assert world.store.holder() is None
    first = world.controller()
    first.start(GOOD, STABLE)
    first._give_lease_back()
    with pytest.raises(ConfigError, match=r"v2 .* is being rolled out"):
        world.controller().start(BAD)
    # The same again goes on with it.
    assert world.controller().start(GOOD).rollout == first.state.rollout


def test_the_stable_release_must_be_the_one_that_was_promoted(world: World) -> None:
    controller = world.controller()
    controller.start(GOOD, STABLE)
    controller.run()
    with pytest.raises(ConfigError, match=r"v2 .* is stable in green, not v1"):
        world.controller().start(BAD, STABLE)


def test_an_intent_left_before_the_rollout_does_not_touch_it(world: World) -> None:
    world.store.submit("abort", "kim", 1.0)
    controller = world.controller()
    controller.start(GOOD, STABLE)
    assert world.store.intents() == []
    assert controller.run().phase is Phase.PROMOTED


def test_another_plan_is_refused(world: World) -> None:
    world.controller().start(GOOD, STABLE)
    world.now += 100
    other = validate({**RULES, "name": "other"}, Plan, "other")
    controller = world.controller(plan=other)
    controller.resume()
    with pytest.raises(ConfigError, match="another"):
        controller.run()


# --- people -----------------------------------------------------------------------------------------------------------


def test_an_abort_from_another_process_takes_the_traffic_back(world: World) -> None:
    def leave() -> None:
        if world.weights["green"] == 50 and not world.store.intents():
            other = world.open_store()
            other.submit("abort", "kim", world.now, reason="looks odd")
            other.close()
            world.before_sleep = lambda: None

    world.before_sleep = leave
    controller = world.controller()
    controller.start(GOOD, STABLE)
    state = controller.run()
    assert state.phase is Phase.ROLLED_BACK
    assert "aborted by kim: looks odd" in state.reason
    assert world.weights == {"blue": 100.0, "green": 0.0}
    assert world.store.intents() == []


def test_a_request_is_left_as_an_intent_and_carried_out_at_the_next_tick(world: World) -> None:
    controller = world.controller()
    controller.start(GOOD, STABLE)
    controller.request("pause", reason="lunch", by="lee")
    decision = controller.tick()
    assert decision.state.phase is Phase.HELD
    assert decision.state.reason == "paused by lee: lunch"
    controller.request("resume", by="lee")
    assert controller.run().phase is Phase.PROMOTED


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_trouble_in_single_ticks_does_not_end_the_rollout(world: World) -> None:
    def sometimes(target: Callable[..., Any], every: int) -> Callable[..., Any]:
        calls = 0

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls % every == 0:
                raise InfrastructureError("no space left")
            return target(*arguments, **options)

        return call

    for name, every in (("observe", 5), ("status", 7), ("verify", 6), ("write", 2), ("ensure", 2)):
        setattr(world, name, sometimes(getattr(world, name), every))
    for name, every in (("save", 8), ("append_history", 2)):
        setattr(world.store, name, sometimes(getattr(world.store, name), every))
    controller = world.controller()
    while True:
        try:
            controller.start(GOOD, STABLE)
            break
        except InfrastructureError:
            continue
    assert controller.run().phase is Phase.PROMOTED
    assert world.weights == {"blue": 0.0, "green": 100.0}
    assert world.violations == []
    assert any("no space left" in notice for notice in world.notices)


def test_trouble_in_every_tick_ends_the_loop_and_leaves_everything_as_it_is(world: World) -> None:
    controller = world.controller()
    controller.start(GOOD, STABLE)
    calls = 0

    def broken(*_: Any) -> int:
        nonlocal calls
        calls += 1
        raise InfrastructureError("no space left")

    world.store.save = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(InfrastructureError, match="no space left"):
        controller.run()
    assert calls == MAX_FAILED_TICKS
    assert world.weights == {"blue": 100.0, "green": 0.0}
    assert list(world.pods) == ["blue"]


def test_a_timeline_that_cannot_be_written_does_not_keep_traffic_on_a_bad_release(world: World) -> None:
    (world.folder / "timeline.jsonl").mkdir()
    controller = world.controller()
    controller.start(BAD, STABLE)
    assert controller.run().phase is Phase.ROLLED_BACK
    assert any("could not be written down" in notice for notice in world.notices)


def test_a_save_that_only_seemed_to_fail_is_found_again(world: World) -> None:
    controller = world.controller()
    controller.start(GOOD, STABLE)
    save = world.store.save
    calls = 0

    def uncertain(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        version = save(*arguments)
        if calls % 6 == 0:
            raise InfrastructureError("timed out")
        return version

    world.store.save = uncertain  # type: ignore[method-assign, assignment]
    assert controller.run().phase is Phase.PROMOTED
    assert world.violations == []


def test_what_the_view_raises_ends_the_loop_after_the_effects(world: World) -> None:
    controller = world.controller()
    controller.start(GOOD, STABLE)

    def view(tick: CanaryTick) -> None:
        if tick.weights["green"] == 10:
            raise InfrastructureError("the users have gone")

    controller.on_tick = view
    with pytest.raises(InfrastructureError, match="the users have gone"):
        controller.run()
    assert world.weights == {"blue": 90.0, "green": 10.0}
    assert world.store.holder() is None


# --- two controllers --------------------------------------------------------------------------------------------------


def test_a_second_controller_waits_and_gives_up_while_the_first_is_alive(world: World) -> None:
    first = world.controller()
    first.start(GOOD, STABLE)
    second = world.controller()

    def alive() -> None:
        first.tick()

    world.before_sleep = alive
    with pytest.raises(LeaseLostError):
        second.start(GOOD, STABLE)


def test_a_controller_that_was_paused_finds_out_and_can_do_nothing(world: World) -> None:
    old = world.controller()
    old.start(GOOD, STABLE)
    while world.weights["green"] < 50:
        old.tick()
        world.sleep(1)
    # It stands still for a minute; another one takes over and brings the rollout to its end.
    world.now += 60
    new = world.controller()
    new.resume()
    new.request("abort", by="kim")
    assert new.run().phase is Phase.ROLLED_BACK
    with pytest.raises(LeaseLostError):
        old.tick()
    with pytest.raises(FencedError):
        old.router.write({"blue": 0.0, "green": 100.0}, 1)
    assert world.weights == {"blue": 100.0, "green": 0.0}


def test_taking_over_shuts_the_router_for_the_one_before(world: World) -> None:
    old = world.controller()
    old.start(GOOD, STABLE)
    old.tick()
    epoch = world.epoch
    world.now += 60
    new = world.controller()
    new.resume()
    new._take_over()
    assert world.epoch > epoch
    assert world.weights == {"blue": 100.0, "green": 0.0}


def test_empty_slots_are_filled_again_when_a_machine_came_back(world: World) -> None:
    controller = world.controller()
    controller.start(GOOD, STABLE)
    while controller.state.phase is not Phase.PREPARING:
        controller.tick()
        world.sleep(1)
    controller._give_lease_back()
    world.pods.clear()
    again = world.controller()
    assert again.run().phase is Phase.PROMOTED
    assert {slot: pod.release.name for slot, pod in world.pods.items()} == {"blue": "v1", "green": "v2"}
    assert world.violations == []


# --- death ------------------------------------------------------------------------------------------------------------


def _begin_or_go_on(controller: Controller, item: Release) -> None:
    try:
        controller.resume()
    except ConfigError:
        controller.start(item, STABLE)


def live_and_die(world: World, item: Release, effects: Effects, lives: int = 1000) -> int:
    """Run a rollout with controllers that are killed; the number of lives it took."""
    for life in range(1, lives):
        effects.dead = False
        controller = world.controller(effects)
        try:
            _begin_or_go_on(controller, item)
        except Killed:
            world.now += 20  # the dead one's lease expires
            continue
        try:
            controller.run()
        except Killed:
            world.now += 20
            continue
        return life
    raise AssertionError("the rollout never ended")


def moments(tmp_path: Path, item: Release) -> list[tuple[int, str, str]]:
    """Every moment before and after an effect in an undisturbed rollout; of what every tick does, a selection."""
    world = World(tmp_path / "undisturbed", failing={"v3": 0.5})
    effects = Effects()
    live_and_die(world, item, effects)
    world.store.close()
    seen: dict[str, int] = {}
    kept = []
    for number, entry in enumerate(effects.log, 1):
        seen[entry] = seen.get(entry, 0) + 1
        every_tick = entry.startswith(("store.renew", "store.save"))
        near_change = any(
            "router.write" in near or "workload." in near for near in effects.log[max(0, number - 4) : number + 3]
        )
        if not every_tick or near_change or seen[entry] == 1:
            name, when = entry.split()
            kept.append((number, name, when))
    return kept


@pytest.mark.parametrize("item", [GOOD, BAD], ids=["promotion", "rollback"])
def test_killed_at_any_effect_it_ends_in_the_same_place(tmp_path: Path, item: Release) -> None:
    undisturbed = World(tmp_path / "reference", failing={"v3": 0.5})
    live_and_die(undisturbed, item, Effects())
    wanted = undisturbed.place()
    undisturbed.store.close()
    killed_in = set()
    for number, name, when in moments(tmp_path, item):
        folder = tmp_path / f"{number}"
        world = World(folder, failing={"v3": 0.5})

        def kill_at(count: int, _name: str, _when: str, number: int = number) -> bool:
            return count == number

        effects = Effects(kill_at=kill_at)
        live_and_die(world, item, effects)
        context = f"killed {when} {name} (effect {number})"
        assert world.place() == wanted, context
        assert world.violations == [], context
        assert world.store.intents() == [], context
        _written_down_once(world, context)
        world.store.close()
        killed_in.add(f"{name} {when}")
    assert killed_in >= {
        f"{name} {when}"
        for name in ("store.save", "store.append_history", "router.write", "workload.ensure", "store.release")
        for when in ("before", "after")
    }
    assert ("workload.scale before" in killed_in) == (item is BAD)


@pytest.mark.parametrize("item", [GOOD, BAD], ids=["promotion", "rollback"])
@pytest.mark.parametrize("every", [21, 29, 37])
def test_killed_again_and_again_it_ends_in_the_same_place(tmp_path: Path, item: Release, every: int) -> None:
    undisturbed = World(tmp_path / "reference", failing={"v3": 0.5})
    live_and_die(undisturbed, item, Effects())
    world = World(tmp_path / "killed", failing={"v3": 0.5})
    lives = live_and_die(world, item, Effects(kill_at=lambda count, _name, _when: count % every == 0))
    assert lives > 1
    assert world.place() == undisturbed.place()
    assert world.violations == []
    _written_down_once(world, f"killed every {every} effects")
    for one in (world, undisturbed):
        one.store.close()


def _written_down_once(world: World, context: str) -> None:
    """The history tells the way through the phases whole and without repetition."""
    lines = memory.history(world.store)
    told = [(line.phase, json.dumps(line.weights), line.reason) for line in lines]
    assert len(told) == len(set(told)), context
    assert lines[-1].phase in ("PROMOTED", "ROLLED_BACK"), context
    assert [line.at for line in lines] == sorted(line.at for line in lines), context


def test_half_a_line_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "timeline.jsonl"
    append_line(path, '{"n": 1}\n')
    with path.open("a") as stream:
        stream.write('{"n": ')
    append_line(path, '{"n": 2}\n')
    append_line(path, '{"n": 3}\n')
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [1, 2, 3]
    path.write_text('{"n"')
    append_line(path, '{"n": 4}\n')
    assert path.read_text() == '{"n": 4}\n'
    with pytest.raises(InfrastructureError, match="cannot be written"):
        append_line(path / "x", "\n")
