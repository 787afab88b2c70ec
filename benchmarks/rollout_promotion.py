"""How often a healthy release gets through unattended by plans that `rollout plan` calls feasible.

    python benchmarks/rollout_promotion.py                10 runs per cell
    python benchmarks/rollout_promotion.py --runs 200     the table of docs/rollout-trial.md

Every plan that ships is made for every rate. Where it is refused its steps and limits are stretched until it is
accepted for the first time: the least that `rollout plan` calls feasible, so the hardest that its word must hold for.
Then healthy releases are rolled out by the simulation of `rollout simulate`. Prints the table and writes it with the
machine to out/bench/rollout-promotion.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from servegate.config import validate
from servegate.contract import write_atomic
from servegate.demo.summary import machine_facts
from servegate.errors import ConfigError
from servegate.rollout.model import Phase
from servegate.rollout.plan import Plan, load_plan
from servegate.rollout.simulate import Run, Scenario, simulate, standard
from servegate.stats.intervals import wilson
from servegate.units import plain

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "out" / "bench" / "rollout-promotion.json"
PLANS = ("canary", "vllm-cpu")
RATES = (0.1, 0.5, 1.0, 2.0, 10.0, 20.0, 50.0, 500.0)
FACTORS = tuple(1.25**power for power in range(40))
CLAIM = 0.95


def accepted(name: str, rate: float) -> tuple[Plan, float] | None:
    """The plan for a rate, and by how much its times had to be stretched until it was not refused."""
    usual = load_plan(ROOT / "rollout" / f"{name}.yaml")
    for factor in FACTORS:
        document = usual.model_dump(mode="json")
        document["expect"]["requests_per_second"] = rate
        for step, of_plan in zip(document["steps"], usual.steps, strict=True):
            step["min_time"] = f"{plain(of_plan.min_time * factor)}s"
        document["limits"]["step"] = f"{plain(usual.limits.step * factor)}s"
        # Nobody looks every second at steps of hours.
        document["tick"] = f"{plain(min(5.0, usual.tick * factor))}s"
        for check in document["checks"]:
            check["interval"] = f"{plain(max(5.0 if factor > 5 else 0.0, float(check['interval'][:-1])))}s"
        try:
            return validate(document, Plan, name), factor
        except ConfigError:
            continue
    return None


def healthy(plan: Plan, rate: float) -> list[Scenario]:
    """The healthy scenarios of the standard ones, at a rate; what happens once happens at any time of the run."""
    long = sum(step.min_time for step in plan.steps)
    return [
        replace(scenario, burst_anywhere=None if scenario.burst_anywhere is None else long)
        for scenario in standard(rate)
        if not scenario.broken
    ]


def one(plan: Plan, scenario: Scenario, seed: int) -> Run:
    """One release; time enough for all limits."""
    return simulate(plan, scenario, seed, plan.limits.step * len(plan.steps) + plan.limits.held + plan.limits.prepare)


def main() -> int:
    """Run all cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--plans", nargs="+", default=PLANS)
    parser.add_argument("--jobs", type=int, help="processes; one per core unless said")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(f"{options.runs} runs per cell; promoted unattended")
    with ProcessPoolExecutor(options.jobs) as pool:
        for name in options.plans:
            for rate in options.rates:
                found = accepted(name, rate)
                if found is None:
                    print(f"{name:<10}{rate:>7g}/s   refused however long its steps", flush=True)
                    continue
                plan, factor = found
                for scenario in healthy(plan, rate):
                    seeds = range(options.seed, options.seed + options.runs)
                    ends = list(pool.map(partial(one, plan, scenario), seeds))
                    promoted = sum(run.phase is Phase.PROMOTED for run in ends)
                    interval = wilson(promoted, len(ends))
                    why = Counter(run.cause for run in ends if run.phase is not Phase.PROMOTED)
                    rows.append(
                        {
                            "plan": name, "requests_per_second": rate, "stretched": factor, "scenario": scenario.name,
                            "promoted": promoted / len(ends), "interval": (interval.low, interval.high),
                            "minutes": sorted(run.seconds for run in ends)[len(ends) // 2] / 60, "otherwise": dict(why),
                        }
                    )  # fmt: skip
                    row = rows[-1]
                    told = "" if row["promoted"] >= CLAIM else f"  BELOW {CLAIM:.0%}: {dict(why)}"
                    print(
                        f"{name:<10}{rate:>7g}/s  steps ×{factor:>7.3g}  {row['minutes']:>7.1f} min  "
                        f"{100 * row['promoted']:>5.1f} % ({100 * interval.low:.0f} to {100 * interval.high:.0f})  "
                        f"{scenario.name}{told}",
                        flush=True,
                    )
    document = {"runs": options.runs, "seed": options.seed, "machine": machine_facts(), "rows": rows}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(OUTPUT, json.dumps(document, indent=2).encode())
    return 0 if all(row["promoted"] >= CLAIM for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
