"""A release beside the one that serves: ready, without traffic, and never in the way of a rollout."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rollout_world import BAD, GOOD, STABLE, World

from servegate.errors import ConfigError, InfrastructureError
from servegate.pipeline.stage import stage, unstage
from servegate.rollout.model import Phase
from servegate.rollout.ports import LeaseLostError, SlotStatus

SLOTS = ("blue", "green")


def place(world: World) -> Any:
    return SimpleNamespace(router=world, source=world, workload=world, store=world.store)


def staged(world: World, release: Any = GOOD, replicas: int = 2, within: float = 60) -> tuple[str, list[str]]:
    said: list[str] = []
    slot = stage(
        place(world), SLOTS, release, replicas, within=within, say=said.append, clock=world.clock, sleep=world.sleep
    )
    return slot, said


def test_it_becomes_ready_in_the_idle_slot_and_gets_no_traffic(tmp_path: Path) -> None:
    world = World(tmp_path)
    slot, said = staged(world)
    assert (slot, world.ready("green"), world.weights) == ("green", 2, {"blue": 100.0, "green": 0.0})
    assert said == ["green: 0 of 2 ready", "green: 2 of 2 ready"]
    assert staged(world)[0] == "green"  # the same again changes nothing
    assert unstage(place(world), SLOTS, clock=world.clock) == "green"
    assert unstage(place(world), SLOTS, clock=world.clock) == "green"
    assert {slot: pod.release for slot, pod in world.pods.items()} == {"blue": STABLE}
    assert not world.violations


def test_it_goes_where_the_last_promotion_left_room(tmp_path: Path) -> None:
    world = World(tmp_path)
    controller = world.controller()
    controller.start(GOOD, STABLE)
    assert controller.run().phase is Phase.PROMOTED
    assert staged(world, BAD)[0] == "blue"
    assert world.weights["blue"] == 0
    assert not world.violations


def test_a_rollout_under_way_is_not_disturbed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.controller().start(GOOD, STABLE)
    for act in (lambda: staged(world, BAD), lambda: unstage(place(world), SLOTS, clock=world.clock)):
        with pytest.raises((ConfigError, LeaseLostError), match=r"under way|at work here"):
            act()
    world.now += 3600  # the controller is dead, its lease over: the rollout is still somebody's to end
    with pytest.raises(ConfigError, match="is under way"):
        staged(world, BAD)


def test_what_serves_is_not_staged_a_second_time(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="serves already, in blue"):
        staged(World(tmp_path), STABLE)


def test_both_slots_with_traffic_leave_no_room(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.weights = {"blue": 50.0, "green": 50.0}
    with pytest.raises(ConfigError, match=r"no slot is without traffic \(blue 50 %, green 50 %\)"):
        staged(world)


def test_one_that_does_not_start_is_told_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, start_time=1e9)
    with pytest.raises(InfrastructureError, match="green: not ready in 60 s"):
        staged(world)
    found = world.status

    def failing(slot: str) -> SlotStatus:
        status = found(slot)
        failed = "engine ended with status 1" if slot == "green" else None
        return SlotStatus(status.release, status.replicas, 0, failed)

    monkeypatch.setattr(world, "status", failing)
    with pytest.raises(InfrastructureError, match="green: engine ended with status 1"):
        staged(world)


def test_a_rollback_need_not_wait_for_a_model_that_loads(tmp_path: Path) -> None:
    world = World(tmp_path, start_time=30)
    taken = []

    def somebody_else() -> None:
        lease = world.store.acquire("rollback", world.now, 10)
        taken.append(lease.holder)
        world.store.release(lease)

    world.before_sleep = somebody_else
    staged(world)
    assert set(taken) == {"rollback"}


def test_the_first_release_of_a_place_goes_where_the_traffic_goes(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(ConfigError, match=r"blue runs sha256:[0-9a-f]+: this is not the first release"):
        stage(place(world), SLOTS, GOOD, 1, within=60, first=True, clock=world.clock, sleep=world.sleep)
    world.pods.clear()
    for _ in range(2):  # the same again changes nothing
        slot = stage(place(world), SLOTS, GOOD, 1, within=60, first=True, clock=world.clock, sleep=world.sleep)
        assert (slot, world.ready("blue")) == ("blue", 1)


def test_after_a_rollout_no_release_is_the_first(tmp_path: Path) -> None:
    world = World(tmp_path)
    controller = world.controller()
    controller.start(GOOD, STABLE)
    controller.run()
    with pytest.raises(ConfigError, match="was here: a release gets in by a rollout now"):
        stage(place(world), SLOTS, BAD, 1, within=60, first=True, clock=world.clock, sleep=world.sleep)
