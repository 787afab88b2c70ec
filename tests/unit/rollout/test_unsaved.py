"""Ticks that are not saved one by one: which those are, and that nothing is lost by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_life import Killed
from crash_world import GOOD, OLD, World, begin_or_go_on

from servegate.rollout import memory
from servegate.rollout.audit import read_trail, replay
from servegate.rollout.model import Phase
from servegate.rollout.ports import Lease


def saves(world: World, pace: float) -> tuple[int, float]:
    """How often an undisturbed rollout is saved, and how long it takes."""
    world.store.pace = pace
    life, began = world.life(), world.now
    controller = world.controller(life)
    controller.start(GOOD, OLD)
    assert controller.run().phase is Phase.PROMOTED
    return sum(what == "after store.save" for what in life.moments), world.now - began


def test_a_quiet_tick_waits_for_the_next_save_and_its_line_with_it(tmp_path: Path) -> None:
    each, seconds = saves(World(tmp_path / "each"), 0.0)
    some, again = saves(World(tmp_path / "some"), 5.0)
    assert seconds == again
    assert some < each * 0.6
    trails = [read_trail(tmp_path / name / "audit.jsonl") for name in ("each", "some")]
    assert len(trails[0]) == len(trails[1])
    for trail in trails:
        assert not replay(trail).differences
        assert all(line.effects is not None for line in trail)


def test_whoever_follows_goes_on_from_the_last_save(tmp_path: Path) -> None:
    """Killed in a quiet tick: the ticks since the save have not been, and the requests of that time are not lost."""
    world = World(tmp_path, pace=4.0)
    quiet = 0

    def sleep(seconds: float) -> None:
        nonlocal quiet
        world.sleep(seconds)
        found = memory.load(world.store)[0]
        assert found is not None
        quiet += found.state.phase is Phase.BAKING and world.now - found.state.updated > 2.5
        if quiet:
            life.dead = True
            raise Killed

    life = world.life()
    controller = world.controller(life, sleep)
    with pytest.raises(Killed):
        begin_or_go_on(controller, GOOD)
        controller.run()
    saved = memory.load(world.store)[0]
    assert saved is not None
    assert controller.state.updated > saved.state.updated
    world.sleep(20)
    heir = world.controller(world.life())
    heir.resume()
    state = heir.run()
    assert state.phase is Phase.PROMOTED
    served = world.gateway["green"]["gateway_requests"]
    assert state.totals["green"].requests == pytest.approx(served, abs=2 * 40)
    assert not replay(read_trail(tmp_path / "audit.jsonl")).differences
    assert world.violations == []


def test_no_weight_moves_to_a_slot_that_was_lost_since_it_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pod goes between the observation and the write: the slot is asked once more, and the weights stay."""
    world = World(tmp_path)
    said: list[str] = []
    controller = world.controller(world.life())
    controller.on_notice = lambda _level, message: said.append(message)
    controller.start(GOOD, OLD)
    save = controller.store.save
    lost = False

    def saved(state: str, expected_version: int, lease: Lease) -> int:
        nonlocal lost
        version = save(state, expected_version, lease)
        found = memory.load(world.store)[0]
        assert found is not None
        if found.state.weights["green"] == 10 and not lost:
            lost = True
            world.pods["green"].since = world.now
        return version

    monkeypatch.setattr(controller.store, "save", saved)
    assert controller.run().phase is Phase.PROMOTED
    assert lost
    assert any("green has no ready replica of v2 any more" in message for message in said)
    assert world.violations == []
