"""How often the shipped plan rolls a healthy release back, and how soon a broken one, over invented traffic.

    python benchmarks/rollout_decisions.py --runs 1000          the table of docs/rollout-decisions.md
    python benchmarks/rollout_decisions.py --runs 50 --json     quickly, for a look

Drives the very `decide` that the controller drives, tick by tick. Runs are seeded by their number, so a table can be
made again and any single run be looked at. Prints the table and writes it with the machine to
out/bench/rollout-decisions.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from servegate.contract import write_atomic
from servegate.demo.summary import machine_facts
from servegate.rollout.model import Phase
from servegate.rollout.plan import Plan, load_plan
from servegate.rollout.simulate import Run, Scenario, Side, simulate, standard, trace
from servegate.stats.intervals import wilson

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "out" / "bench" / "rollout-decisions.json"
ROLLED_BACK = (Phase.ROLLING_BACK, Phase.ROLLED_BACK)


def scenarios() -> list[Scenario]:
    """The standard ones, and the same with errors that both slots have always had."""
    found = standard()
    healthy, slow_weather = found[0], found[1]
    found.insert(2, replace(slow_weather, name="healthy, the same shocks lasting five times as long"))
    found[2] = replace(found[2], candidate=replace(found[2].candidate, shock_rho=0.9**0.2))
    usual = Side(error_rate=0.005)
    found[5:5] = [
        replace(healthy, name="healthy, 0.5 % errors on both", stable=usual, candidate=usual),
        replace(
            healthy,
            name="healthy, 0.5 % errors on both, one burst of 5 s on the candidate",
            stable=usual,
            candidate=replace(usual, burst_at=0.0),
            burst_anywhere=85.0,
        ),
    ]
    for base in (0.001, 0.005):
        side = Side(error_rate=base)
        found.append(Scenario(f"errors {base * 100:g} → 10 %", side, replace(side, error_rate=0.1), broken=True))
    side = Side()
    found.append(Scenario("ttft x1.5", side, replace(side, ttft_median=1.5 * side.ttft_median), broken=True))
    found.append(Scenario("dies after 30 s", side, replace(side, dies_at=30.0), broken=True))
    return found


def measure(plan: Plan, scenario: Scenario, runs: int, seed: int, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """One row of the table."""
    done = list(pool.map(partial(simulate, plan, scenario), range(seed, seed + runs), chunksize=10))
    back = [run for run in done if run.phase in ROLLED_BACK]
    since = np.array([_since_ten_percent(run, scenario) for run in back])
    promoted = np.array([run.seconds for run in done if run.phase is Phase.PROMOTED])
    share = wilson(len(back), runs)
    return {
        "scenario": scenario.name,
        "broken": scenario.broken,
        "runs": runs,
        "rolled_back": len(back) / runs,
        "rolled_back_low": share.low,
        "rolled_back_high": share.high,
        "promoted": len(promoted) / runs,
        "promoted_within_100_s": float(np.mean(promoted <= 100) * len(promoted) / runs) if len(promoted) else 0.0,
        "promoted_seconds_median": float(np.median(promoted)) if len(promoted) else None,
        "seconds_median": float(np.median(since)) if len(back) else None,
        "seconds_p95": float(np.quantile(since, 0.95)) if len(back) else None,
        "within_45_s": float(np.mean(since <= 45) * len(back) / runs) if len(back) else 0.0,
        "within_60_s": float(np.mean(since <= 60) * len(back) / runs) if len(back) else 0.0,
        "at_most_ten_percent": float(np.mean([run.weight <= 10 for run in back])) if back else None,
        "requests_median": float(np.median([run.requests for run in back])) if back else None,
        "failures_median": float(np.median([run.failures for run in back])) if back else None,
        "causes": dict(Counter(run.cause for run in back).most_common()),
    }


def _since_ten_percent(run: Run, scenario: Scenario) -> float:
    """Seconds from when the candidate was first given 10 %, or from the defect's onset if that came later."""
    assert run.decided is not None
    began = max(run.weights_at.get(10.0, 0.0), scenario.onset, scenario.candidate.dies_at or 0.0)
    return run.decided - began


def table(rows: list[dict[str, Any]]) -> str:
    """Two Markdown tables."""
    lines = ["| healthy | rolled back (95 % interval) | promoted | within 100 s | median |", "|---|---|---|---|---|"]
    for row in rows:
        if not row["broken"]:
            interval = f"{row['rolled_back_low']:.1%} – {row['rolled_back_high']:.1%}"
            median = "–" if row["promoted_seconds_median"] is None else f"{row['promoted_seconds_median']:.0f} s"
            lines.append(
                f"| {row['scenario']} | {row['rolled_back']:.1%} ({interval}) | {row['promoted']:.1%} "
                f"| {row['promoted_within_100_s']:.1%} | {median} |"
            )
    lines += [
        "",
        (
            "| broken | rolled back | median | 95 % of them within | of all within 45 s | within 60 s "
            "| at ≤ 10 % of traffic | candidate's requests (failed) |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["broken"] and row["seconds_median"] is not None:
            lines.append(
                f"| {row['scenario']} | {row['rolled_back']:.1%} | {row['seconds_median']:.0f} s "
                f"| {row['seconds_p95']:.0f} s | {row['within_45_s']:.1%} | {row['within_60_s']:.1%} "
                f"| {row['at_most_ten_percent']:.1%} | {row['requests_median']:.0f} ({row['failures_median']:.0f}) |"
            )
    return "\n".join(lines)


def tick_cost(plan: Plan) -> float:
    """Milliseconds of processor time per tick, invented traffic included."""
    began, ticks = time.process_time(), 0
    for seed in range(20):
        ticks += sum(1 for _ in trace(plan, standard()[0], seed))
    return 1000 * (time.process_time() - began) / ticks


def main() -> int:
    """Measure, print, write; 1 when a claim of the documentation does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="runs per scenario")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--plan", type=Path, default=ROOT / "rollout" / "canary.yaml")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    plan = load_plan(options.plan)
    rows = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for scenario in scenarios():
            rows.append(measure(plan, scenario, options.runs, options.seed, pool))
            sys.stderr.write(f"{rows[-1]['scenario']}: {rows[-1]['rolled_back']:.1%} rolled back\n")
    result = {
        "machine": machine_facts(),
        "plan": plan.identity(),
        "alpha": plan.alpha,
        "milliseconds_per_tick": tick_cost(plan),
        "rows": rows,
    }
    write_atomic(OUTPUT, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print(table(rows))
        print(f"\n{result['milliseconds_per_tick']:.2f} ms of processor time per tick, invented traffic included")
    by_name = {row["scenario"]: row for row in rows}
    claims = [by_name["healthy"]["promoted_within_100_s"] >= 0.99]
    claims += [by_name[name]["within_45_s"] >= 0.95 for name in ("errors 10 %", "ttft x2")]
    claims += [
        row["rolled_back"] <= plan.alpha for row in rows if not row["broken"] and "five times" not in row["scenario"]
    ]
    return 0 if all(claims) else 1


if __name__ == "__main__":
    sys.exit(main())
