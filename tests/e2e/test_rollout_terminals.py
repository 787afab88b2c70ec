"""A rollout as an on-call engineer meets it: real Envoy, real processes, several terminals, dead controllers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import urllib3

from servegate.endpoint import request
from servegate.process import free_ports, python
from servegate.release import Engine, Model, Release
from servegate.report.verdict import Outcome, Verdict
from servegate.rollout.stores.sqlite import SqliteStore

RATE = 25
PLAN = """
version: 1
name: short
tick: 500ms
expect: {requests_per_second: 20}
alpha: 5%
steps:
  - {weight: 10%, min_time: 6s}
  - {weight: 50%, min_time: 12s}
  - {weight: 100%, min_time: 2s}
checks:
  - {kind: errors-vs-stable, name: errors, share: 90%, interval: 1s, odds_ratio: 1.5}
  - {kind: errors-slo, name: slo, share: 10%, at_most: 5%, interval: 1s}
rollback: {prove: 2s}
guard: {window: 5m}
alerts:
  - {labels: {alertname: HighErrorRate}, then: rollback}
"""
SHADOW = """
version: 1
name: shadow
strategy: shadow
tick: 500ms
expect: {requests_per_second: 20}
alpha: 5%
steps: [{weight: 0%, min_time: 4s, min_requests: 20}]
shadow: {mirror: 50%, outputs: {prompts: prompts.jsonl, count: 3, max_tokens: 8}}
"""
AB = """
version: 1
name: ab
strategy: ab
tick: 500ms
expect: {requests_per_second: 20}
alpha: 5%
steps: [{weight: 50%, min_time: 10s}]
sticky: {by: cookie, name: arm}
checks: [{kind: errors-slo, name: slo, share: 100%, at_most: 5%, interval: 1s}]
rollback: {prove: 1s}
experiment:
  hypothesis: the second release is liked more
  primary: {name: liked, event: like, kind: converted, better: higher, baseline: 0.3, effect: 0.4}
  events: {csv: events.csv}
