"""Rollouts whose API server is slow, refuses, goes away, or cuts its watches: through a proxy before the real one."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import plans
import pytest
from cluster_place import Place
from fault_proxy import FaultProxy

from cluster import Cluster
from servegate.rollout.kube import Kube, KubeError

pytestmark = pytest.mark.timeout(400)
MAPS = ("ConfigMap", "")


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(cluster, tmp_path_factory.mktemp("watches"), plan=plans.short(half="100s"))
    yield made
    made.close()


@pytest.fixture
def proxy(place: Place) -> Iterator[FaultProxy]:
    made = FaultProxy(place.kube)
    yield made
    made.close()


def heard(kube: Kube, names: Callable[[], set[str]], cluster: Cluster) -> None:
    """Read until a stream is open."""
    names()
    cluster.until("a stream", lambda: names() is not None and kube._watches[MAPS].known() is not None)


def test_what_is_heard_is_what_is_there(cluster: Cluster, place: Place, proxy: FaultProxy) -> None:
    """Cut, silenced, away and back: never is something told that the API server would not tell itself."""
    kube = Kube(place.namespace, kubeconfig=proxy.kubeconfig(place.folder))
    kube.watch("ConfigMap", selector="role=test")

    def names() -> set[str]:
        return {item["metadata"]["name"] for item in kube.find("ConfigMap", {"role": "test"})}

    def make(name: str) -> None:
        body = {"metadata": {"name": name, "labels": {"role": "test"}}}
        place.kube.create("ConfigMap", {"apiVersion": "v1", "kind": "ConfigMap", **body})

    def gone(name: str) -> None:
        place.kube.delete("ConfigMap", name)

    make("one")
    heard(kube, names, cluster)
    before = proxy.asked.total()
    make("two")
    cluster.until("the second", lambda: names() == {"one", "two"})
    gone("one")
    cluster.until("its end", lambda: names() == {"two"})
    assert proxy.asked.total() == before  # all of it was heard

    proxy.cut()
    cluster.until("the cut", lambda: kube._watches[MAPS].known() is None)
    make("three")
    assert names() == {"two", "three"}  # asked, at once
    heard(kube, names, cluster)

    proxy.away = True
    cluster.until("the outage", lambda: kube._watches[MAPS].known() is None)
    with pytest.raises(KubeError):
        names()
    gone("three")
    proxy.away = False
    assert names() == {"two"}
    heard(kube, names, cluster)
    assert names() == {"two"}
    kube.close()


def test_a_rollout_survives_its_api_server(cluster: Cluster, place: Place, proxy: FaultProxy) -> None:
    """Slow, refusing, away: weights stay meanwhile, judging goes on afterwards, and no user loses anything."""
    users = place.serve()
    child = place.terminal(*place.started("v2"), kubeconfig=proxy.kubeconfig(place.folder))
    try:
        cluster.until("half of the traffic", lambda: child.poll() is not None or place.state().get("step") == 1)
        assert child.poll() is None, child.communicate()[0]
        proxy.cut()
        _goes_on(place)
        proxy.delay = 1.5
        _goes_on(place, after=6)
        proxy.delay, proxy.refuse, proxy.share = 0.0, (409, 429, 500), 0.3
        _goes_on(place, after=8)
        proxy.share = 0.0
        proxy.away = True
        time.sleep(5)  # less than the ten ticks after which it gives up
        assert place.router.read() == {"blue": 50.0, "green": 50.0}
        proxy.away = False
        _goes_on(place)
        place.until("the promotion", lambda state: state["phase"] == "PROMOTED", timeout=180)
        out, _ = child.communicate(timeout=90)
        assert child.returncode == 0, out
        assert place.router.read() == {"blue": 0.0, "green": 100.0}
        seen = users.stop()
        assert set(seen) == {"complete"}, (seen, users.bad, out)
    finally:
        users.stop()
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)


def _goes_on(place: Place, after: float = 0.0) -> None:
    """The controller saves what it has seen, after so many seconds at the earliest."""
    since = time.time() + after
    place.until("a save", lambda state: state["updated"] > since)
