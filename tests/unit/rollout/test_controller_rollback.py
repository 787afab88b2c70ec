"""The loop on the way back: after a promotion, to a named release, with a guard, with effects that fail, killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout_world import BAD, GOOD, RULES, STABLE, Effects, Killed, World, release, verdict

from servegate.config import validate
from servegate.errors import InfrastructureError
from servegate.report.verdict import Outcome
from servegate.rollout import memory
from servegate.rollout.controller import Controller
from servegate.rollout.model import Phase
from servegate.rollout.plan import Plan

PLAN = validate({**RULES, "guard": {"window": "100s"}, "rollback": {"prove": "3s", "limit": "60s"}}, Plan, "plan")
OLDER = release("v0")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, failing={"v3": 0.5})
    yield made
    made.store.close()


def promoted(world: World) -> None:
    controller = world.controller(plan=PLAN)
    controller.start(GOOD, STABLE)
    assert controller.run().phase is Phase.PROMOTED


def ask(world: World, kind: str, target: str | None = None) -> Controller:
    """Leave an intent as another process would, and take the lease to carry it out."""
    intent = world.store.submit(kind, "kim", world.now, "page 4711", target)
    controller = world.controller(plan=PLAN)
    controller.resume()
    controller.run()
    outcome = world.store.outcome(intent)
    assert outcome is not None
    world.notices.append(f"outcome: {outcome}")
    return controller


def test_back_to_the_release_before_with_proof_and_its_place_in_the_history(world: World) -> None:
    promoted(world)
    state = ask(world, "rollback").state
    assert (state.phase, state.stable) == (Phase.ROLLED_BACK, "blue")
    assert world.weights == {"blue": 100.0, "green": 0.0}
    assert "green" not in world.pods
    assert "blue (v1) answered" in state.proven
    last = memory.history(world.store)[-2:]
    assert [line.phase for line in last] == ["ROLLING_BACK", "ROLLED_BACK"]
    assert last[0].reason == "rolled back to v1 by kim: page 4711"
    assert {line.release for line in last} == {"v2"}
    assert world.violations == []


def test_a_slot_that_was_emptied_is_filled_and_tested_first(world: World) -> None:
    promoted(world)
    del world.pods["blue"]
    tested: list[str] = []

    def smoke(url: str, item: Any) -> tuple[bool, str]:
        assert world.weights["blue"] == 0
        tested.append(f"{url} {item.name}")
        return True, ""

    world.smoke = smoke
    assert ask(world, "rollback").state.phase is Phase.ROLLED_BACK
    assert tested == ["http://blue v1"]
    assert world.violations == []


def test_a_named_release_that_the_store_remembers(world: World) -> None:
    promoted(world)
    world.verdicts[OLDER.identity()] = verdict(OLDER)
    following = world.controller(plan=PLAN)
    following.start(OLDER)  # v0 goes out as a hotfix, into blue
    assert following.run().phase is Phase.PROMOTED
    found, _ = memory.load(world.store)
    assert found is not None
    assert set(found.names().values()) == {"v0", "v1", "v2"}
    state = ask(world, "rollback", STABLE.identity()).state
    assert state.phase is Phase.ROLLED_BACK
    assert world.pods[state.stable].release == STABLE
    assert world.weights[state.stable] == 100
    assert world.violations == []


def test_a_release_that_was_found_bad_is_not_verified_any_more(world: World) -> None:
    controller = world.controller(plan=PLAN)
    controller.start(BAD, STABLE)
    assert controller.run().phase is Phase.ROLLED_BACK
    ask(world, "rollback", BAD.identity())
    assert world.notices[-1].startswith("outcome: refused: no verified release")


@pytest.mark.parametrize("found", [None, Outcome.PASS, Outcome.FAIL])
def test_a_release_that_is_brought_along_needs_a_verdict(world: World, found: Outcome | None) -> None:
    promoted(world)
    if found is not None:
        world.verdicts[OLDER.identity()] = verdict(OLDER, found)
    state = ask(world, "rollback", OLDER.model_dump_json()).state
    if found is Outcome.PASS:
        assert state.phase is Phase.ROLLED_BACK
        assert world.pods[state.stable].release == OLDER
    else:
        assert "refused: no verified release" in world.notices[-1]
        assert state.phase is Phase.PROMOTED
    assert world.violations == []


def test_what_is_no_release_is_refused_and_costs_no_tick(world: World) -> None:
    promoted(world)
    ask(world, "rollback", '{"name": 1}')
    assert "refused" in world.notices[-1]


def test_the_guard_sends_a_release_back_that_turns_bad_later(world: World) -> None:
    promoted(world)

    def turn_bad() -> None:
        if world.now > began + 20:
            world.failing["v2"] = 0.5

    began = world.now
    strict = validate(
        {
            **RULES,
            "guard": {"window": "100s"},
            "checks": [
                {**RULES["checks"][0], "share": "50%"},
                {"kind": "errors-slo", "name": "slo", "share": "50%", "at_most": "5%", "interval": "1s"},
            ],
        },
        Plan,
        "strict",
    )
    found, version = memory.load(world.store)
    assert found is not None
    lease = world.store.acquire("test", world.now, 1.0)
    state = found.state.model_copy(update={"plan": strict.identity()})
    world.store.save(found.model_copy(update={"state": state}).model_dump_json(), version, lease)
    world.store.release(lease)
    world.before_sleep = turn_bad
    controller = world.controller(plan=strict)
    controller.resume()
    controller.request("guard")
    ended = controller.run()
    assert (ended.phase, ended.cause) == (Phase.ROLLED_BACK, "slo")
    assert world.weights == {"blue": 100.0, "green": 0.0}
    assert world.violations == []


def test_a_guard_that_ends_well_empties_the_old_slot(world: World) -> None:
    promoted(world)
    controller = world.controller(plan=PLAN)
    controller.resume()
    controller.request("guard")
    assert controller.run().phase is Phase.PROMOTED
    assert set(world.pods) == {"green"}
    assert world.weights == {"blue": 0.0, "green": 100.0}
    # Later the old release is cold, and comes back all the same.
    assert ask(world, "rollback").state.phase is Phase.ROLLED_BACK
    assert world.violations == []


def test_nobody_watched_so_the_traffic_goes_back(world: World) -> None:
    first = world.controller(plan=PLAN)
    first.start(GOOD, STABLE)
    while world.weights["green"] < 50:
        first.tick()
        world.sleep(1)
    world.now += 600
    second = world.controller(plan=PLAN)
    second.resume()
    state = second.run()
    assert (state.phase, state.cause) == (Phase.ROLLED_BACK, "unwatched")
    assert world.weights == {"blue": 100.0, "green": 0.0}


def effects_of_a_rollback(world: World) -> int:
    promoted(world)
    del world.pods["blue"]
    world.store.submit("rollback", "kim", world.now)
    effects = Effects()
    controller = world.controller(effects, plan=PLAN)
    controller.resume()
    controller.run()
    return len(effects.log)


def test_a_controller_killed_at_any_effect_of_a_rollback_is_followed_by_one_that_ends_it(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = World(tmp_path / "whole")
    total = effects_of_a_rollback(whole)
    wanted = whole.place()
    whole.store.close()
    for moment in range(1, total + 1, max(1, total // 40)):
        folder = tmp_path / str(moment)
        folder.mkdir()
        world = World(folder)
        promoted(world)
        del world.pods["blue"]
        world.store.submit("rollback", "kim", world.now)
        # The checker infers no type for a lambda with a default.
        effects = Effects(kill_at=lambda n, _name, _when, moment=moment: n == moment)  # type: ignore[misc]
        with pytest.raises(Killed):
            dying = world.controller(effects, plan=PLAN)
            dying.resume()
            dying.run()
        world.now += 20
        following = world.controller(plan=PLAN)
        following.resume()
        following.run()
        assert world.place() == wanted, f"killed at effect {moment}"
        assert world.violations == []
        world.store.close()


def test_effects_that_fail_are_tried_again(world: World) -> None:
    promoted(world)
    del world.pods["blue"]

    def sometimes(target: Callable[..., Any]) -> Callable[..., Any]:
        calls = 0

        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls % 2:
                raise InfrastructureError("timed out")
            return target(*arguments)

        return call

    for name in ("write", "ensure", "scale"):
        setattr(world, name, sometimes(getattr(world, name)))
    assert ask(world, "rollback").state.phase is Phase.ROLLED_BACK
    assert world.weights == {"blue": 100.0, "green": 0.0}
    assert "green" not in world.pods
