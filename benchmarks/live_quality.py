"""How often live quality is wrong at its margin, and how many items it takes to find what is there.

    python benchmarks/live_quality.py                  300 runs, half a minute
    python benchmarks/live_quality.py --runs 3000      the table of docs/rollout-decisions.md

A suite of 100 items whose mean score differs by a stated drop is asked of two slots, in a new random order (about the
suite) or drawn anew each time (about the population), through the very evidence that `decide` gathers. Margin 10 points
against the candidate and for it, limit 20 in both directions. Prints the table and writes it with the machine to
out/bench/live-quality.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from servegate.config import validate
from servegate.contract import write_atomic
from servegate.demo.summary import machine_facts
from servegate.rollout import evidence, evidence_quality
from servegate.rollout.checks import Quality
from servegate.rollout.interval import View
from servegate.rollout.model import CheckState
from servegate.rollout.plan import Plan
from servegate.rollout.seen import Asked
from servegate.stats.intervals import wilson

OUTPUT = Path(__file__).parents[1] / "out" / "bench" / "live-quality.json"
SUITE = "sha256:" + "a" * 64
ITEMS, MARGIN = 100, 10
DROPS = (0, 5, 10, 20, 30)
"""Points of mean score by which the candidate is worse."""
CHANGED = 5
"""Items that the candidate answers and stable does not, in every suite: two models never fail on the same ones."""


def plan(of: str, margin: int, promote_margin: int | None) -> Plan:
    """One check, with the whole of alpha and of promote_alpha."""
    check = {
        "kind": "quality", "name": "answers", "share": "100%", "suite": "s.yaml", "items": ITEMS, "rate": 1, "of": of,
        "margin": f"{margin}%", "promote_margin": None if promote_margin is None else f"{promote_margin}%",
    }  # fmt: skip
    steps = [{"weight": "10%", "min_time": "10m"}, {"weight": "100%", "min_time": "5s"}]
    whole = {"version": 1, "name": "quality", "expect": {"requests_per_second": 20}, "steps": steps, "checks": [check]}
    return validate({**whole, "alpha": "5%", "promote_alpha": "5%"}, Plan, "plan")


def run(the_plan: Plan, drop: int, seed: int) -> int | None:
    """Items after which the evidence has reached its limit: for promotion where the plan asks for it, else against.

    None: not within the suite.
    """
    check = the_plan.checks[0]
    assert isinstance(check, Quality)
    rng = np.random.default_rng(seed)
    differences = np.array([-1.0] * (drop + CHANGED) + [1.0] * CHANGED + [0.0] * (ITEMS - drop - 2 * CHANGED))
    drawn = rng.permutation(differences) if check.of == "suite" else rng.choice(differences, ITEMS)
    state = CheckState()
    for position, difference in enumerate(drawn):
        asked = Asked(
            check=check.name, suite=SUITE, position=position,
            candidate=max(0.0, float(difference)), stable=max(0.0, -float(difference)),
        )  # fmt: skip
        view = View(
            at=position, previous=position - 1, stable="blue", candidate="green", weight=10.0, cold=False, deltas={},
            ready={}, asked=(asked,),
        )  # fmt: skip
        state = evidence_quality.advance(the_plan, check, state, view)
        promotion = evidence.promote_log_e(the_plan, check, state)
        reached = (
            evidence.log_e(the_plan, check, state) >= the_plan.log_limit(check)
            if promotion is None
            else promotion >= the_plan.promote_log_limit
        )
        if reached:
            return position + 1
    return None


def main() -> int:
    """Run all cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(f"{ITEMS} items, margin {MARGIN} points, limit 20, {options.runs} runs")
    print(f"{'about':<12}{'points worse':>13}  {'end':<12}{'share':>8}  {'95 % interval':>15}{'items':>7}")
    for of in ("suite", "population"):
        plans = {"sent back": plan(of, MARGIN, None), "let through": plan(of, MARGIN // 2, MARGIN)}
        for drop in DROPS:
            for end, the_plan in plans.items():
                ends = [run(the_plan, drop, options.seed + number) for number in range(options.runs)]
                reached = [n for n in ends if n is not None]
                found = wilson(len(reached), len(ends))
                items = float(np.median(reached)) if reached else None
                rows.append(
                    {
                        "about": of, "points_worse": drop, "end": end, "share": len(reached) / len(ends),
                        "interval": (found.low, found.high), "items_median": items,
                    }
                )  # fmt: skip
                interval = f"{found.low * 100:.1f} to {found.high * 100:.1f}"
                shown = "–" if items is None else f"{items:.0f}"
                share = f"{100 * len(reached) / len(ends):.1f} %"
                print(f"{of:<12}{drop:>13}  {end:<12}{share:>8}  {interval:>15}{shown:>7}", flush=True)
    document = {"runs": options.runs, "seed": options.seed, "machine": machine_facts(), "rows": rows}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(OUTPUT, json.dumps(document, indent=2).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
