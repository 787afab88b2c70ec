"""The contract of a Store, run against every implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_kube import FakeKube

from servegate.rollout.kube import Kube
from servegate.rollout.ports import ConflictError, Lease, LeaseLostError, Store
from servegate.rollout.stores.config_map import ConfigMapStore
from servegate.rollout.stores.sqlite import SqliteStore

Open = Callable[[], Store]


def sqlite(folder: Path) -> Iterator[Open]:
    yield lambda: SqliteStore(folder / "rollout.db")


def config_map(folder: Path) -> Iterator[Open]:
    api = FakeKube()
    for name in ("state", "history", "intents"):
        api.put(f"/api/v1/namespaces/llm/configmaps/servegate-{name}", {"kind": "ConfigMap"})
    api.put("/apis/coordination.k8s.io/v1/namespaces/llm/leases/servegate", {"kind": "Lease"})
    kubeconfig = api.kubeconfig(folder)
    yield lambda: ConfigMapStore(Kube(kubeconfig=kubeconfig))
    api.close()


IMPLEMENTATIONS: dict[str, Callable[[Path], Iterator[Open]]] = {"sqlite": sqlite, "config-map": config_map}


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store again at every call, as another process would."""
    yield from IMPLEMENTATIONS[request.param](tmp_path)


def test_what_was_saved_is_loaded_by_anybody(opened: Open) -> None:
    store = opened()
    assert store.load() == (None, 0)
    lease = store.acquire("a", now=0.0, ttl=10.0)
    assert store.save('{"text": "café 한국어"}', 0, lease) == 1
    assert store.save("{}", 1, lease) == 2
    assert store.load() == ("{}", 2) == opened().load()


def test_a_state_that_somebody_else_changed_is_not_overwritten(opened: Open) -> None:
    store, other = opened(), opened()
    lease = store.acquire("a", now=0.0, ttl=10.0)
    store.save("first", 0, lease)
    with pytest.raises(ConflictError):
        other.save("second", 0, lease)
    with pytest.raises(ConflictError):
        other.save("second", 2, lease)
    assert store.load() == ("first", 1)


def test_a_lease_has_one_holder(opened: Open) -> None:
    store, other = opened(), opened()
    lease = store.acquire("a", now=100.0, ttl=10.0)
    assert lease == Lease("a", lease.epoch, 110.0)
    with pytest.raises(LeaseLostError, match="a"):
        other.acquire("b", now=109.0, ttl=10.0)
    # Again by the same holder: the same lease, extended.
    assert store.acquire("a", now=105.0, ttl=10.0) == Lease("a", lease.epoch, 115.0)
    assert store.renew(lease, now=106.0, ttl=10.0) == Lease("a", lease.epoch, 116.0)


def test_an_expired_lease_goes_to_who_asks_and_fences_the_old_holder(opened: Open) -> None:
    store, other = opened(), opened()
    old = store.acquire("a", now=0.0, ttl=10.0)
    store.save("of a", 0, old)
    new = other.acquire("b", now=10.0, ttl=10.0)
    assert new.epoch > old.epoch
    with pytest.raises(LeaseLostError):
        store.renew(old, now=11.0, ttl=10.0)
    with pytest.raises(LeaseLostError):
        store.save("of a again", 1, old)
    store.release(old)
    assert other.renew(new, now=12.0, ttl=10.0).epoch == new.epoch
    assert store.load() == ("of a", 1)


def test_a_holder_that_was_late_keeps_a_lease_nobody_wanted(opened: Open) -> None:
    store = opened()
    lease = store.acquire("a", now=0.0, ttl=10.0)
    assert store.renew(lease, now=50.0, ttl=10.0) == Lease("a", lease.epoch, 60.0)


def test_an_earlier_life_of_the_same_holder_is_fenced(opened: Open) -> None:
    store, again = opened(), opened()
    before = store.acquire("a", now=0.0, ttl=10.0)
    after = again.acquire("a", now=20.0, ttl=10.0)
    assert after.epoch > before.epoch
    with pytest.raises(LeaseLostError):
        store.save("late", 0, before)


def test_a_lease_given_back_is_free_and_its_epoch_is_never_used_again(opened: Open) -> None:
    store, other = opened(), opened()
    old = store.acquire("a", now=0.0, ttl=1000.0)
    store.release(old)
    store.release(old)
    new = other.acquire("b", now=1.0, ttl=10.0)
    assert new.epoch > old.epoch
    with pytest.raises(LeaseLostError):
        store.save("late", 0, old)


def test_history_keeps_its_order(opened: Open) -> None:
    store = opened()
    assert store.history() == []
    for line in ("one", "two\nlines", "세"):
        store.append_history(line)
    assert opened().history() == ["one", "two\nlines", "세"]


def test_intents_wait_until_they_are_settled_once(opened: Open) -> None:
    store, other = opened(), opened()
    hold = other.submit("hold", "kim", 5.0, reason="looks odd")
    abort = other.submit("abort", "lee", 6.0, target="green")
    assert store.intents() == [hold, abort]
    assert (hold.kind, hold.by, hold.at, hold.reason, hold.target) == ("hold", "kim", 5.0, "looks odd", None)
    assert abort.target == "green"
    store.settle(hold, "held")
    store.settle(hold, "held again")
    assert other.intents() == [abort]
    store.settle(abort, "aborted")
    later = other.submit("resume", "kim", 7.0)
    assert later.id not in (hold.id, abort.id)
    assert store.intents() == [later]
