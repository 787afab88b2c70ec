"""How long a backtest over a day takes, with the plan that this repository ships and with twenty checks.

    python benchmarks/rollout_speed.py

The day is invented: four processes, scraped every 5 s, with the series of vLLM that are read. Reading the saved answer
of Prometheus is told apart from the 17,280 decisions, both in wall time, on all cores. Prints JSON, and what it is at
to standard error. What one decision costs, benchmarks/rollout_decide.py tells.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from servegate.rollout import recorded
from servegate.rollout.backtest import backtest
from servegate.rollout.checks import EDGES
from servegate.rollout.plan import Plan, load_plan
from servegate.rollout.sources.prometheus_config import PrometheusConfig

ROOT = Path(__file__).parents[1]
HANDLER = "/v1/chat/completions"
NAMES = {
    "ttft": "vllm:time_to_first_token_seconds",
    "itl": "vllm:inter_token_latency_seconds",
    "tpot": "vllm:request_time_per_output_token_seconds",
    "e2e_latency": "vllm:e2e_request_latency_seconds",
    "queue_time": "vllm:request_queue_time_seconds",
}


def shipped() -> Plan:
    """rollout/canary.yaml with all its checks, in ticks of 5 s and with steps as long as real traffic asks for."""
    data = load_plan(ROOT / "rollout" / "canary.yaml").model_dump(mode="json")
    lasting = ("5min", "15min", "15min", "15min", "5min")
    data |= {
        "tick": "5s",
        "steps": [{**step, "min_time": time} for step, time in zip(data["steps"], lasting, strict=True)],
        "checks": [{**check, "interval": "5s"} for check in data["checks"]],
        "limits": {**data["limits"], "step": "30min"},
        "watchdogs": {**data["watchdogs"], "no_data": "1min"},
    }
    return Plan.model_validate(data)


def twenty() -> Plan:
    """The same with twenty checks, eight of them filters, all of whose intervals close at every tick."""
    kinds: list[dict[str, Any]] = [
        {"kind": "errors-vs-stable"},
        {"kind": "latency-vs-stable", "metric": "ttft"},
        {"kind": "latency-vs-stable", "metric": "itl"},
        {"kind": "errors-slo", "at_most": "2%"},
        {"kind": "latency-slo", "over": "1s", "at_most": "5%"},
    ]
    checks = [{**kinds[number % len(kinds)], "name": f"check-{number}", "share": "5%"} for number in range(20)]
    return Plan.model_validate(shipped().model_dump(mode="json") | {"checks": checks})


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


def processor() -> float:
    """Seconds of processor time of this process and of those it has waited for: a busy machine changes them less."""
    return sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main() -> int:
    """Measure and print."""
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        sys.stderr.write("inventing a day\n")
        path = day(Path(folder), 5.0)
        began = time.perf_counter()
        recording = recorded.recording(recorded.load([path]), PrometheusConfig(url="http://saved"), 5.0)
        result["read_s"] = time.perf_counter() - began
        for name, rules in (("shipped", shipped()), ("twenty", twenty())):
            sys.stderr.write(f"{recording.ticks} ticks, {len(rules.checks)} checks\n")
            began, spent = time.perf_counter(), processor()
            found = backtest(rules, recording)
            result[f"{name}_s"], result[f"{name}_processor_s"] = time.perf_counter() - began, processor() - spent
            result[f"{name}_rollouts"] = len(found.rollouts)
            result[f"{name}_rolled_back"] = len(found.rolled_back)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
