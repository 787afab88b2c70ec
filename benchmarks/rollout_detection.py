"""How soon is a broken release seen, how often is a healthy one blamed: this project, its peers, and what is possible.

    python benchmarks/rollout_detection.py --quick           60 runs per cell, a few minutes on two cores
    python benchmarks/rollout_detection.py                   1,000 runs per cell; goes on where it was stopped
    python benchmarks/rollout_detection.py --plot docs/img/rollout-detection.svg

24 scenarios at five rates. A run lasts 30 minutes in ticks of 5 s; the candidate has 10 % of the traffic at
10 requests/s and more, 50 % below. Prints the tables of docs/rollout-detection.md and writes them as JSON to out/bench.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from rollout_bench import cells, filters, limits, peers, report, rules, traffic

from servegate.contract import write_atomic
from servegate.demo.summary import machine_facts
from servegate.rollout import bets
from servegate.stats import eprocess, shift

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "out" / "bench"
JUDGING = (bets, eprocess, shift, filters, rules, traffic, limits, peers, cells)


def main() -> int:
    """Compute what is missing, print the tables; 1 when a healthy release is blamed too often."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60 runs per cell")
    parser.add_argument("--runs", type=int, help="runs per cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON instead of the tables")
    parser.add_argument("--plot", type=Path, help="also draw the figure (needs matplotlib)")
    options = parser.parse_args()
    runs = options.runs or (60 if options.quick else 1000)
    folder = OUTPUT / f"rollout-detection-{runs}"
    code = hashlib.sha256(b"".join(Path(module.__file__ or "").read_bytes() for module in JUDGING)).hexdigest()
    cells.facts(folder, {"runs": runs, "seed": options.seed, "code": code})
    jobs = [
        (scenario.name, rate, runs, options.seed, str(folder))
        for rate in traffic.RATES
        for scenario in traffic.SCENARIOS
    ]
    began = time.monotonic()
    with ProcessPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(cells.compute, job) for job in jobs]
        for done, future in enumerate(as_completed(futures), start=1):
            left = (time.monotonic() - began) / done * (len(jobs) - done)
            sys.stderr.write(f"\r{done} of {len(jobs)} cells, about {left:.0f} s left: {future.result():<24}")
    sys.stderr.write("\n")
    every = [cells.read(folder, scenario, rate) for scenario in traffic.SCENARIOS for rate in traffic.RATES]
    tuned = cells.tuned_by_rate(every, at_most=0.01)
    rows: list[dict[str, Any]] = [report.row(cell, tuned[cell.rate]) for cell in every]
    result = {
        "machine": machine_facts(),
        "runs": runs,
        "seconds": traffic.SECONDS,
        "tick": traffic.TICK,
        "alpha": rules.ALPHA,
        "tuned": {f"{rate:g}": [(tool, str(how)) for tool, how in found] for rate, found in tuned.items()},
        "rows": rows,
    }
    write_atomic(OUTPUT / "rollout-detection.json", (json.dumps(result, indent=1) + "\n").encode())
    if not options.json:
        print(report.tables(rows, tuned))
    if options.plot:
        report.plot(rows, options.plot)
    worst = max(row["rolled_back"] for row in rows if not row["broken"])
    if options.json:
        broken = [row for row in rows if row["broken"]]
        misses = {kind: sum(kind in row["misses"] for row in broken) for kind in ("power", "peer", "limit")}
        print(json.dumps({"worst_false_rollback": worst, "cells": len(broken), "misses": misses}))
        return 0
    # The estimate itself scatters: two standard deviations above 1 % are no proof of more than 1 %.
    return 0 if worst <= rules.ALPHA + 2 * np.sqrt(rules.ALPHA / runs) else 1


if __name__ == "__main__":
    sys.exit(main())
