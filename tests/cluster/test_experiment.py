"""An experiment on users through the real gateway: who has a cookie keeps the slot, and it ends with what it found."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import plans
import pytest
import urllib3
from cluster_place import Place

from cluster import Cluster
from servegate.rollout.ports import Arrangement, Sticky

pytestmark = pytest.mark.timeout(400)
PLAN = plans.experiment(
    tick="1s", first="5s", interval="2s", prove="2s", watchdogs="unready: 30s, no_data: 60s, route: 30s"
)


class Audience:
    """New users with cookie jars, who like one of the slots; each comes three times.

    Attributes:
        moved: users who were answered by both slots.
        failed: (seconds since the epoch, status, slot, whether with a cookie) of answers that were none.
    """

    def __init__(self, place: Place) -> None:
        self.place, self.moved, self.users = place, 0, 0
        self.failed: list[tuple[float, int, str, bool]] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._file = (place.folder / "events.csv").open("w", buffering=1)
        self._file.write("user,slot,event,value,at\n")
        self._threads = [threading.Thread(target=self._send) for _ in range(3)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        pool = urllib3.PoolManager(retries=False)
        while not self._stop.is_set():
            slots: list[str] = []
            cookie = ""
            for _ in range(3):
                status, slot, brought = ask(pool, self.place, cookie)
                self.failed += [] if status == 200 else [(time.time(), status, slot, bool(cookie))]
                cookie = cookie or brought
                slots += [slot] if cookie and slot else []  # else nobody is assigned yet, or any more
            if slots:
                self._saw(slots)

    def _saw(self, slots: list[str]) -> None:
        with self._lock:
            self.users += 1
            self.moved += len(set(slots)) > 1
            lines = ["exposure", *(["like"] if slots[0] == "green" or self.users % 10 < 2 else [])]
            self._file.write("".join(f"u{self.users},{slots[0]},{line},1,{time.time()}\n" for line in lines))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._file.close()


def ask(pool: urllib3.PoolManager, place: Place, cookie: str = "") -> tuple[int, str, str]:
    """Status, slot and cookie of an answer through the gateway."""
    headers = {"Host": f"{place.namespace}.test", **({"cookie": cookie} if cookie else {})}
    body = {"model": "support", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    url = f"{place.cluster.gateway_url}/v1/chat/completions"
    answer = pool.request("POST", url, json=body, headers=headers, timeout=60)
    brought = answer.headers.get("set-cookie", "").partition(";")[0]
    return answer.status, answer.headers.get("x-servegate-slot", ""), brought


def test_users_keep_their_slot_and_an_experiment_ends_with_its_effect(cluster: Cluster, tmp_path: Path) -> None:
    place = Place(cluster, tmp_path)
    users = place.serve()
    try:
        place.fill("green", "v2")
        before = cluster.get("-n", place.namespace, "httproute", "llm")["spec"]
        kept_while_weights_change(place)
        (tmp_path / "ab.yaml").write_text(PLAN)
        testers = Audience(place)
        try:
            code, out = place.run(*["ab.yaml" if word == "plan.yaml" else word for word in place.started("v2")])
        finally:
            testers.stop()
        assert code == 0, out
        state = place.state()
        assert (state["phase"], state["weights"]) == ("ENDED", {"blue": 100.0, "green": 0.0})
        assert state["experiment"]["outcome"] == "better", state["experiment"]
        (effect,) = state["experiment"]["effects"]
        assert 0 < effect["low"] < effect["effect"] < effect["high"]
        assert "experiment over: liked: " in state["reason"]
        # One per thread was under way when it began, and one when it ended; without cookies three in four would move.
        assert testers.moved <= 6, testers.users
        assert testers.users > 80
        assert not testers.failed, (testers.failed, users.bad, place.run("history")[1])
        assert cluster.get("-n", place.namespace, "httproute", "llm")["spec"] == before
        assert set(users.stop()) == {"complete"}, users.bad
    finally:
        users.stop()
        place.close()


def kept_while_weights_change(place: Place) -> None:
    pool = urllib3.PoolManager(retries=False)
    arrange(place, Arrangement(sticky=Sticky("cookie", "arm", "first-1")))
    place.weigh(50)
    seen: dict[str, str] = {}
    place.cluster.until("a user in each slot", lambda: len(seen.update([ask(pool, place)[1:]]) or seen) == 2)
    assert seen == {slot: f"arm={slot}.first-1" for slot in ("blue", "green")}
    for green in (10.0, 90.0):
        place.weigh(green)
        time.sleep(0.5)  # from the gateway's word to its proxies
        for slot, cookie in seen.items():
            found = [ask(pool, place, f"theme=dark; {cookie}; x=y") for _ in range(15)]
            assert found == [(200, slot, "")] * 15
    # A slot that lost all its traffic keeps nobody; another experiment's cookie is worth nothing.
    place.weigh(0)
    time.sleep(0.5)
    for cookie in (seen["green"], "arm=green.other", "alarm=green.first-1"):
        assert ask(pool, place, cookie)[:2] == (200, "blue")
    arrange(place, Arrangement())


def arrange(place: Place, wanted: Arrangement) -> None:
    place.arrange(wanted)
    place.cluster.until("the arrangement", lambda: place.router.verify().accepted)
    assert place.router.verify().arrangement == wanted
