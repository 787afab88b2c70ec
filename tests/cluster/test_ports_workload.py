"""The contract of a Workload against the real cluster: the shipped slots, real pods, real faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import contracts
import pytest
from manifests import documents

from cluster import Cluster
from servegate.release import Image, Release
from servegate.rollout.kube import Kube
from servegate.rollout.workloads.deployments import DeploymentWorkload

contract = contracts.load("test_ports_workload")
globals().update(contracts.tests_of(contract))
ENGINE = Image(repository="servegate.test/engine", digest="sha256:" + "1" * 64)


def install(cluster: Cluster, namespace: str) -> None:
    """The slots of the local overlay, in another namespace."""
    wanted = ("Deployment", "Service", "ServiceAccount", "PodDisruptionBudget")
    for document in (found := [item for item in documents("local") if item["kind"] in wanted]):
        document["metadata"]["namespace"] = namespace
    cluster.apply(*found)


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract's releases run in the cluster's image of the stand-in engine."""
    plain = contract.release

    def in_image(*arguments: str) -> Release:
        made: Release = plain(*arguments)
        return made.model_copy(update={"image": ENGINE})

    monkeypatch.setattr(contract, "release", in_image)


@pytest.fixture
def workload(cluster: Cluster, namespace: str, kube: Kube) -> Iterator[DeploymentWorkload]:
    install(cluster, namespace)
    yield DeploymentWorkload(kube, "llm", max_replicas=2, patience=2.0)
    for slot in ("blue", "green"):
        cluster.kubectl("-n", namespace, "scale", "deployment", f"llm-{slot}", "--replicas=0")


class Clients:
    """Controllers of the real Deployments; the epoch stands at the API server, so nothing has to be started again."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube

    def client(self, epoch: Callable[[], int]) -> DeploymentWorkload:
        return DeploymentWorkload(self.kube, "llm", max_replicas=2, epoch=epoch)

    def restart(self) -> None:
        """Each client that is made reads anew."""


@pytest.fixture
def fenced(workload: DeploymentWorkload, kube: Kube) -> Clients:
    assert workload.kube is kube
    return Clients(kube)
