"""Every number this project claims, measured here and now, with the machine it was measured on.

    python benchmarks/run.py                 all of it
    python benchmarks/run.py help demo       some of it
    python benchmarks/run.py rollout --full  with as many runs as the tables in docs ask for (hours)

Prints one line per number (measured, claimed, met or not) and writes `out/bench/results.json`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from servegate.contract import write_atomic
from servegate.demo.summary import machine_facts
from servegate.process import python
from servegate.report.records import CanaryTick, read_records

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "out" / "bench"
COMMAND = python("-c", "from servegate.cli import main; main()")


@dataclass(frozen=True)
class Number:
    """One measured number. `claim` None: nothing is claimed, it is only told."""

    name: str
    value: float
    unit: str
    claim: float | None = None
    better: str = "lower"

    @property
    def met(self) -> bool | None:
        """Whether the claim holds."""
        if self.claim is None:
            return None
        return self.value <= self.claim if self.better == "lower" else self.value >= self.claim

    def line(self) -> str:
        """For people."""
        sign = "≤" if self.better == "lower" else "≥"
        claim = "" if self.claim is None else f"   claimed {sign} {self.claim:g}: {'met' if self.met else 'NOT MET'}"
        return f"{self.name:<64} {self.value:>10.4g} {self.unit:<12}{claim}"


def help_() -> Iterator[Number]:
    """How long a person waits for `servegate --help`."""
    seconds = []
    for _ in range(11):
        began = time.perf_counter()
        subprocess.run([*COMMAND, "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    yield Number("servegate --help, median of 11", statistics.median(seconds), "s", 0.3)


def demo() -> Iterator[Number]:
    """The demo with each defect: time, losses, and how fast the defect is undone."""
    for defect in ("errors", "ttft"):
        output = OUTPUT / f"demo-{defect}"
        command = [*COMMAND, "demo", "--defect", defect, "--output", str(output)]
        began = time.perf_counter()
        ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        wall = time.perf_counter() - began
        if ended.returncode not in (0, 1):
            raise SystemExit(f"the demo ended with status {ended.returncode}")
        summary = json.loads((output / "summary.json").read_text())
        healthy, broken = summary["releases"]
        yield Number(f"demo, defect {defect}: wall time", wall, "s", 300)
        yield Number(
            f"demo, defect {defect}: healthy release promoted", float(healthy["outcome"] == "promoted"), "", 1, "higher"
        )
        yield Number(
            f"demo, defect {defect}: requests the healthy release lost",
            healthy["run"]["failed_requests"],
            "requests",
            0,
        )
        rolled_back = broken["outcome"] == "rolled_back"
        yield Number(f"demo, defect {defect}: defective release rolled back", float(rolled_back), "", 1, "higher")
        if rolled_back:
            seconds = from_ten_percent(output / broken["name"] / "timeline.jsonl")
            yield Number(f"demo, defect {defect}: from first carrying 10 % to weight 0", seconds, "s", 60)
            felt = broken["seconds_from_first_effect_to_weight_zero"]
            yield Number(f"demo, defect {defect}: from its first effect to weight 0", felt, "s")
            yield Number(
                f"demo, defect {defect}: failed requests in the rollout", broken["run"]["failed_requests"], "requests"
            )


def from_ten_percent(timeline: Path) -> float:
    """Seconds from the first tick at which the candidate had 10 % or more to the first at which it had nothing again.

    Raises:
        SystemExit: it never had 10 %, or never lost it.
    """
    ticks = list(read_records(timeline, CanaryTick))
    carrying = [tick.at for tick in ticks if tick.candidate and tick.weights.get(tick.candidate, 0) >= 10]
    after = [tick.at for tick in ticks if carrying and tick.at > carrying[-1]]
    if not after:
        raise SystemExit(f"{timeline}: the candidate never went from 10 % to 0")
    return after[0] - carrying[0]


def simulator() -> Iterator[Number]:
    """What one core of the simulator streams."""
    found = _script("simulator_throughput.py")
    yield Number(
        "simulator: streamed tokens per second of one core", found["tokens_per_second"], "tokens/s", 4000, "higher"
    )


def gate() -> Iterator[Number]:
    """How long a verdict over ten reports takes, each compared with its baseline item by item."""
    found = _script("gate_speed.py")
    for name, size in (("in_all", "10,000 paired items in all"), ("in_each", "10,000 paired items in each")):
        claim = 1.0 if name == "in_all" else None
        yield Number(f"gate check, ten reports, {size}: wall time", found[f"wall_{name}"], "s", claim)
        yield Number(f"gate check, ten reports, {size}: processor", found[f"processor_{name}"], "s")


def rules() -> Iterator[Number]:
    """What the gate's rules promise of unchanged and of worse models; the table with the peers is the script's own."""
    for claim, (value, limit, better) in _script("gate_rules.py", "--json").items():
        yield Number(f"gate: {claim}", value * 100, "%", limit * 100, better)


def rollout(runs: int = 100) -> Iterator[Number]:
    """Detection over invented traffic against peers and limits (100 runs per cell, 1,000 in full); a tick's cost."""
    found = _script("rollout_detection.py", "--runs", str(runs), "--json")
    yield Number("rollout: worst share of healthy runs rolled back", 100 * found["worst_false_rollback"], "%")
    for kind, what in (("power", "power"), ("peer", "half of the best tuned peer"), ("limit", "twice the fair limit")):
        yield Number(f"rollout: cells of {found['cells']} that miss {what}", found["misses"][kind], "cells")
    cost = _script("rollout_decide.py", "--json")
    yield Number("rollout: decide, one tick with 20 checks", cost["milliseconds"], "ms", 1)


