"""How many replicas each slot has while traffic moves.

With `surge` both slots run in full. With `shift` there are only `replicas + spare` for both together: stable gives
replicas up as the candidate takes over, never below what its weight needs, and takes them back first of all when the
candidate must go. What is given up makes the way back slower, so its length is said.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servegate.rollout.plan import Plan


def needed(plan: Plan, weight: float) -> int:
    """Replicas that a weight needs, one at least where there is traffic."""
    return 0 if weight <= 0 else max(1, math.ceil(weight / plan.carries - 1e-9))


def candidate(plan: Plan, index: int) -> int:
    """Replicas the candidate must have ready before it gets the weight of a step."""
    step = plan.steps[index]
    if step.replicas is not None:
        return step.replicas
    return needed(plan, step.weight) if plan.capacity == "shift" else plan.replicas


def stable(plan: Plan, index: int) -> int:
    """Replicas that stable keeps once the candidate is made ready for a step."""
    if plan.capacity == "surge":
        return plan.replicas
    return min(plan.replicas, plan.replicas + plan.spare - candidate(plan, index))


def problem(plan: Plan) -> str | None:
    """Why the steps cannot be carried, with what would do; None when they can."""
    before = 0.0
    for index, step in enumerate(plan.steps):
        has, needs = candidate(plan, index), needed(plan, step.weight)
        if has < needs:
            return f"step {step.weight:g}%: replicas {has}; at {plan.carries:g}% each the weight needs {needs}"
        keeps = needed(plan, 100 - before)
        total = plan.replicas + plan.spare
        if plan.capacity == "shift" and has + keeps > total:
            return (
                f"step {step.weight:g}%: the candidate needs {has} replicas while stable still needs {keeps} for "
                f"{100 - before:g}%, and there are {total}; spare: {has + keeps - plan.replicas} would do, or a larger "
                f"replica_carries (now {plan.carries:g}%)"
            )
        before = step.weight
    return None
