"""One cluster for all tests of this folder: real API server, scheduler, controllers, gateway and pods."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crds
import pytest
from apply import Applier
from cluster_place import Place, Users
from workflow_world import World, world_in

from cluster import Cluster, ClusterUnavailableError
from servegate.rollout.kube import Kube, KubeError

ENGINE_IMAGE = "servegate.test/engine"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test starts the cluster."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster. Where it cannot run the tests are skipped, loudly; in CI that is an error."""
    try:
        made = Cluster(nodes=2, gpus=8)
    except ClusterUnavailableError as error:
        if os.environ.get("CI"):
            raise
        print(f"\n*** NO TEST CLUSTER, its tests are SKIPPED: {error}\n", file=sys.__stderr__, flush=True)
        pytest.skip(f"no test cluster: {error}")
    with made:
        made.add_image(ENGINE_IMAGE, sys.executable, str(Path(__file__).with_name("engine_image.py")))
        yield made


@pytest.fixture(scope="session")
def applier(cluster: Cluster) -> Iterator[Applier]:
    """The API as Git's administrator, with the custom resources of all components served."""
    kube = Kube("default", kubeconfig=cluster.kubeconfig)
    made = Applier(kube)
    definitions = [item for file in crds.files() for item in json.loads(file.read_text())]
    for item in definitions:
        made.apply(item)
    cluster.wait("Established", "crd", *(item["metadata"]["name"] for item in definitions))
    # What is established is served a moment later.
    cluster.until("the custom resources are served", lambda: all(_served(kube, item["spec"]) for item in definitions))
    yield made
    kube.close()


def _served(kube: Kube, spec: dict[str, Any]) -> bool:
    try:
        found = kube.call("GET", f"/apis/{spec['group']}/{spec['versions'][0]['name']}")["resources"]
    except KubeError:
        return False
    return any(item["kind"] == spec["names"]["kind"] for item in found)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of its own; its end is not waited for."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def kube(cluster: Cluster, namespace: str) -> Kube:
    """The API as the cluster's administrator, in that namespace."""
    return Kube(namespace, kubeconfig=cluster.kubeconfig)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """What workflows meet beside the cluster."""
    with world_in(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture
def users(place: Place) -> Iterator[Users]:
    """Traffic on v1 in blue of the module's `place`."""
    made = place.serve()
    yield made
    made.stop()
