"""How long a decision takes with twenty checks, and a backtest over a day.

    python benchmarks/rollout_speed.py

A decision is `decide` alone on one core, in processor time, with observations made beforehand (20 requests/s, ticks of
5 s, evidence in every interval). The day is invented: four processes, scraped every 5 s or every 15 s, with the series
of vLLM that are read. Reading the saved answer of Prometheus is told apart from the 17,280 decisions; both in wall
time, on all cores. Prints JSON.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from servegate.config import validate
from servegate.rollout import recorded
from servegate.rollout.backtest import backtest
from servegate.rollout.checks import EDGES
from servegate.rollout.decide import decide
from servegate.rollout.plan import Plan
from servegate.rollout.simulate import Scenario, Side, _World
from servegate.rollout.sources.prometheus_config import PrometheusConfig

HANDLER = "/v1/chat/completions"
NAMES = {
    "ttft": "vllm:time_to_first_token_seconds",
    "itl": "vllm:inter_token_latency_seconds",
    "tpot": "vllm:request_time_per_output_token_seconds",
    "e2e_latency": "vllm:e2e_request_latency_seconds",
    "queue_time": "vllm:request_queue_time_seconds",
}


def plan(checks: int) -> Plan:
    """A plan with that many checks of all kinds that are judged on every tick."""
    kinds: list[dict[str, Any]] = [
        {"kind": "errors-vs-stable"},
        {"kind": "latency-vs-stable", "metric": "ttft"},
        {"kind": "latency-vs-stable", "metric": "itl"},
        {"kind": "errors-slo", "at_most": "2%"},
        {"kind": "latency-slo", "over": "1s", "at_most": "5%"},
    ]
    document = {
        "version": 1,
        "name": "speed",
        "tick": "5s",
        "expect": {"requests_per_second": 20},
        "alpha": "1%",
        "steps": [
            {"weight": "10%", "min_time": "5min"},
            {"weight": "50%", "min_time": "15min"},
            {"weight": "100%", "min_time": "1min"},
        ],
        "checks": [
            {**kinds[number % len(kinds)], "name": f"check-{number}", "share": f"{100 / checks:.4f}%", "interval": "5s"}
            for number in range(checks)
        ],
        "watchdogs": {"no_data": "1min"},
    }
    return validate(document, Plan, "plan")


def decision(rules: Plan) -> float:
    """Median milliseconds of processor time of one `decide` while both slots carry traffic."""
    side = Side(error_rate=0.002)
    took = []
    for seed in range(3):
        world = _World(rules, Scenario("healthy", side, side, requests_per_second=20), seed)
        for seen in world.observations(1300):
            began = time.process_time_ns()
            made = decide(rules, world.state, seen, seen.at)
            spent = (time.process_time_ns() - began) / 1e6
            judged = world.state.phase.weighted
            world.take(made.state, [action for action in made.actions if action.kind == "set-weights"])
            if judged:
                took.append(spent)
            if made.state.phase.finished:
                break
    return float(np.median(took))


def day(folder: Path, every: float) -> Path:
    """A saved answer: 24 hours of four processes."""
    rng = np.random.default_rng(1)
    times = 1_700_000_000 + np.arange(0, 86400, every)
    rows = []

    def add(name: str, pod: int, values: Any, **labels: str) -> None:
        metric = {"__name__": name, "instance": f"10.0.0.{pod}:8000", "job": "vllm", **labels}
        points = [[at, f"{value:.10g}"] for at, value in zip(times.tolist(), values.tolist(), strict=True)]
        rows.append({"metric": metric, "values": points})

    for pod in range(4):
        good, bad = rng.poisson(5 * every, len(times)), rng.poisson(0.01 * every, len(times))
        add("http_requests_total", pod, good.cumsum(), handler=HANDLER, method="POST", status="2xx")
        add("http_requests_total", pod, bad.cumsum(), handler=HANDLER, method="POST", status="5xx")
        for reason, count in (("stop", good), ("length", bad), ("abort", 0 * bad), ("error", 0 * bad)):
            add("vllm:request_success_total", pod, count.cumsum(), finished_reason=reason, engine="0")
        add("process_start_time_seconds", pod, np.full(len(times), 1.6e9))
        for ours, name in NAMES.items():
            edges = EDGES[ours]
            centre = {"ttft": 0.1, "itl": 0.02, "tpot": 0.02, "e2e_latency": 2.0, "queue_time": 0.01}[ours]
            below = [0.5 * (1 + math.erf(math.log(edge / centre) / (0.5 * math.sqrt(2)))) for edge in edges]
            shares = np.diff([0.0, *below, 1.0])
            counts = rng.multinomial(good, shares).cumsum(axis=1).cumsum(axis=0)
            for number, edge in enumerate((*edges, math.inf)):
                le = "+Inf" if edge == math.inf else f"{edge:g}"
                add(f"{name}_bucket", pod, counts[:, number], le=le, engine="0")
            add(f"{name}_sum", pod, (good * centre).cumsum(), engine="0")
    path = folder / f"day-{every:g}.json"
    recorded.save(path, rows)
    return path


def main() -> int:
    """Measure and print."""
    twenty, four = plan(20), plan(4)
    result: dict[str, float] = {"decide_20_checks_ms": decision(twenty), "decide_4_checks_ms": decision(four)}
    with tempfile.TemporaryDirectory() as folder:
        for every in (15.0, 5.0):
            path = day(Path(folder), every)
            began = time.perf_counter()
            recording = recorded.recording(recorded.load([path]), PrometheusConfig(url="http://saved"), 5.0)
            result[f"read_{every:g}s_scrapes_s"] = time.perf_counter() - began
            for name, rules in (("4", four), ("20", twenty)):
                began = time.perf_counter()
                found = backtest(rules, recording)
                result[f"backtest_{every:g}s_scrapes_{name}_checks_s"] = time.perf_counter() - began
                result[f"backtest_{every:g}s_scrapes_{name}_checks_rollouts"] = len(found.rollouts)
                result[f"backtest_{every:g}s_scrapes_{name}_checks_rolled_back"] = len(found.rolled_back)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
