"""Rollouts as an on-call engineer meets them, with a real Envoy and real processes: minutes, so not in `make test`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import urllib3

from servegate.endpoint import request
from servegate.process import free_ports
from terminals import TOKEN, Site, site_in


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from site_in(tmp_path_factory.mktemp("r"))


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
    stranger = ("rollback", "--release", "v3.json", "--verdict", "v2.verdict.json", "--trust", "trust.yaml")
    code, out = site.run(*stranger, "--reason", "an older one")
    assert (code, "no verdict that counts" in out) == (2, True), out
    (line,) = site.store.with_name("emergencies.jsonl").read_text().splitlines()
    assert (json.loads(line)["reason"], json.loads(line)["accepted"]) == ("an older one", False)
    code, out = site.run("rollback", "--reason", "customers complain")
    assert code == 0, out
    assert "rolling back to v1" in out
    state = site.status()
    assert state["slots"][state["stable"]]["name"] == "v1"
    assert state["weights"][state["stable"]] == 100
    after = site.seen - before
    assert {key.split()[-1] for key in after} == {"200"}, after
    again = site.run("rollback")[1]
    assert again.startswith("nothing to do"), again


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
