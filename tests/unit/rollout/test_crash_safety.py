"""A thousand deaths: whatever a controller is killed at, the rollout ends where it should, and nothing bad is done."""

from __future__ import annotations

import pytest
from crash_machine import EFFECTS, Crashes, CrashesInTrouble
from crash_world import TROUBLES
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

QUIET = settings(
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)


@pytest.mark.timeout(600)
def test_a_rollout_survives_its_controllers() -> None:
    for machine, examples in ((Crashes, 60), (CrashesInTrouble, 100)):
        machine.counted.clear()
        run_state_machine_as_test(machine, settings=settings(QUIET, max_examples=examples, stateful_step_count=25))
        deaths = machine.deaths()
        assert sum(deaths.values()) >= 500, deaths
        # Every effect was cut short, before and after it happened.
        assert set(deaths) >= {f"{when} {effect}" for when in ("before", "after") for effect in EFFECTS}, deaths
    assert {f"trouble: {kind}" for kind in TROUBLES} <= set(CrashesInTrouble.counted)
