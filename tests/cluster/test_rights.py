"""The shipped rights under the real authorizer: what each account needs is allowed, a matrix of the rest is refused."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from apply import Applier
from manifests import SIMULATED, placed

from cluster import Cluster
from servegate.pipeline.doctor import State
from servegate.pipeline.doctor_cluster import cluster as doctor
from servegate.release import Model
from servegate.rollout.kube import Kube, KubeError
from servegate.rollout.routers.http_route import HttpRouteRouter
from servegate.rollout.routers.kserve import KServeRouter
from servegate.rollout.stores.config_map import ConfigMapStore
from servegate.rollout.workloads.deployments import DeploymentWorkload
from servegate.rollout.workloads.kserve import KServeWorkload

NAMESPACE = "rights"
OBJECTS = {
    "configmaps": [
        "servegate-state",
        "servegate-history",
        "servegate-intents",
        "servegate-report",
        "servegate-rollout",
        "llm-blue",
        "llm-green",
        "other",
    ],
    "deployments.apps": ["llm-blue", "llm-green", "llm-blue-kserve", "llm-green-kserve", "other"],
    "llminferenceservices.serving.kserve.io": ["llm-blue", "llm-green", "other"],
    "httproutes.gateway.networking.k8s.io": ["llm", "other"],
    "leases.coordination.k8s.io": ["servegate", "other"],
    "jobs.batch": ["servegate-rollout", "other"],
    "cronjobs.batch": ["servegate-watchdog"],
    "services": ["llm-blue", "llm-green", "llm-blue-kserve-workload-svc", "llm-green-kserve-workload-svc", "other"],
    "pods": ["any"],
    "secrets": ["llm"],
    "serviceaccounts": ["servegate-controller"],
    "roles.rbac.authorization.k8s.io": ["servegate-controller"],
    "events": ["any"],
    "endpointslices.discovery.k8s.io": ["any"],
    "nodes": ["gpu-0"],
    "namespaces": [NAMESPACE],
    "pods/exec": ["any"],
    "pods/log": ["any"],
    "deployments.apps/scale": ["llm-blue"],
    "serviceaccounts/token": ["servegate-controller"],
}
ON_ONE = ("get", "watch", "update", "patch", "delete")
ON_ALL = ("list", "watch", "create", "deletecollection")
MEMORY = ("servegate-state", "servegate-history", "servegate-intents")
SLOTS = ("llm-blue", "llm-green")
ALLOWED = {
    "servegate-controller": {
        *(("configmaps", name, verb) for name in MEMORY for verb in ("get", "update")),
        *(("configmaps", "servegate-report", verb) for verb in ("get", "patch")),
        *(("configmaps", name, verb) for name in SLOTS for verb in ("get", "delete")),
        ("configmaps", "", "create"),
        ("configmaps", "servegate-intents", "watch"),
        *(("deployments.apps", name, verb) for name in SLOTS for verb in ("get", "watch", "patch")),
        *(("httproutes.gateway.networking.k8s.io", "llm", verb) for verb in ("get", "watch", "patch")),
        *(("leases.coordination.k8s.io", "servegate", verb) for verb in ("get", "update")),
        *(("services", name, "get") for name in SLOTS),
        *(("pods", "any", verb) for verb in ("get", "watch")),
        *(("pods", "", verb) for verb in ("list", "watch")),
        *(("events", "", verb) for verb in ("list", "create")),
        *(("endpointslices.discovery.k8s.io", "", verb) for verb in ("list", "watch")),
        ("endpointslices.discovery.k8s.io", "any", "watch"),
        ("namespaces", NAMESPACE, "get"),
    },
    "servegate-operator": {
        *(("configmaps", name, "get") for name in (*MEMORY, "servegate-report")),
        ("configmaps", "servegate-intents", "update"),
        ("leases.coordination.k8s.io", "servegate", "get"),
    },
    # What it reads besides is the operator's.
    "servegate-workflow": {
        *(("configmaps", name, "get") for name in (*MEMORY, "servegate-report", "servegate-rollout")),
        ("configmaps", "servegate-intents", "update"),
        ("configmaps", "servegate-rollout", "patch"),
        ("leases.coordination.k8s.io", "servegate", "get"),
        *(("jobs.batch", "servegate-rollout", verb) for verb in ("get", "watch", "delete")),
        ("jobs.batch", "", "create"),
        ("pods", "", "list"),
        ("namespaces", NAMESPACE, "get"),
    },
    "llm-engine": set(),
}
KSERVE = "rights-kserve"
KINDS = ("deployments.apps", "httproutes.gateway.networking.k8s.io", "services")
"""Of which the controller has other rights where KServe makes them."""
ALLOWED_WITH_KSERVE = {
    *(allowed for allowed in ALLOWED["servegate-controller"] if allowed[0] not in KINDS),
    *(("llminferenceservices.serving.kserve.io", name, verb) for name in SLOTS for verb in ("get", "watch", "patch")),
    *(("deployments.apps", f"{name}-kserve", verb) for name in SLOTS for verb in ("get", "watch")),
    *(("services", f"{name}-kserve-workload-svc", "get") for name in SLOTS),
}


@pytest.fixture(scope="module", autouse=True)
def installed(cluster: Cluster) -> Iterator[None]:
    """Everything of the base and the workflow's account, in a namespace of its own."""
    cluster.apply(*placed("local", NAMESPACE, "workflow"))
    yield
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def kserve(cluster: Cluster, applier: Applier) -> Iterator[None]:
    """The same with component kserve."""
    for item in placed("local", KSERVE, "kserve"):
        if item["kind"] in ("LLMInferenceService", "Namespace", "Role", "RoleBinding", "ServiceAccount", "ConfigMap"):
            applier.apply(item)
    yield
    cluster.kubectl("delete", "namespace", KSERVE, "--wait=false")


