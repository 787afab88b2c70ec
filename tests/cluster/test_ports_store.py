"""The contract of a Store against the real API server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import contracts
import pytest
import yaml

from cluster import Cluster
from servegate.rollout.kube import Kube
from servegate.rollout.ports import Store
from servegate.rollout.stores.config_map import ConfigMapStore

MEMORY = Path(__file__).parents[2] / "k8s" / "base" / "memory.yaml"
globals().update(contracts.tests_of(contracts.load("test_ports_store")))


@pytest.fixture
def opened(cluster: Cluster, namespace: str) -> Callable[[], Store]:
    """The shipped objects, opened anew at every call."""
    cluster.kubectl("-n", namespace, "apply", "--server-side", "-f", str(MEMORY))
    return lambda: ConfigMapStore(Kube(namespace, kubeconfig=cluster.kubeconfig))


def test_a_state_of_many_pods_fits(opened: Callable[[], ConfigMapStore]) -> None:
    store = opened()
    lease = store.acquire("a", now=0.0, ttl=10.0)
    large = yaml.safe_dump({"readings": list(range(200_000))})
    assert len(large) > 1_048_576
    assert store.save(large, 0, lease) == 1
    assert opened().load() == (large, 1)
