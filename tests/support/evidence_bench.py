"""Checks of the plan of decide_bench, fed tick by tick."""

from __future__ import annotations

import math
from typing import Any

from decide_bench import delta, plan
from pydantic import TypeAdapter

from servegate.rollout import evidence
from servegate.rollout.evidence import advance
from servegate.rollout.interval import View
from servegate.rollout.model import CheckState, SlotDelta
from servegate.rollout.plan import Check, Plan

PLAN = plan()
CHECKS: dict[str, Check] = {check.name: check for check in PLAN.checks}


def view(
    number: int,
    blue: SlotDelta,
    green: SlotDelta,
    weight: float = 10,
    cold: bool = False,
    warm_for: float = math.inf,
) -> View:
    return View(
        at=float(number),
        previous=float(number - 1),
        stable="blue",
        candidate="green",
        weight=weight,
        cold=cold,
        deltas={"blue": blue, "green": green},
        ready={"blue": 1, "green": 1},
        warm_for=warm_for,
    )


def gather(name: str, ticks: list[tuple[SlotDelta, SlotDelta]], the_plan: Plan = PLAN, **options: Any) -> CheckState:
    """A check's state after some ticks of (blue, green), one second each."""
    check = next(check for check in the_plan.checks if check.name == name)
    state = CheckState()
    for number, (blue, green) in enumerate(ticks, 1):
        state = advance(the_plan, check, state, view(number, blue, green, **options))
    return state


def log_e(name: str, state: CheckState) -> float:
    return evidence.log_e(PLAN, CHECKS[name], state)


HEALTHY = (delta(18), delta(2))
FAILING = (delta(18), delta(2, 1))


def with_check(**check: Any) -> Plan:
    """The plan with one check; what it could decide is not asked."""
    made: Check = TypeAdapter(Check).validate_python({"name": "it", "share": "100%", **check})
    return PLAN.model_copy(update={"checks": (made,)})
