"""How long a person waits for `servegate gate check` on ten reports with their answers, against a baseline each.

    python benchmarks/gate_speed.py

Each run is a new process, as in CI: interpreter, imports, twenty reports and sidecars read and their digests checked,
ten paired comparisons, the verdict printed and written. Half the suites are right or wrong, half have scores between
(bootstrap). Prints one JSON object: seconds of wall clock and of processor for 10,000 paired items in all and in each,
and the modules of extras that were imported (there must be none).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from servegate.process import python
from servegate.report.model import Conditions, Interval, Measure, Report, Samples, Subject
from servegate.report.records import EvalRecord, write_records
from servegate.stats.intervals import mean

REPORTS = 10
RUNS = 7
CHECK = """
import sys
from servegate.cli import main
try:
    main()
finally:
    extras = ("scipy", "pandas", "matplotlib", "locust", "openai", "aiohttp", "kubernetes", "jinja2", "urllib3")
    sys.stderr.write("imported: " + ",".join(name for name in extras if name in sys.modules))
"""


def report(folder: Path, suite: int, items: int, release: str, seed: int) -> Path:
    """One report with its answers, of a release that is the same as the other."""
    rng = np.random.default_rng(seed)
    scores = (np.random.default_rng(suite).random(items) < 0.85).astype(float)
    flipped = rng.random(items) < 0.04
    scores = np.where(flipped, 1 - scores, scores)
    if suite % 2:
        scores = np.round(np.clip(scores * 0.8 + rng.random(items) * 0.2, 0, 1), 3)
    records = [
        EvalRecord(
            id=f"item-{index}",
            tags=("refund", "en") if index % 3 else ("returns", "ko"),
            item_sha256=f"sha256:{index:064x}",
            scorer="exact",
            score=float(score),
            reason="equal to a target",
            answer="The return costs 2,500 won and is paid back within three working days.",
            target="2,500 won",
            finish_reason="stop",
            sent=1.7e9 + index,
            e2e_latency=0.4,
            prompt_tokens=50,
            output_tokens=20,
        )
        for index, score in enumerate(scores)
    ]
    digest = write_records(folder / f"suite-{suite}.jsonl", records)
    value = float(np.mean(scores))
    found = mean(scores)
    path = folder / f"suite-{suite}.json"
    Report(
        kind="eval",
        name=f"suite-{suite}",
        subject=Subject(release=release, name="v1.4.0"),
        conditions=Conditions(dataset_sha256=f"sha256:{suite:064x}", seed=7, temperature=0, concurrency=8),
        started=1.7e9 + seed,
        finished=1.7e9 + seed + 60,
        tool="servegate",
        measures=(
            Measure(
                name="accuracy",
                statistic="mean",
                value=value,
                unit="fraction",
                n=items,
                attempted=items,
                better="higher",
                interval=Interval(low=found.low, high=found.high, level=found.level, method=found.method),
            ),
        ),
        samples=(Samples(path=f"suite-{suite}.jsonl", sha256=digest, record="EvalRecord", n=items),),
    ).write(path)
    return path


def measure(folder: Path, items: int) -> tuple[float, float, str]:
    """Median seconds of wall clock and of processor, and what was imported, for `items` in each of ten reports."""
    checks = [
        {"id": f"suite-{suite}", "report": f"eval/suite-{suite}", "measure": "accuracy", "baseline": {"margin": "3pp"}}
        for suite in range(REPORTS)
    ]
    policy = folder / "policy.yaml"
    policy.write_text(json.dumps({"version": 1, "name": "speed", "checks": checks}))
    new = [report(folder / "new", suite, items, "sha256:" + "a" * 64, 1) for suite in range(REPORTS)]
    old = [report(folder / "old", suite, items, "sha256:" + "b" * 64, 2) for suite in range(REPORTS)]
    command = [*python("-c", CHECK), "gate", "check", "--no-github", "--policy", str(policy), *map(str, new)]
    command += [part for path in old for part in ("--baseline", str(path))]
    command += ["--output", str(folder / "verdict.json")]
    walls, processor, imported = [], [], ""
    for _ in range(RUNS):
        before, began = os.times(), time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        walls.append(time.perf_counter() - began)
        after = os.times()
        used = after.children_user + after.children_system
        processor.append(used - before.children_user - before.children_system)
        if ended.returncode not in (0, 1, 3) or "pairs" not in ended.stdout:
            raise SystemExit(f"the gate ended with status {ended.returncode}: {ended.stderr[-500:]}")
        imported = ended.stderr.rpartition("imported: ")[2]
    return statistics.median(walls), statistics.median(processor), imported


def main() -> int:
    """Measure both sizes."""
    found: dict[str, float | str] = {}
    for name, items in (("in_all", 10_000 // REPORTS), ("in_each", 10_000)):
        with tempfile.TemporaryDirectory() as folder:
            wall, processor, imported = measure(Path(folder), items)
        found |= {f"wall_{name}": wall, f"processor_{name}": processor, "extras": imported}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
