"""What one tick of `decide` costs with twenty checks, in processor time.

    python benchmarks/rollout_decide.py [--json]

A plan with twenty checks of every kind, all of whose intervals close at every tick; observations are made beforehand.
Prints the median and the 99th percentile in milliseconds; 1 when the median is above one.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from servegate.rollout.checks import EDGES
from servegate.rollout.decide import decide
from servegate.rollout.model import Phase, SetWeights, SlotRelease, start
from servegate.rollout.plan import Plan, load_plan
from servegate.rollout.ports import RouteStatus, SlotStatus
from servegate.rollout.seen import Asked, Buckets, Observation, Preparation, SlotDelta

ROOT = Path(__file__).parents[1]
RELEASES = {"blue": "sha256:" + "1" * 64, "green": "sha256:" + "2" * 64}
SUITE = "sha256:" + "3" * 64
QUALITY = {"kind": "quality", "suite": "evals/suites/regression.yaml", "items": 2000}
LATENCIES = ("ttft", "itl", "tpot", "e2e_latency", "queue_time")


def plan() -> Plan:
    """Twenty checks, ticks of 5 s, one long step at 50 %."""
    checks = [{"kind": "errors-vs-stable"}, {"kind": "errors-slo", "at_most": "5%"}, QUALITY]
    checks += [
        {"kind": "events-vs-stable", "event": event}
        for event in ("aborts", "unanswered", "truncation", "rejections", "preemptions", "tokens")
    ]
    checks += [{"kind": "latency-vs-stable", "metric": metric} for metric in LATENCIES]
    checks += [
        {"kind": "latency-slo", "metric": metric, "over": f"{EDGES[metric][-4]:g}s", "at_most": "5%"}
        for metric in LATENCIES
    ]
    checks.append({"kind": "latency-vs-stable", "metric": "ttft", "margin": "20%"})
    data = load_plan(ROOT / "rollout" / "canary.yaml").model_dump(mode="json")
    data |= {
        "tick": "5s",
        "expect": {"requests_per_second": 50},
        "steps": [{"weight": "50%", "min_time": "2h"}, {"weight": "100%", "min_time": "5m"}],
        "limits": {**data["limits"], "step": "3h"},
        "checks": [{"name": f"c{number}", "share": "5%", **check} for number, check in enumerate(checks)],
    }
    return Plan.model_validate(data)


def slot(rng: np.random.Generator) -> SlotDelta:
    """A healthy tick."""
    n = float(rng.poisson(125))
    histograms = {}
    for metric in LATENCIES:
        p = rng.dirichlet(np.ones(4) * 20)
        counts = [0.0] * (len(EDGES[metric]) + 1)
        counts[6:10] = [float(count) for count in rng.multinomial(int(n), p)]
        histograms[metric] = Buckets(edges=EDGES[metric], counts=tuple(counts))
    counters = {"gateway_requests": n, "gateway_5xx": float(rng.binomial(int(n), 0.005)), "gateway_timeouts": 0.0}
    counters |= {"finished_stop": 0.9 * n, "finished_length": 0.1 * n, "finished_abort": 1.0, "rejected": 0.0}
    counters |= {"preemptions": 2.0, "generation_tokens": 100 * n}
    return SlotDelta(
        gateway=True, pods=1, counters=counters, histograms=histograms, gauges={"running": 9.0, "waiting": 0.0}
    )


def main() -> int:
    """Measure and print."""
    the_plan, rng = plan(), np.random.default_rng(0)
    slots = {name: SlotRelease(release=release, name=name) for name, release in RELEASES.items()}
    state = start(rollout="r", plan=the_plan.identity(), stable="blue", candidate="green", slots=slots, now=0.0)
    status = {name: SlotStatus(release, 1, 1) for name, release in RELEASES.items()}
    served, costs = dict(state.weights), []
    for number in range(1, 500):
        seen = Observation(
            at=5.0 * number,
            slots={name: slot(rng) for name in RELEASES},
            status=status,
            route=RouteStatus(True, served),
            preparation=Preparation(verdict="pass", smoke="ok", warm="ok"),
            asked=(Asked(check="c2", suite=SUITE, position=number, candidate=1.0, stable=1.0),),
        )
        began = time.process_time()
        decision = decide(the_plan, state, seen, seen.at)
        spent = time.process_time() - began
        state = decision.state
        for action in decision.actions:
            if isinstance(action, SetWeights):
                served = dict(action.weights)
        if state.phase in (Phase.STEP, Phase.BAKING):
            costs.append(1000 * spent)
    judged = sum(gathered.intervals > 0 for gathered in state.checks.values())
    if sys.argv[1:] == ["--json"]:
        print(json.dumps({"milliseconds": float(np.median(costs))}))
        return 0
    median, worst = float(np.median(costs)), float(np.quantile(costs, 0.99))
    print(f"{median:.2f} ms per tick of processor time, 99 % within {worst:.2f} ms; {judged} of {len(the_plan.checks)} "
          f"checks judged, {len(costs)} ticks, phase {state.phase.value}")  # fmt: skip
    return 0 if median <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
