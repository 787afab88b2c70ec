"""Experiments (A/B) for tests: rules, events in a file, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from decide_bench import plan

from servegate.config import validate
from servegate.pipeline.events import read_csv
from servegate.rollout.experiment import ExperimentSeen, judge
from servegate.rollout.plan import Plan
from servegate.rollout.plan_experiment import Experiment

EXPERIMENT: dict[str, Any] = {
    "hypothesis": "shorter answers are accepted more often",
    "primary": {
        "name": "accepted", "event": "accept", "kind": "converted", "better": "higher", "baseline": 0.4, "effect": 0.1
    },
    "guardrails": [{"name": "cost", "event": "cost", "kind": "total", "better": "lower", "margin": 0.5}],
    "events": {"csv": "events.csv"},
}  # fmt: skip


def experiment(**changes: Any) -> Experiment:
    return validate({**EXPERIMENT, **changes}, Experiment, "experiment")


def write_events(
    path: Path, users: int, accept: tuple[float, float] = (0.4, 0.4), cost: tuple[float, float] = (1.0, 1.0),
    share: float = 0.5, seed: int = 1, **_: Any,
) -> Path:  # fmt: skip
    rng = np.random.default_rng(seed)
    lines = ["user,slot,event,value"]
    for user in range(users):
        arm = int(rng.random() < share)
        slot = ("blue", "green")[arm]
        lines.append(f"u{user},{slot},exposure,1")
        if rng.random() < accept[arm]:
            lines.append(f"u{user},{slot},accept,1")
        lines += [f"u{user},{slot},cost,{rng.exponential(cost[arm]):.4f}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def judged(tmp_path: Path, rules: Experiment | None = None, planned: float = 0.5, **options: Any) -> ExperimentSeen:
    rules = rules or experiment()
    arms = read_csv(rules, write_events(tmp_path / "events.csv", **options))
    return judge(rules, arms, "blue", "green", planned)


# --- judging ----------------------------------------------------------------------------------------------------------


def ab(**changes: Any) -> Plan:
    return plan(
        **{
            "strategy": "ab",
            "steps": [{"weight": "50%", "min_time": "60s"}],
            "sticky": {"by": "cookie", "name": "arm"},
            "experiment": EXPERIMENT,
            "checks": [{"kind": "errors-slo", "name": "slo", "share": "100%", "at_most": "2%"}],
            **changes,
        }
    )
