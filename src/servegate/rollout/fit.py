"""How long a plan's steps must be: from the traffic, the margins, and the regressions that shall be found.

There is no formula for a plan of many checks under changing weights, so it is tried: the same decisions over invented
traffic, with all steps but the last stretched by one factor after the other, until every regression is rolled back as
often as wanted, and a healthy release still gets through unattended. A regression inside the plan's margins is never
found, by intention; it is named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

from servegate.config import validate
from servegate.errors import ConfigError
from servegate.rollout.model import Phase
from servegate.rollout.plan import Plan
from servegate.rollout.simulate import Scenario, simulate
from servegate.rollout.traffic import ROLLED_BACK, Traffic, scenarios
from servegate.units import plain

FACTORS = (1.0, 1.5, 2.0, 3.0, 5.0)
"""Tried one after the other."""


@dataclass(frozen=True)
class Need:
    """What one scenario needs.

    Args:
        name: of the regression, or `healthy`.
        factor: on the steps' times; None: none of the factors was enough.
        share: of rollouts with the wanted end, at that factor or at the longest tried.
    """

    name: str
    factor: float | None
    share: float


@dataclass(frozen=True)
class Fit:
    """What came of it.

    Args:
        needs: healthy first.
        factor: at which every regression that can be found is found; None: none can.
        steps: (weight in percent, seconds now, seconds needed).
        unattended: share of healthy releases that got through by themselves at that factor.
    """

    needs: tuple[Need, ...]
    factor: float | None
    steps: tuple[tuple[float, float, float], ...]
    unattended: float


def fit(
    plan: Plan,
    traffic: Traffic,
    *,
    power: float = 0.95,
    runs: int = 20,
    seed: int = 0,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Fit:
    """Try factors until the regressions are found in `power` of the rollouts. The same seed gives the same."""
    healthy, *broken = scenarios(traffic, plan)
    found: dict[str, Need] = {}
    unattended: dict[float, float] = {}
    with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:
        for number, factor in enumerate(FACTORS):
            longer = stretched(plan, factor)
            if longer is None:
                break
            open_ones = [case for case in broken if found.get(case.name, Need("", None, 0.0)).factor is None]
            for case in open_ones:
                share = _share(pool, longer, case, runs, seed, ROLLED_BACK)
                found[case.name] = Need(case.name, factor if share >= power else None, share)
            unattended[factor] = _share(pool, longer, healthy, runs, seed, (Phase.PROMOTED,))
            progress(number + 1, len(FACTORS))
            if all(need.factor is not None for need in found.values()):
                break
    enough = [need.factor for need in found.values() if need.factor is not None]
    needed = max(enough) if enough else None
    at = needed or 1.0
    good = next((tried for tried, share in unattended.items() if share >= power), None)
    return Fit(
        needs=(Need(healthy.name, good, unattended[at]), *found.values()),
        factor=needed,
        steps=tuple(
            (step.weight, step.min_time, step.min_time * (1.0 if number == len(plan.steps) - 1 else at))
            for number, step in enumerate(plan.steps)
        ),
        unattended=unattended[at],
    )


def stretched(plan: Plan, factor: float) -> Plan | None:
    """The plan with all steps but the last longer; None when it would not be one any more (limits.step)."""
    document = plan.model_dump(mode="json")
    for step, of_plan in zip(document["steps"][:-1], plan.steps, strict=False):
        step["min_time"] = f"{plain(of_plan.min_time * factor)}s"
    try:
        return validate(document, Plan, "stretched plan")
    except ConfigError:
        return None


def _share(pool: ProcessPoolExecutor, plan: Plan, case: Scenario, runs: int, seed: int, ends: Sequence[Phase]) -> float:
    done = pool.map(partial(simulate, plan, case), range(seed, seed + runs), chunksize=2)
    return sum(run.phase in ends for run in done) / runs
