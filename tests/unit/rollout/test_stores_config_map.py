"""The store in ConfigMaps: what happens between its requests, and what fits."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_kube import FakeKube, RefusedError

from servegate.errors import InfrastructureError
from servegate.rollout.kube import Kube, KubeError
from servegate.rollout.memory import HistoryLine
from servegate.rollout.ports import LeaseLostError
from servegate.rollout.stores.config_map import PENDING, ConfigMapStore
from servegate.rollout.stores.config_map_documents import EPOCH, ROOM

MAPS = "/api/v1/namespaces/llm/configmaps/servegate-"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/llm/leases/servegate"


@pytest.fixture
def api() -> Iterator[FakeKube]:
    fake = FakeKube()
    for name in ("state", "history", "intents"):
        fake.put(MAPS + name, {"kind": "ConfigMap", "metadata": {"labels": {"of": "git"}}})
    fake.put(LEASE, {"kind": "Lease"})
    yield fake
    fake.close()


@pytest.fixture
def opened(api: FakeKube, tmp_path: Path) -> Callable[[], ConfigMapStore]:
    path = api.kubeconfig(tmp_path)
    return lambda: ConfigMapStore(Kube(kubeconfig=path))


Open = Callable[[], ConfigMapStore]


def test_a_tick_costs_one_request_per_object(api: FakeKube, opened: Open) -> None:
    store = opened()
    lease = store.acquire("a", now=0.0, ttl=15.0)
    store.save("{}", 0, lease)
    api.calls.clear()
    lease = store.renew(lease, now=5.0, ttl=15.0)
    store.intents()
    store.save("{}", 1, lease)
    assert [method for method, _ in api.calls] == ["PUT", "GET", "PUT"]


def test_a_line_of_history_costs_one_request_and_no_line_of_others(api: FakeKube, opened: Open) -> None:
    store, other = opened(), opened()
    store.append_history("first")
    api.calls.clear()
    store.append_history("second")
    assert [method for method, _ in api.calls] == ["PUT"]
    other.append_history("of others")
    store.append_history("third")
    assert opened().history() == ["first", "second", "of others", "third"]


def test_what_git_put_on_the_objects_stays(api: FakeKube, opened: Open) -> None:
    store = opened()
    lease = store.acquire("a", now=0.0, ttl=15.0)
    store.save("{}", 0, lease)
    store.submit("pause", "kim", 1.0)
    store.append_history("x")
    assert all(api.objects[MAPS + name]["metadata"]["labels"] == {"of": "git"} for name in ("state", "history"))
    assert api.objects[LEASE]["spec"]["holderIdentity"] == "a"


def test_killed_between_lease_and_fence(api: FakeKube, opened: Open) -> None:
    """Who was killed after taking the lease and before shutting out the old holder does so when it asks again."""
    old = opened()
    before = old.acquire("a", now=0.0, ttl=10.0)

    def no_state(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("servegate-state"):
            raise RefusedError(503, "etcd is restarting")

    api.before = no_state
    with pytest.raises(KubeError, match="etcd is restarting"):
        opened().acquire("b", now=11.0, ttl=10.0)
    api.before = lambda _method, _path: None
    after = opened().acquire("b", now=12.0, ttl=10.0)
    assert after.epoch == before.epoch + 1
    with pytest.raises(LeaseLostError):
        old.save("late", 0, before)
    assert opened().save("{}", 0, after) == 1


def test_a_holder_that_slept_between_lease_and_fence_saves_nothing(api: FakeKube, opened: Open) -> None:
    slow = opened()
    asleep = True

    def sleeps(method: str, path: str) -> None:
        nonlocal asleep
        if method == "GET" and path.endswith("servegate-state") and asleep:
            asleep = False
            # Its lease expires, another takes over and works.
            other = opened()
            other.save("of b", 0, other.acquire("b", now=100.0, ttl=10.0))

    api.before = sleeps
    lease = slow.acquire("a", now=0.0, ttl=10.0)
    assert api.objects[MAPS + "state"]["metadata"]["annotations"] == {EPOCH: "2"}
    with pytest.raises(LeaseLostError):
        slow.save("of a", 1, lease)
    assert slow.load() == ("of b", 1)


def test_after_giving_the_lease_back_nothing_is_saved(opened: Open) -> None:
    store = opened()
    lease = store.acquire("a", now=0.0, ttl=10.0)
    store.release(lease)
    assert store.holder() is None
    with pytest.raises(LeaseLostError):
        store.save("late", 0, lease)


def test_somebody_touching_the_object_does_not_cost_the_state(api: FakeKube, opened: Open) -> None:
    store = opened()
    lease = store.acquire("a", now=0.0, ttl=10.0)
    store.save("one", 0, lease)
    item = copy.deepcopy(api.objects[MAPS + "state"])
    item["metadata"]["labels"]["touched"] = "yes"
    api.put(MAPS + "state", item)
    assert store.save("two", 1, lease) == 2
    assert api.objects[MAPS + "state"]["metadata"]["labels"]["touched"] == "yes"


def test_a_large_state_is_compressed_and_one_too_large_is_refused(api: FakeKube, opened: Open) -> None:
    store = opened()
    lease = store.acquire("a", now=0.0, ttl=10.0)
    large = json.dumps({"readings": list(range(300_000))})
    assert len(large) > ROOM
    store.save(large, 0, lease)
    assert opened().load() == (large, 1)
    assert "state" not in api.objects[MAPS + "state"]["data"]
    noise = random.Random(1).randbytes(1_200_000).hex()
    with pytest.raises(InfrastructureError, match="a ConfigMap takes 1000000"):
        store.save(noise, 1, lease)
    store.save("small", 1, lease)
    assert opened().load() == ("small", 2)


def test_a_full_history_loses_its_oldest_lines(api: FakeKube, opened: Open) -> None:
    store = opened()
    full = [f"{number:05} " + "x" * 1000 for number in range(960)]
    item = copy.deepcopy(api.objects[MAPS + "history"])
    api.put(MAPS + "history", {**item, "data": {"lines": "\n".join(json.dumps(line) for line in full)}})
    for number in range(40):
        store.append_history(f"new {number} " + "세" * 300)
    found = store.history()
    assert len(api.objects[MAPS + "history"]["data"]["lines"].encode()) <= ROOM
    assert found[-1].startswith("new 39")
    assert found[0] != full[0]
    assert found == [*full, *found[-40:]][-len(found) :]


def test_intents_cannot_fill_the_object(api: FakeKube, opened: Open) -> None:
    store = opened()
    for number in range(PENDING):
        store.submit("pause", "kim", float(number), reason="x" * 100_000)
    with pytest.raises(InfrastructureError, match="nobody takes them up"):
        store.submit("abort", "kim", 1.0)
    for intent in store.intents():
        store.settle(intent, "done")
    last = store.submit("abort", "lee", 2.0)
    assert store.outcome(last) is None
    assert len(json.loads(api.objects[MAPS + "intents"]["data"]["intents"])) == 21


@pytest.mark.parametrize(
    ("path", "data", "said"),
    [
        ("intents", {"intents": "{"}, "is damaged"),
        ("intents", {"intents": '[{"id": 1}]'}, "holds something that is no intent"),
        ("intents", {"intents": "[3]"}, "holds something that is no intent"),
        ("state", {"version": "x", "state": "{}"}, "version is 'x', not a number"),
        ("history", {"lines": "{{"}, "is damaged"),
    ],
)
def test_what_somebody_wrote_by_hand_is_told(
    api: FakeKube, opened: Open, path: str, data: dict[str, str], said: str
) -> None:
    api.put(MAPS + path, {**copy.deepcopy(api.objects[MAPS + path]), "data": data})
    store = opened()
    with pytest.raises(InfrastructureError, match=said):
        {"intents": store.intents, "state": store.load, "history": store.history}[path]()


def test_what_is_missing_is_named(api: FakeKube, opened: Open) -> None:
    del api.objects[LEASE]
    with pytest.raises(KubeError, match='leases "servegate" not found'):
        opened().acquire("a", now=0.0, ttl=1.0)
    api.put(LEASE, {"spec": {"holderIdentity": "x", "renewTime": "yesterday"}})
    with pytest.raises(InfrastructureError, match="is not one of a rollout"):
        opened().acquire("a", now=0.0, ttl=1.0)


def test_a_decision_is_an_event_once(api: FakeKube, opened: Open) -> None:
    store = opened()
    store.load()
    line = HistoryLine(
        at=1795608000.0, rollout="v2-1", release="v2", phase="ROLLING_BACK", weights={"blue": 100.0}, reason="errors"
    ).model_dump_json()
    store.append_history(line)
    store.append_history(line)  # by who took over
    store.append_history("no decision")
    (event,) = [item for path, item in api.objects.items() if "/events/" in path]
    assert (event["reason"], event["type"]) == ("RollingBack", "Warning")
    assert event["message"] == "v2: ROLLING_BACK, blue 100 %: errors"
    assert event["involvedObject"]["name"] == "servegate-state"
    assert event["firstTimestamp"] == "2026-11-25T12:00:00Z"
