"""How long a plan's steps must be: from the traffic, the margins, and the regressions that shall be found.

There is no formula for a plan of many checks under changing weights, so it is tried: the same decisions over invented
traffic. First all steps but the last are stretched by one factor after the other, until every regression is rolled back
as often as wanted. Then each step in turn, the longest first, is taken back as far as the regressions that needed the
stretching are still found: most checks gather their evidence in one step, and the others need not wait for it. No step
becomes shorter than it was. A regression inside the plan's margins is never found, by intention; it is named.
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
        factor: on all steps at which every regression that can be found is found; None: none can.
        steps: (weight in percent, seconds now, seconds needed): each step as much longer as it must be itself.
        unattended: share of healthy releases that got through by themselves with these steps.
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
    every = len(plan.steps) - 1
    with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:

        def share(factors: Sequence[float], case: Scenario, ends: Sequence[Phase]) -> float | None:
            longer = stretched(plan, factors)
            return None if longer is None else _share(pool, longer, case, runs, seed, ends)

        for number, factor in enumerate(FACTORS):
            for case in broken:
                if found.get(case.name, Need("", None, 0.0)).factor is not None:
                    continue
                got = share([factor] * every, case, ROLLED_BACK)
                if got is not None:
                    found[case.name] = Need(case.name, factor if got >= power else None, got)
            progress(number + 1, len(FACTORS) + every)
            if all(need.factor is not None for need in found.values()):
                break
        needed = max((need.factor for need in found.values() if need.factor is not None), default=None)
        demanding = [case for case in broken if (found[case.name].factor or 1.0) > 1.0]
        factors = [needed or 1.0] * every
        for number, index in enumerate(sorted(range(every), key=lambda index: -plan.steps[index].min_time)):
            for smaller in [factor for factor in FACTORS if factor < factors[index]]:
                tried = [*factors[:index], smaller, *factors[index + 1 :]]
                if all((share(tried, case, ROLLED_BACK) or 0.0) >= power for case in demanding):
                    factors = tried
                    break
            progress(len(FACTORS) + number + 1, len(FACTORS) + every)
        unattended = share(factors, healthy, (Phase.PROMOTED,)) or 0.0
    return Fit(
        needs=(Need(healthy.name, needed or 1.0, unattended), *found.values()),
        factor=needed,
        steps=tuple(
            (step.weight, step.min_time, step.min_time * factor)
            for step, factor in zip(plan.steps, [*factors, 1.0], strict=True)
        ),
        unattended=unattended,
    )


def stretched(plan: Plan, factors: Sequence[float]) -> Plan | None:
    """The plan with longer steps, one factor for each but the last; None when it would not be one any more."""
    document = plan.model_dump(mode="json")
    for step, of_plan, factor in zip(document["steps"], plan.steps, factors, strict=False):
        step["min_time"] = f"{plain(of_plan.min_time * factor)}s"
    try:
        return validate(document, Plan, "stretched plan")
    except ConfigError:
        return None


def _share(pool: ProcessPoolExecutor, plan: Plan, case: Scenario, runs: int, seed: int, ends: Sequence[Phase]) -> float:
    done = pool.map(partial(simulate, plan, case), range(seed, seed + runs), chunksize=2)
    return sum(run.phase in ends for run in done) / runs
