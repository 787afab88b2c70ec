"""The loop, in a small world of its own: whole rollouts, trouble in a tick, two controllers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout_world import BAD, GOOD, RULES, STABLE, World, verdict

from servegate.config import validate
from servegate.errors import ConfigError, InfrastructureError
from servegate.release import Release
from servegate.report.records import CanaryTick, read_records
from servegate.report.verdict import Outcome
from servegate.rollout import memory
from servegate.rollout.controller import MAX_FAILED_TICKS
from servegate.rollout.model import Phase
from servegate.rollout.plan import Plan
from servegate.rollout.ports import (
    FencedError,
    LeaseLostError,
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
    first._leading.give_back()
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


def test_trouble_in_every_tick_ends_the_loop_and_leaves_everything_as_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = world.controller()
    controller.start(GOOD, STABLE)
    calls = 0

    def broken(*_: Any) -> int:
        nonlocal calls
        calls += 1
        raise InfrastructureError("no space left")

    monkeypatch.setattr(world.store, "save", broken)
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


def test_a_save_that_only_seemed_to_fail_is_found_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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

    monkeypatch.setattr(world.store, "save", uncertain)
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
    controller._leading.give_back()
    world.pods.clear()
    again = world.controller()
    assert again.run().phase is Phase.PROMOTED
    assert {slot: pod.release.name for slot, pod in world.pods.items()} == {"blue": "v1", "green": "v2"}
    assert world.violations == []