"""
TOKEN = "a-token-of-sixteen"


class Users:
    """Sends requests until told to stop, and counts what came of them."""

    def __init__(self, url: str) -> None:
        self.url, self.seen = url, Counter[str]()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(5)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        pool = urllib3.PoolManager()
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        while not self._stop.wait(len(self._threads) / RATE):
            try:
                response = pool.request("POST", f"{self.url}/v1/chat/completions", json=body, retries=False, timeout=30)
                self.seen[f"{response.headers.get('x-servegate-slot')} {response.status}"] += 1
            except urllib3.exceptions.HTTPError as error:
                self.seen[type(error).__name__] += 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Site:
    """A machine with its files, and terminals to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        front, admin, blue, green = free_ports(4)
        (folder / "site.yaml").write_text(
            f"version: 1\nkind: machine\nfolder: {folder}/run\nport: {front}\nadmin_port: {admin}\n"
            f"slots: {{blue: [{blue}], green: [{green}]}}\nidle_timeout: 60s\n"
        )
        for name, text in (("plan", PLAN), ("shadow", SHADOW), ("ab", AB)):
            (folder / f"{name}.yaml").write_text(text)
        (folder / "prompts.jsonl").write_text("".join(f'{{"id": "{n}", "prompt": "hello {n}"}}\n' for n in range(3)))
        (folder / "token").write_text(TOKEN)
        self.url, self.store = f"http://127.0.0.1:{front}", folder / "run" / "rollout.db"
        for name, fault in (("v1", ()), ("v2", ()), ("v3", ("--fault", "errors:rate=0.5,after=12s"))):
            release = Release(
                name=name,
                model=Model(uri="builtin://knowledge", served_name="m"),
                engine=Engine(name="simulator", version="1"),
                args=("--seed", name[1:], *fault),
            )
            release.write(folder / f"{name}.json")
            Verdict(
                outcome=Outcome.PASS, release=release.identity(), policy="p", policy_sha256="sha256:" + "0" * 64,
                reports=(), results=(), decided_at=1.0, decided_by="test", tool="servegate",
            ).write(folder / f"{name}.verdict.json")  # fmt: skip
        self.children: list[subprocess.Popen[str]] = []
        self.users: Users | None = None

    @property
    def seen(self) -> Counter[str]:
        """What users have seen so far."""
        assert self.users is not None
        return Counter(self.users.seen)

    def terminal(self, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            python("-c", "from servegate.cli import main; main()", "rollout", *arguments),
            env={**os.environ, "SERVEGATE_STORE": str(self.store)},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.children.append(child)
        return child

    def run(self, *arguments: str) -> tuple[int, str]:
        child = self.terminal(*arguments)
        out, _ = child.communicate(timeout=60)
        return child.returncode, out

    def start(self, name: str, *more: str, plan: str = "plan.yaml") -> subprocess.Popen[str]:
        return self.terminal(
            "start", f"{name}.json", "--site", "site.yaml", "--plan", plan, "--verdict", f"{name}.verdict.json",
            "--stable", "v1.json", *more,
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        code, out = self.run("status", "--json")
        assert code == 0, out
        document: dict[str, Any] = json.loads(out)
        return document

    def until(self, what: str, *wanted: object, timeout: float = 40.0) -> None:
        store = SqliteStore(self.store)
        try:
            deadline = time.monotonic() + timeout
            while time.monotonic() < deadline:
                text, _ = store.load()
                state = json.loads(text)["state"] if text else {}
                if state.get(what) in wanted:
                    return
                time.sleep(0.1)
        finally:
            store.close()
        raise AssertionError(
            f"{what} is {state.get(what)}, not {wanted}: {state.get('reason')}; {state.get('waiting')}"
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("r"))
    machine = made.terminal("machine", "site.yaml", "--stable", "v1.json")
    assert machine.stdout is not None
    while "users connect to" not in (line := machine.stdout.readline()):
        assert line, machine.wait()
    made.users = Users(made.url)
    try:
        yield made
    finally:
        made.users.stop()
        for child in made.children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                child.wait(40)
            if child.stdout is not None:
                child.stdout.close()


def test_a_controller_that_was_killed_is_followed_by_whoever_wants_something(site: Site) -> None:
    controller = site.start("v2")
    site.until("phase", "STEP")
    assert site.run("pause", "--reason", "look first") == (0, "paused\n")
    assert site.run("pause") == (0, "nothing to do: paused already\n")
    assert site.run("resume") == (0, "resumed\n")
    controller.kill()
    controller.wait()
    assert site.status()["weights"]["blue"] < 100  # nobody is there, and nothing moves
    code, out = site.run("abort", "--reason", "its controller is gone")
    assert code == 0, out
    assert "no controller is at work on it: this command takes over" in out
    assert "answered" in out
    state = site.status()
    assert (state["phase"], state["weights"]) == ("ROLLED_BACK", {"blue": 100.0, "green": 0.0})
    assert "its controller is gone" in state["reason"]


def test_a_promotion_by_force_is_guarded_and_an_alert_takes_it_back(site: Site) -> None:
    (port,) = free_ports(1)
    controller = site.start("v2", "--guard", "--listen", f"127.0.0.1:{port}", "--token-file", "token")
    site.until("phase", "STEP")
    assert site.run("promote", "--force", "--reason", "a test")[0] == 0
    site.until("phase", "GUARDED")
    alert = {
        "status": "firing",
        "labels": {"alertname": "HighErrorRate"},
        "startsAt": datetime.now(UTC).isoformat(),
        "fingerprint": "abc",
    }
    body = json.dumps({"version": "4", "status": "firing", "alerts": [alert]}).encode()
    url = f"http://127.0.0.1:{port}/alerts"
    assert request("POST", url, body=body)[0] == 401
    assert request("POST", url, body=body, headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200
    out, _ = controller.communicate(timeout=40)
    assert controller.returncode == 1, out
    assert "alert HighErrorRate" in out
    assert "proof" in out
    reasons = [line["reason"] for line in json.loads(site.run("history", "--json")[1])]
    assert any("promoted without waiting by" in reason and "a test" in reason for reason in reasons)


def test_back_after_the_promotion_from_another_terminal(site: Site) -> None:
    controller = site.start("v2")
    site.until("phase", "STEP")
    assert site.run("promote", "--force", "--reason", "a test")[0] == 0
    assert controller.wait(40) == 0
    before = site.seen
    code, out = site.run("rollback", "--reason", "customers complain")
    assert code == 0, out
    assert "rolling back to v1" in out
    state = site.status()
    assert state["slots"][state["stable"]]["name"] == "v1"
    assert state["weights"][state["stable"]] == 100
    after = site.seen - before
    assert {key.split()[-1] for key in after} == {"200"}, after
    assert site.run("rollback")[1].startswith("nothing to do")


def test_a_shadow_shows_what_users_never_see(site: Site) -> None:
    before = site.seen
    controller = site.start("v2", plan="shadow.yaml")
    out, _ = controller.communicate(timeout=60)
    assert controller.returncode == 0, out
    assert set(site.seen - before) == {"blue 200"}
    reason = site.status()["reason"]
    assert "shadow over, 50 % copied: blue" in reason
    assert "3 of 3 answers are the same" in reason
    assert site.status()["shadow"]["sides"]["green"]["requests"] >= 20


class Audience:
    """New users with cookie jars, who like one of the slots; each comes three times."""

    def __init__(self, site: Site) -> None:
        self.site, self.moved = site, 0
        self.file = (site.folder / "events.csv").open("w", buffering=1)
        self.file.write("user,slot,event,value,at\n")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        user = 0
        while not self._stop.is_set():
            user += 1
            slots, cookie = [], ""
            for _ in range(3):
                headers = {"cookie": cookie} if cookie else {}
                answer = urllib3.request(
                    "POST", f"{self.site.url}/v1/chat/completions", json=body, headers=headers, retries=False
                )
                slots.append(answer.headers["x-servegate-slot"])
                cookie = cookie or answer.headers.get("set-cookie", "").partition(";")[0]
            if not cookie:
                continue  # nobody is assigned yet
            self.moved += len(set(slots)) > 1
            now = time.time()
            self.file.write(f"u{user},{slots[0]},exposure,1,{now}\n")
            if slots[0] == "green" or user % 10 < 2:
                self.file.write(f"u{user},{slots[0]},like,1,{now}\n")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self.file.close()


def test_an_experiment_on_users_who_keep_their_slot(site: Site) -> None:
    testers = Audience(site)
    try:
        controller = site.start("v2", plan="ab.yaml")
        out, _ = controller.communicate(timeout=90)
    finally:
        testers.stop()
    assert controller.returncode == 0, out
    state = site.status()
    assert (state["phase"], state["weights"]) == ("ENDED", {"blue": 100.0, "green": 0.0})
    assert state["experiment"]["outcome"] == "better"
    assert "experiment over: liked: " in state["reason"]
    assert testers.moved <= 1  # one at most was under way when it began or ended


def test_a_broken_release_is_sent_back_while_somebody_watches(site: Site) -> None:
    controller = site.start("v3")
    site.until("phase", "STEP", "PREPARING")
    watcher = site.terminal("watch", "--look-only")
    out, _ = controller.communicate(timeout=60)
    assert controller.returncode == 1, out
    assert "rolled back" in out
    seen, _ = watcher.communicate(timeout=20)
    assert watcher.returncode == 1, seen
    assert "ROLLING_BACK" in seen
    assert "proof" in seen


def test_no_request_was_lost_but_by_the_release_that_is_broken(site: Site) -> None:
    seen = site.seen
    assert sum(seen.values()) > 500
    assert {key.split()[-1] for key in seen} <= {"200", "500"}, seen
