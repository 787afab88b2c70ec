"""A fault that begins late: what a plan without and with a bake promises."""

from __future__ import annotations

from typing import Any

import plans
import pytest
import yaml

from servegate.rollout.model import Phase
from servegate.rollout.plan import Plan
from servegate.rollout.simulate import Scenario, Side, simulate

SHORT: dict[str, Any] = yaml.safe_load(plans.short())
"""The plan of the tests in a cluster."""
BAKED = {**SHORT, "bake": {"control": "5%", "min_time": "20s"}}
"""Longer than it takes to find the fault, about 13 s."""


@pytest.mark.parametrize(
    ("plan", "onset", "phase"),
    [
        (SHORT, 10.0, Phase.ROLLED_BACK),
        (SHORT, 26.0, Phase.PROMOTED),  # 5 s before the end: from here on it is the guard's
        (BAKED, 24.0, Phase.ROLLED_BACK),
    ],
)
def test_a_fault_is_found_before_the_promotion_when_it_began_early_enough_to_be_found(
    plan: dict[str, Any], onset: float, phase: Phase
) -> None:
    late = Scenario("late", candidate=Side(error_rate=0.5), broken=True, requests_per_second=8.0, onset=onset)
    found = [simulate(Plan.model_validate(plan), late, seed).phase for seed in range(5)]
    assert found == [phase] * 5
