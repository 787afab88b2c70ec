"""Death at any effect: a controller that is killed is followed by another, and the rollout ends in the same place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rollout_world import BAD, GOOD, STABLE, Effects, Killed, World

from servegate.errors import ConfigError, InfrastructureError
from servegate.release import Release
from servegate.rollout import memory
from servegate.rollout.controller import Controller
from servegate.rollout.journal import append_line


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