def backtest() -> Iterator[Number]:
    """A backtest over a day of 5-second ticks: four processes, the shipped plan and twenty checks."""
    found = _script("rollout_speed.py")
    yield Number("backtest, 24 h scraped every 5 s: reading the answer", found["read_s"], "s")
    for name, what in (("shipped", "plan of rollout/canary.yaml"), ("twenty", "twenty checks")):
        yield Number(f"backtest, 24 h scraped every 5 s, {what}", found[f"{name}_s"], "s", 20)
        yield Number(f"backtest, 24 h scraped every 5 s, {what}: processor", found[f"{name}_processor_s"], "s")


def crash() -> Iterator[Number]:
    """Controllers that are killed: in process at drawn effects, and real ones by SIGKILL."""
    states = _script("crash_states.py", "--examples", "100", "--json")
    deaths = sum(row["deaths"] + row["pauses"] for row in states.values())
    yield Number("controllers killed or paused in process", deaths, "", 1000, "higher")
    yield Number("  of them with a violation", sum(row["violations"] for row in states.values()), "", 0)
    kills = _script("crash_kills.py", "--kills", "50", "--json", may_fail=True)
    yield Number("controllers killed by SIGKILL", kills["kills"], "", 50, "higher")
    yield Number("  rollouts that ended elsewhere than undisturbed ones", kills["ended_elsewhere"], "", 0)
    yield Number("  users' requests that failed but for the defect", kills["failed_elsewhere"], "requests", 0)


def cluster() -> Iterator[Number]:
    """Rollouts in a real cluster under streaming traffic; needs root and the test cluster's programs."""
    found = _script("cluster_traffic.py")
    lost = found["changes"]["lost"]
    yield Number(
        f"cluster: requests lost or cut in {found['changes']['count']} changes of weights", lost, "requests", 0
    )
    rounds = found["rounds"]
    yield Number(f"  in {rounds['count']} promotions and as many rollbacks", rounds["lost"], "requests", 0)
    yield Number("  from the scrape that decides to the last request", found["back"]["seconds"], "s", 2)
    for tick, rates in found["calls_per_second"].items():
        yield Number(f"  requests at the API server, tick {tick} s, in a whole rollout", rates["most"], "1/s", 1)
    yield Number("  memory of the controller at most", found["mib"], "MiB", 150)


def tests() -> Iterator[Number]:
    """How long `make test` takes."""
    began = time.perf_counter()
    subprocess.run(["make", "test"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    yield Number("make test", (time.perf_counter() - began) / 60, "min", 12)


BENCHMARKS: dict[str, Callable[[], Iterator[Number]]] = {
    "help": help_, "gate": gate, "rules": rules, "simulator": simulator, "rollout": rollout,
    "backtest": backtest, "crash": crash, "cluster": cluster, "demo": demo, "tests": tests,
}  # fmt: skip


def _script(name: str, *arguments: str, may_fail: bool = False) -> dict[str, Any]:
    """What a script prints. It ends with 1 when a claim of its own does not hold; then it is here that this is told."""
    ended = subprocess.run(
        python(str(ROOT / "benchmarks" / name), *arguments),
        cwd=ROOT,
        check=not may_fail,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(ended.stdout))


def main(chosen: list[str]) -> int:
    """Run the chosen benchmarks; 1 when a claim was not met."""
    benchmarks = BENCHMARKS | ({"rollout": partial(rollout, runs=1000)} if "--full" in chosen else {})
    chosen = [name for name in chosen if name != "--full"]
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        sys.stderr.write(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}\n")
        return 2
    machine = machine_facts()
    print(" · ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    numbers = []
    for name in chosen or benchmarks:
        for number in benchmarks[name]():
            numbers.append(number)
            print(number.line(), flush=True)
    document = {"machine": machine, "numbers": [{**asdict(number), "met": number.met} for number in numbers]}
    write_atomic(OUTPUT / "results.json", (json.dumps(document, indent=1) + "\n").encode())
    return int(any(number.met is False for number in numbers))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
