"""What a drill says of the net."""

from __future__ import annotations

from typing import Any

import pytest

from servegate.loadtest.background import Counts
from servegate.pipeline.drill import judged, seconds_to_safe
from servegate.rollout.memory import HistoryLine
from servegate.rollout.model import Phase, SlotRelease, State

LOAD = Counts(finished=100, failed=7)


def line(at: float, green: float, rollout: str = "r") -> HistoryLine:
    weights = {"blue": 100 - green, "green": green}
    return HistoryLine(at=at, rollout=rollout, phase="STEP", weights=weights, reason="because")


MOVED = [line(1, 5, "before"), line(10, 0), line(12, 1), line(15, 10), line(18.5, 0), line(20, 0)]


def state(**changed: Any) -> State:
    made = State(
        rollout="r",
        plan=f"sha256:{'0' * 64}",
        phase=Phase.ROLLED_BACK,
        stable="blue",
        candidate="green",
        slots={slot: SlotRelease(release=f"sha256:{'0' * 64}", name=slot) for slot in ("blue", "green")},
        weights={"blue": 100.0, "green": 0.0},
        cause="errors",
        reason="errors: too many",
        created=0.0,
        updated=20.0,
        phase_since=0.0,
    )
    return made.model_copy(update=changed)


def test_the_time_to_safe_is_from_the_first_weight_to_the_first_without() -> None:
    assert seconds_to_safe(MOVED, "r", "blue") == 6.5
    assert seconds_to_safe(MOVED[:4], "r", "blue") is None  # not taken back
    assert seconds_to_safe([line(1, 0)], "r", "blue") is None  # never had any


def test_a_net_that_held() -> None:
    found = judged(state(), MOVED, LOAD)
    assert (found.hole, found.seconds_to_safe, found.requests, found.hurt) == (None, 6.5, 100, 7)


@pytest.mark.parametrize(
    ("changed", "history", "load", "said"),
    [
        ({"phase": Phase.PROMOTED}, MOVED, LOAD, "was promoted"),
        ({"cause": "abort"}, [line(10, 0)], LOAD, "never had traffic"),
        ({"cause": "held"}, MOVED, LOAD, "not because the release is bad"),
        ({"unproven": "no answer"}, MOVED, LOAD, "not because the release is bad"),
        ({"weights": {"blue": 99.0, "green": 1.0}}, MOVED, LOAD, "the stable slot has 99 %"),
        ({}, [line(10, 0)], LOAD, "never had traffic"),
        ({}, MOVED, Counts(), "the load measured nothing"),
    ],
)
def test_every_hole_is_said(changed: dict[str, Any], history: list[HistoryLine], load: Counts, said: str) -> None:
    found = judged(state(**changed), history, load)
    assert found.hole is not None
    assert said in found.hole
