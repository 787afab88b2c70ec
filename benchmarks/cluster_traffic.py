"""Rollouts in a real cluster under streaming traffic: what users lose, how fast traffic goes back, what it costs.

    python benchmarks/cluster_traffic.py                             about 13 minutes; needs root and the test cluster
    python benchmarks/cluster_traffic.py --rounds 1 --changes 10     a look

The cluster is that of the tests (docs/kubernetes.md): API server, scheduler, controllers, Envoy Gateway,
Envoy, and pods that are processes. Users read streams through the gateway to their end all the while. Then

- weights change --changes times between two healthy slots;
- in each round `servegate rollout start` promotes a healthy release, and `servegate rollout rollback` takes it back;
- a release that fails half of its requests is rolled back by itself: counted from the scrape that decided until the
  last answer of it;
- memory and requests at the API server are those of the processes of `start`: a look every second, and every 5 s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from cluster_place import Place, Users

from cluster import Cluster
from servegate.process import python

PLAN = """
version: 1
name: bench
tick: {tick}
expect: {{requests_per_second: 8}}
alpha: 5%
steps:
  - {{weight: 10%, min_time: 3s}}
  - {{weight: 50%, min_time: {half}}}
  - {{weight: 100%, min_time: 3s}}
checks:
  - {{kind: errors-vs-stable, name: errors, share: 90%, interval: {interval}, odds_ratio: 1.5}}
  - {{kind: errors-slo, name: slo, share: 10%, at_most: 5%, interval: {interval}}}
watchdogs: {{unready: 20s, route: 20s}}
rollback: {{prove: 3s}}
"""
MEASURED = """
import atexit, json, os, resource, time
from servegate.rollout.kube import Kube

asked, began, headers = [], time.monotonic(), Kube._headers

def counted(self):
    asked.append(time.monotonic())
    return headers(self)

def tell():
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # The busiest half minute: the start is one.
    most = max(sum(at <= other < at + 30 for other in asked) for at in asked) / 30
    with open(os.environ["MEASURED"], "w") as file:
        seconds = time.monotonic() - began
        json.dump({"calls": len(asked), "seconds": seconds, "most": most, "mib": mib}, file)

Kube._headers = counted  # once for every request, the streams' included
atexit.register(tell)
from servegate.cli import main
main()
"""
"""`servegate`, that leaves behind what it cost."""


def plan(tick: float) -> str:
    """The plan with a tick of so many seconds."""
    return PLAN.format(tick=f"{tick:g}s", half=f"{25 * tick:g}s", interval=f"{2 * tick:g}s")


def changes(place: Place, count: int) -> None:
    """Weights back and forth between two ready slots; the second is emptied afterwards."""
    place.fill("green", "v2")
    for number in range(count):
        place.weigh((0.0, 1.0, 10.0, 50.0, 90.0, 99.0, 100.0)[(number + 1) % 7])
        time.sleep(0.2)
    place.weigh(0.0)
    time.sleep(1.0)
    place.workload.scale("green", 0)
    place.cluster.until("green to be empty", lambda: place.workload.status("green").message == "empty")


def start(place: Place, name: str) -> dict[str, Any]:
    """`servegate rollout start`, and what it cost: code, out, calls, seconds, mib."""
    file = place.folder / "measured.json"
    ended = subprocess.run(
        python("-c", MEASURED, "rollout", *place.started(name)),
        env={**os.environ, "KUBECONFIG": str(place.cluster.kubeconfig), "MEASURED": str(file)},
        cwd=place.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return {"code": ended.returncode, "out": ended.stdout + ended.stderr, **json.loads(file.read_text())}


def expect(what: str, code: int, wanted: int, out: str) -> None:
    """Raises SystemExit when a command did not end as it must."""
    if code != wanted:
        raise SystemExit(f"{what} ended with status {code}, not {wanted}:\n{out}")


def lost(users: Users, before: Counter[str]) -> int:
    """Requests that failed or were cut since."""
    return sum((Counter(users.seen) - before).values()) - (users.seen["complete"] - before["complete"])


def way_back(place: Place, users: Users) -> tuple[dict[str, Any], dict[str, Any]]:
    """How long the defective release went on being asked after the scrape that decided; and what its start cost."""
    for _ in range(3):
        run = start(place, "v3")
        expect("start of a defective release", run["code"], 1, run["out"])
        lines = json.loads(place.run("history", "--json")[1])
        decided = [line["at"] for line in lines if line["phase"] == "ROLLING_BACK"][-1]
        bad = [at for at, what in users.bad if what == "HTTP 500"]
        if bad:
            return {"seconds": max(0.0, max(bad) - decided), "failed": len(bad)}, run
        # The machine is so slow that its fault, which begins after 12 s, met the smoke test: it had no traffic.
    raise SystemExit(f"the defective release got no traffic:\n{run['out']}")


def measure(place: Place, users: Users, count: int, rounds: int) -> dict[str, Any]:
    """All numbers."""
    found: dict[str, Any] = {}
    (place.folder / "plan.yaml").write_text(plan(1))
    found["back"], first = way_back(place, users)
    before = Counter(users.seen)
    changes(place, count)
    found["changes"] = {"count": count, "lost": lost(users, before)}
    runs, before = [first], Counter(users.seen)
    for number in range(rounds):
        runs.append(start(place, "v2"))
        expect("start", runs[-1]["code"], 0, runs[-1]["out"])
        code, out = place.run("rollback", "--reason", f"round {number}")
        expect("rollback", code, 0, out)
        sys.stderr.write(f"round {number + 1} of {rounds}: {lost(users, before)} requests lost so far\n")
    found["rounds"] = {"count": rounds, "lost": lost(users, before)}
    found["requests"] = sum(users.seen.values())
    found["calls_per_second"] = {"1": _calls(runs)}
    (place.folder / "plan.yaml").write_text(plan(5))
    runs.append(start(place, "v2"))
    expect("start with the default tick", runs[-1]["code"], 0, runs[-1]["out"])
    found["calls_per_second"]["5"] = _calls(runs[-1:])
    found["mib"] = max(run["mib"] for run in runs)
    return found


def _calls(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Requests per second: over whole rollouts, at most and on average, and in their busiest half minute."""
    rates = [run["calls"] / run["seconds"] for run in runs]
    return {"most": max(rates), "mean": sum(rates) / len(rates), "half_minute": max(run["most"] for run in runs)}


def main() -> int:
    """Prints the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Cluster(nodes=2, gpus=8) as cluster:
        place = Place(cluster, Path(folder))
        users = place.serve()
        try:
            found = measure(place, users, given.changes, given.rounds)
        finally:
            users.stop()
    print(json.dumps({**found, "seen": dict(users.seen)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
