"""What GitOps tools are told to leave alone is what a rollout writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from fake_kube import FakeKube
from manifests import K8S, Object, documents

from servegate.release import Engine, Image, Model, Release
from servegate.rollout.kube import Kube
from servegate.rollout.ports import Arrangement, Sticky, Weights
from servegate.rollout.routers.http_route import HttpRouteRouter
from servegate.rollout.routers.kserve import KServeRouter
from servegate.rollout.stores.config_map import ConfigMapStore
from servegate.rollout.workloads.deployments import DeploymentWorkload
from servegate.rollout.workloads.kserve import KServeWorkload

RELEASE = Release(
    name="v2",
    image=Image(repository="registry.example/llm", digest="sha256:" + "a" * 64),
    model=Model(uri="pvc://weights/qwen", served_name="support"),
    engine=Engine(name="vllm", version="0.29.0"),
    args=("--max-num-seqs=64",),
    env={"VLLM_LOGGING_LEVEL": "INFO"},
)
HALF: Weights = {"blue": 50.0, "green": 50.0}


def leaves(item: object, at: str = "") -> Iterator[tuple[str, object]]:
    """JSON Pointers of everything that is neither object nor list."""
    if isinstance(item, dict):
        for key, value in item.items():
            yield from leaves(value, f"{at}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(item, list):
        for index, value in enumerate(item):
            yield from leaves(value, f"{at}/{index}")
    else:
        yield at, item


def rules(tool: str) -> dict[str, list[str]]:
    """Pointers by kind."""
    spec = yaml.safe_load((K8S / "gitops" / f"{tool}.yaml").read_text())["spec"]
    if tool == "argocd":
        return {rule["kind"]: rule["jsonPointers"] for rule in spec["ignoreDifferences"]}
    return {rule["target"]["kind"]: rule["paths"] for rule in spec["ignore"]}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Pointers that a rollout changed in what Git made, by kind."""
    api = FakeKube()
    try:
        kube = Kube("llm", kubeconfig=api.kubeconfig(tmp_path_factory.mktemp("kube")))
        before: dict[str, Object] = {}
        services = [item for item in documents("production", "kserve") if item["kind"] == "LLMInferenceService"]
        for item in [*documents("production", "model-pvc"), *services]:
            if item in services or item["kind"] in ("Deployment", "HTTPRoute", "ConfigMap", "Lease"):
                path = kube.path(item["kind"], item["metadata"]["name"])
                api.put(path, item)
                before[path] = yaml.safe_load(yaml.safe_dump(api.objects[path]))
        store = ConfigMapStore(kube, "servegate")
        lease = store.acquire("me", now=1e9, ttl=30)
        store.submit("pause", "somebody", 1e9)
        DeploymentWorkload(kube, "llm", epoch=lambda: lease.epoch).ensure("green", RELEASE, 2)
        names = {"blue": "llm-blue", "green": "llm-green"}
        KServeWorkload(kube, "llm", epoch=lambda: lease.epoch).ensure("green", RELEASE, 2)
        KServeRouter(kube, names, "llm", sleep=lambda _: None).write(HALF, lease.epoch)
        router = HttpRouteRouter(kube, "llm", names)
        router.write(HALF, lease.epoch)
        router.arrange(Arrangement({"green": 10.0}, Sticky("cookie", "arm", "v2")), lease.epoch)
        found: dict[str, set[str]] = {}
        for path, item in before.items():
            old, new = dict(leaves(item)), dict(leaves(api.objects[path]))
            changed = {at for at in old.keys() | new.keys() if old.get(at) != new.get(at)}
            found.setdefault(item["kind"], set()).update(
                at for at in changed if at not in ("/metadata/resourceVersion", "/metadata/generation")
            )
        kube.close()
        return found
    finally:
        api.close()


@pytest.mark.parametrize("tool", ["argocd", "flux"])
def test_everything_that_a_rollout_writes_is_left_alone(written: dict[str, set[str]], tool: str) -> None:
    ignored = rules(tool)
    assert all(written.values())
    for kind, pointers in written.items():
        for at in sorted(pointers):
            # A release's variables are added to the list that Git began; server-side apply merges it by name.
            if not at.startswith("/spec/template/spec/containers/0/env/"):
                assert any(at == rule or at.startswith(rule + "/") for rule in ignored[kind]), (kind, at)


@pytest.mark.parametrize("tool", ["argocd", "flux"])
def test_nothing_else_is_left_alone(written: dict[str, set[str]], tool: str) -> None:
    other_sources = (
        "/spec/template/spec/volumes/0/image",
        "/spec/template/spec/volumes/0/emptyDir",
        "/spec/model/name",  # here the release has the name that Git has
    )
    for kind, pointers in rules(tool).items():
        for rule in pointers:
            used = any(at == rule or at.startswith(rule + "/") for at in written[kind])
            assert used or rule in (*other_sources, "/binaryData"), (kind, rule)


def test_both_tools_are_told_the_same() -> None:
    assert rules("argocd") == rules("flux")


def test_argo_cd_also_leaves_the_fields_alone_when_it_syncs() -> None:
    spec = yaml.safe_load((K8S / "gitops" / "argocd.yaml").read_text())["spec"]
    assert {"ServerSideApply=true", "RespectIgnoreDifferences=true"} <= set(spec["syncPolicy"]["syncOptions"])
