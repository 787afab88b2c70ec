"""The contract of a Workload against the real cluster: the shipped slots, real pods, real faults.

LLMInferenceServices are real objects of KServe's own definition; what KServe would make of them, Deployments and
Services, the test makes (tests/support/kserve_stand_in.py). Their pods are as real as the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import contracts
import pytest
from apply import Applier
from kserve_stand_in import StandIn, quick
from manifests import documents

from cluster import Cluster
from servegate.release import Image, Model, Release
from servegate.rollout.kube import Kube
from servegate.rollout.workloads.deployments import DeploymentWorkload
from servegate.rollout.workloads.kserve import KServeWorkload
from servegate.rollout.workloads.slots import SlotWorkload

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
        model = Model(uri="hf://example/m", served_name=made.model.served_name)
        return made.model_copy(update={"image": ENGINE, "model": model})

    monkeypatch.setattr(contract, "release", in_image)


def install_kserve(applier: Applier, namespace: str) -> None:
    """The slots of component kserve, in another namespace."""
    found = [item for item in documents("local", "kserve") if item["kind"] in ("LLMInferenceService", "ServiceAccount")]
    for item in found:
        item["metadata"]["namespace"] = namespace
        applier.apply(quick(item) if item["kind"] == "LLMInferenceService" else item)


@pytest.fixture(params=[DeploymentWorkload, KServeWorkload])
def workload(
    request: pytest.FixtureRequest, cluster: Cluster, namespace: str, kube: Kube, applier: Applier
) -> Iterator[SlotWorkload]:
    made: SlotWorkload = request.param(kube, "llm", max_replicas=2, patience=2.0)
    if isinstance(made, KServeWorkload):
        install_kserve(applier, namespace)
        stand_in = StandIn(Kube(namespace, kubeconfig=cluster.kubeconfig), "llm-blue", "llm-green")
        yield made
        stand_in.close()
    else:
        install(cluster, namespace)
        yield made
    # None, where a test was over before KServe's part had been played.
    if cluster.get("-n", namespace, "deployments")["items"]:
        cluster.kubectl("-n", namespace, "scale", "deployment", "--all", "--replicas=0")


class Clients:
    """Controllers of the real slots; the epoch stands at the API server, so nothing has to be started again."""

    def __init__(self, workload: SlotWorkload) -> None:
        self.workload = workload

    def client(self, epoch: Callable[[], int]) -> SlotWorkload:
        return type(self.workload)(self.workload.kube, "llm", max_replicas=2, epoch=epoch)

    def restart(self) -> None:
        """Each client that is made reads anew."""


@pytest.fixture
def fenced(workload: SlotWorkload) -> Clients:
    return Clients(workload)
