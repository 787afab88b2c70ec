"""A machine with real processes and users, and terminals to work in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plans
import urllib3
from verdicts import key_pair, signed, verdict

from servegate.process import free_ports, python
from servegate.release import Engine, Model, Release
from servegate.rollout.stores.sqlite import SqliteStore

RATE = 25
PLAN = plans.short(
    tick="500ms", rate=20, first="6s", half="12s", last="2s", interval="1s", prove="2s",
    more="guard: {window: 5m}\nalerts: [{labels: {alertname: HighErrorRate}, then: rollback}]",
)  # fmt: skip
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
AB = plans.experiment(tick="500ms", first="10s", interval="1s", prove="1s")
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
        key, public = key_pair(folder)
        (folder / "trust.yaml").write_text(f"version: 1\nname: t\nsigners: [{{name: desk, key: {public.name}}}]\n")
        self.url, self.store = f"http://127.0.0.1:{front}", folder / "run" / "rollout.db"
        for name, fault in (
            ("v1", ()),
            ("v2", ()),
            ("v3", ("--fault", "errors:rate=0.5,after=12s")),
            ("v4", ("--fault", "wrong:rate=0.6")),
        ):
            release = Release(
                name=name,
                model=Model(uri="builtin://knowledge", served_name="m"),
                engine=Engine(name="simulator", version="1"),
                args=("--seed", name[1:], *fault),
            )
            release.write(folder / f"{name}.json")
            (folder / f"{name}.verdict.json").write_bytes(signed(verdict(release, decided=1.0), release, key))
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
            "--trust", "trust.yaml", "--stable", "v1.json", *more,
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


def site_in(folder: Path) -> Iterator[Site]:
    """A machine that is up, with users, for a fixture."""
    made = Site(folder)
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
