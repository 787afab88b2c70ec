"""Two empty slots of a cluster, for the tests of Deployments as slots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment_slots import DEPLOYMENTS, SECONDS_T1, Clock
from fake_deployments import empty_deployment
from fake_kube import FakeKube

from servegate.rollout.kube import Kube
from servegate.rollout.workloads.deployments import DeploymentWorkload


@pytest.fixture
def api() -> Iterator[FakeKube]:
    fake = FakeKube()
    for slot in ("blue", "green"):
        fake.put(f"{DEPLOYMENTS}llm-{slot}", empty_deployment(f"llm-{slot}", slot))
    yield fake
    fake.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workload(api: FakeKube, clock: Clock, tmp_path: Path) -> DeploymentWorkload:
    kube = Kube(kubeconfig=api.kubeconfig(tmp_path))
    return DeploymentWorkload(kube, "llm", clock=clock, now=lambda: SECONDS_T1 + clock.at, epoch=lambda: 7)
