"""Real SIGKILLs of a real controller in front of a real Envoy and real engines, at random instants.

    python benchmarks/crash_kills.py --kills 50          about 8 minutes; one line per rollout, then a table
    python benchmarks/crash_kills.py --kills 5 --sites 1   a look

Each site is `servegate rollout machine` with users who never stop. On it `servegate rollout start` rolls out a healthy
and a defective release in turn; it is killed at a random instant and started again until the rollout has ended. Then
all must be as after an undisturbed rollout: the healthy release promoted, the defective one rolled back, Envoy serving
by the stored weights, and every decision made again from the audit trail. Of the users' requests none may fail but by
the defective release itself.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
import yaml

from servegate import __version__
from servegate.contract import write_atomic
from servegate.demo.desk import Desk
from servegate.demo.summary import machine_facts
from servegate.process import Child, free_ports, python
from servegate.release import Engine, Model, Release
from servegate.report.verdict import Outcome, Verdict
from servegate.rollout.audit import read_trail, replay
from servegate.rollout.routers.envoy_file import EnvoyFileRouter

OUTPUT = Path(__file__).parents[1] / "out" / "bench" / "crash-kills.json"
COMMAND = python("-c", "from servegate.cli import main; main()")
USERS_PER_SECOND = 12.0
LEASE = 15.0
PLAN = {
    "version": 1, "name": "kills", "tick": "500ms", "expect": {"requests_per_second": USERS_PER_SECOND}, "alpha": "1%",
    "steps": [
        {"weight": "20%", "min_time": "4s"}, {"weight": "50%", "min_time": "30s", "min_requests": 50},
        {"weight": "100%", "min_time": "3s"},
    ],
    "checks": [
        {
            "kind": "errors-vs-stable", "name": "errors", "share": "50%", "interval": "1s", "odds_ratio": 1.2,
            "min_requests": 1,
        },
        {
            "kind": "errors-slo", "name": "slo", "share": "50%", "interval": "1s", "at_most": "3%",
            "promote_at_most": "15%",
        },
    ],
    "watchdogs": {"unready": "10s", "no_data": "60s", "route": "60s", "lease": "1h"},
    "limits": {"prepare": "10min", "step": "30min", "held": "10min"},
    "rollback": {"prove": "2s", "limit": "2min"},
    "on_unwatched": "continue",
    "warmup_requests": 0,
}  # fmt: skip


@dataclass
class Users:
    """Sends short requests without pause; remembers how each ended and who answered."""

    url: str
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        pool = urllib3.PoolManager(maxsize=8, retries=False)
        body = json.dumps({"messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 3}).encode()
        headers = {"content-type": "application/json"}
        with ThreadPoolExecutor(8) as threads:
            while not self.stopped.wait(1 / USERS_PER_SECOND):
                threads.submit(self._ask, pool, body, headers)

    def _ask(self, pool: urllib3.PoolManager, body: bytes, headers: dict[str, str]) -> None:
        try:
            answer = pool.request("POST", f"{self.url}/v1/chat/completions", body=body, headers=headers, timeout=20)
            self.answers[(answer.headers.get("x-servegate-slot", "?"), answer.status)] += 1
        except urllib3.exceptions.HTTPError:
            self.answers[("?", 0)] += 1


def release(name: str, *args: str) -> Release:
    """A simulator."""
    return Release(
        name=name,
        model=Model(uri="builtin://knowledge", served_name="m"),
        engine=Engine(name="simulator", version=__version__),
        args=("--input-ms", "5", "--decode-step-ms", "2", *args),
    )


class Site:
    """One machine, its users, and the releases that are rolled out on it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng, self.number = folder, random.Random(seed), 0
        folder.mkdir(parents=True)
        self.desk = Desk(folder)
        port, admin, blue, green = free_ports(4)
        self.file, self.plan = folder / "site.yaml", folder / "plan.yaml"
        rules = {
            "version": 1, "kind": "machine", "folder": str(folder / "site"), "port": port, "admin_port": admin,
            "slots": {"blue": [blue], "green": [green]},
        }  # fmt: skip
        self.file.write_text(yaml.safe_dump(rules))
        self.plan.write_text(yaml.safe_dump(PLAN))
        self.store = folder / "site" / "rollout.db"
        self.stable = self._written(release("v0"))
        self.machine = Child(
            "machine",
            [*COMMAND, "rollout", "machine", str(self.file), "--stable", str(self.stable)],
            folder / "machine.log",
        )
        self.router = EnvoyFileRouter(
            folder / "site" / "envoy" / "routes" / "routes.json", f"http://127.0.0.1:{admin}", ("blue", "green")
        )
        self.users = Users(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 60
        while "users connect to" not in (folder / "machine.log").read_text():
            self.machine.check()
            if time.monotonic() > deadline:
                raise SystemExit("the machine does not come up")
            time.sleep(0.1)
        self.traffic = threading.Thread(target=self.users.run, daemon=True)
        self.traffic.start()

    def _written(self, item: Release) -> Path:
        path = self.folder / f"{item.name}.yaml"
        path.write_text(yaml.safe_dump(item.model_dump(mode="json")))
        verdict = Verdict(
            policy="bench", policy_sha256="sha256:" + "0" * 64, release=item.identity(), outcome=Outcome.PASS,
            results=(), reports=(), decided_at=time.time(), decided_by="bench", tool=f"servegate {__version__}",
        )  # fmt: skip
        self.desk.sign(verdict, item, self.folder / f"{item.name}.verdict.json")
        return path

    def roll_out(self, kills: int) -> dict[str, Any]:
        """One rollout with so many kills; what became of it."""
        self.number += 1
        broken = self.number % 2 == 0
        item = release(
            f"v{self.number}", "--seed", str(self.number), *(("--fault", "errors:rate=0.4") if broken else ())
        )
        path = self._written(item)
        before = Counter(self.users.answers)
        command = [
            *COMMAND, "rollout", "start", str(path), "--site", str(self.file), "--plan", str(self.plan),
            "--verdict", str(self.folder / f"{item.name}.verdict.json"),
            "--trust", str(self.folder / "trust.yaml"), "--json",
        ]  # fmt: skip
        if self.number == 1:
            command += ["--stable", str(self.stable)]
        instants = []
        began = time.monotonic()
        log = (self.folder / f"{item.name}.log").open("ab")
        for life in range(kills + 50):
            controller = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            # Whoever follows a killed controller waits for its lease first; then it is killed at any instant.
            wait = (
                None
                if life >= kills
                else self.rng.uniform(1.0, 20.0) + (LEASE if life and self.rng.random() < 0.7 else 0)
            )
            try:
                status = controller.wait(wait if wait is not None else 300)
                if status in (0, 1):
                    break
            except subprocess.TimeoutExpired:
                controller.send_signal(signal.SIGKILL)
                controller.wait()
                if wait is None:
                    raise SystemExit(f"{item.name}: the rollout does not end; see {self.folder}") from None
                instants.append(self._phase())
        log.close()
        state = self._status()
        place = self.router.verify()
        replayed = replay(read_trail(self.store.with_name("audit.jsonl")))
        failed = Counter(self.users.answers) - before
        candidate = next(slot for slot, held in state["slots"].items() if held["name"] == item.name)
        return {
            "release": item.name,
            "broken": broken,
            "kills": len(instants),
            "killed_in": dict(Counter(instants)),
            "phase": state["phase"],
            "as_undisturbed": state["phase"] == ("ROLLED_BACK" if broken else "PROMOTED")
            and place.accepted
            and {slot: round(weight, 6) for slot, weight in place.weights.items()} == state["weights"]
            and state["weights"][state["stable"]] == 100
            and not replayed.differences,
            "requests": sum(failed.values()),
            "failed_elsewhere": sum(
                count
                for (slot, code), count in failed.items()
                if code != 200 and not (broken and slot == candidate and code == 500)
            ),
            "seconds": time.monotonic() - began,
        }

    def _status(self) -> dict[str, Any]:
        ended = subprocess.run(
            [*COMMAND, "rollout", "status", "--store", str(self.store), "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        return dict(json.loads(ended.stdout))

    def _phase(self) -> str:
        return str(self._status().get("phase", "before the first save"))

    def close(self) -> None:
        """End users and machine."""
        self.users.stopped.set()
        self.traffic.join(30)
        self.machine.stop(grace=15)


def run_site(folder: Path, seed: int, kills: int) -> list[dict[str, Any]]:
    """Rollouts on one site until so many controllers have been killed."""
    site = Site(folder, seed)
    rows: list[dict[str, Any]] = []
    try:
        while (left := kills - sum(row["kills"] for row in rows)) > 0:
            row = site.roll_out(min(left, 6))
            rows.append(row)
            told = "as undisturbed" if row["as_undisturbed"] else "NOT as undisturbed"
            sys.stderr.write(f"{folder.name} {row['release']}: {row['kills']} kills, {row['phase']}, {told}\n")
    finally:
        site.close()
    return rows


def main() -> int:
    """Kill, look, print; 1 when a rollout did not end where it should, or a user felt it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--sites", type=int, default=3, help="machines at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="servegate-kills-"))
    shares = [
        options.kills // options.sites + (number < options.kills % options.sites) for number in range(options.sites)
    ]
    with ThreadPoolExecutor(options.sites) as sites:
        found = [
            sites.submit(run_site, folder / f"site-{number}", options.seed + number, share)
            for number, share in enumerate(shares)
            if share
        ]
        rows = [row for site in found for row in site.result()]
    killed_in: Counter[str] = Counter()
    for row in rows:
        killed_in.update(row["killed_in"])
    result = {
        "machine": machine_facts(),
        "kills": sum(row["kills"] for row in rows),
        "rollouts": len(rows),
        "ended_elsewhere": sum(not row["as_undisturbed"] for row in rows),
        "requests": sum(row["requests"] for row in rows),
        "failed_elsewhere": sum(row["failed_elsewhere"] for row in rows),
        "killed_in": dict(killed_in.most_common()),
        "rows": rows,
    }
    write_atomic(OUTPUT, (json.dumps(result, indent=1) + "\n").encode())
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['kills']} kills in {result['rollouts']} rollouts; killed while {dict(killed_in.most_common())}")
        print(f"rollouts that did not end as undisturbed ones do: {result['ended_elsewhere']}")
        print(f"users' requests: {result['requests']}, failed but for the defect: {result['failed_elsewhere']}")
    return int(result["ended_elsewhere"] > 0 or result["failed_elsewhere"] > 0 or result["kills"] < options.kills)


if __name__ == "__main__":
    sys.exit(main())