def as_account(cluster: Cluster, account: str, folder: Path, namespace: str = NAMESPACE) -> Kube:
    """The API as a service account sees it, with a real token."""
    token = cluster.kubectl("-n", namespace, "create", "token", account).strip()
    config = folder / f"{account}.kubeconfig"
    config.write_text(
        cluster.kubectl("config", "view", "--flatten", "--minify", "-o", "json").replace('"client-', '"not-client-')
    )
    kube = Kube(namespace, kubeconfig=config)
    kube.configuration.api_key["authorization"] = f"Bearer {token}"
    return kube


def allowed_to(cluster: Cluster, namespace: str, account: str) -> set[tuple[str, str, str]]:
    """What of the matrix an account may do."""
    admin = Kube(namespace, kubeconfig=cluster.kubeconfig)
    asked = [
        *((kind, name, verb) for kind, names in OBJECTS.items() for name in names for verb in ON_ONE),
        *((kind, "", verb) for kind in OBJECTS for verb in ON_ALL),
    ]
    allowed = set()
    for kind, name, verb in asked:
        resource, _, sub = kind.partition("/")
        plural, _, group = resource.partition(".")
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": plural, "name": name}
        if sub:
            attributes["subresource"] = sub
        user = f"system:serviceaccount:{namespace}:{account}"
        review = {"spec": {"user": user, "resourceAttributes": attributes}}
        answer = admin.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        if answer["status"]["allowed"]:
            allowed.add((kind, name, verb))
    assert len(asked) - len(allowed) > 100
    return allowed


@pytest.mark.parametrize("account", sorted(ALLOWED))
def test_the_matrix(cluster: Cluster, account: str) -> None:
    assert allowed_to(cluster, NAMESPACE, account) == ALLOWED[account]


def test_the_matrix_with_slots_of_kserve(cluster: Cluster, kserve: None) -> None:
    assert allowed_to(cluster, KSERVE, "servegate-controller") == ALLOWED_WITH_KSERVE


def test_slots_of_kserve_work_with_the_rights_of_the_controller(cluster: Cluster, kserve: None, tmp_path: Path) -> None:
    kube = as_account(cluster, "servegate-controller", tmp_path, KSERVE)
    workload = KServeWorkload(kube, "llm", epoch=lambda: 1)
    released = SIMULATED.model_copy(update={"model": Model(uri="hf://org/m", served_name="support")})
    workload.ensure("green", released, 1)
    assert workload.status("green").release == released.identity()
    workload.scale("green", 0)
    router = KServeRouter(kube, {"blue": "llm-blue", "green": "llm-green"}, "llm")
    router.write({"blue": 100.0, "green": 0.0}, 1)
    assert router.read() == {"blue": 100.0, "green": 0.0}
    with pytest.raises(KubeError, match='cannot patch resource "httproutes"'):
        kube.patch("HTTPRoute", "llm", [])
    found = {item.what: item for item in doctor(kube, KSERVE)}
    assert (found["rights"].state, found["watches"].state) == (State.OK, State.OK)
    assert "KServe has said nothing yet" in found["group"].found


def test_the_ports_work_with_the_rights_of_the_controller(cluster: Cluster, tmp_path: Path) -> None:
    kube = as_account(cluster, "servegate-controller", tmp_path)
    store = ConfigMapStore(kube)
    lease = store.acquire("me", now=1000.0, ttl=15.0)
    store.save("{}", 0, lease)
    store.append_history("{}")
    store.settle(store.submit("pause", "kim", 1.0), "done")
    store.release(store.renew(lease, now=1001.0, ttl=15.0))
    workload = DeploymentWorkload(kube, "llm", epoch=lambda: lease.epoch)
    workload.ensure("green", SIMULATED, 1)
    assert workload.status("green").release == SIMULATED.identity()
    assert workload.address("green").startswith("http://198.19.")
    workload.scale("green", 0)
    router = HttpRouteRouter(kube, "llm", {"blue": "llm-blue", "green": "llm-green"})
    router.write({"blue": 100.0, "green": 0.0}, lease.epoch)
    assert router.read() == {"blue": 100.0, "green": 0.0}
    for kind, name in (("HTTPRoute", "llm"), ("ConfigMap", "servegate-intents"), ("Deployment", "llm-green")):
        kube.watch(kind, name)
        hears = functools.partial(kube.heard, kind, name)
        kube.get(kind, name)
        kube.get(kind, name)
        cluster.until(f"a stream of {kind} {name}", hears)
    with pytest.raises(KubeError, match='cannot list resource "nodes"') as caught:
        workload.room("green", 1)
    assert caught.value.status == 403


def test_a_right_that_is_missing_is_named(cluster: Cluster, tmp_path: Path) -> None:
    kube = as_account(cluster, "servegate-operator", tmp_path)
    store = ConfigMapStore(kube)
    intent = store.submit("abort", "kim", 1.0, reason="looks odd")
    assert store.outcome(intent) is None
    who = f"system:serviceaccount:{NAMESPACE}:servegate-operator"
    with pytest.raises(KubeError, match=f'User "{who}" cannot update resource "leases"'):
        store.acquire("me", now=1000.0, ttl=15.0)
    with pytest.raises(KubeError, match='cannot list resource "pods"'):
        DeploymentWorkload(kube, "llm").status("green")
    status = HttpRouteRouter(kube, "llm", {"blue": "llm-blue", "green": "llm-green"}).verify()
    assert 'cannot get resource "httproutes"' in status.message
