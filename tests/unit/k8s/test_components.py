"""Each component alone in each overlay: it renders, is valid in every Kubernetes we name, and keeps the house rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from fake_kube import FakeKube
from manifests import COMPONENTS, K8S, OVERLAYS, Object, added, documents, of_kind, pods_of, render_all

from servegate.cli import cli
from servegate.rollout.kube import Kube
from servegate.rollout.routers.http_route import HttpRouteRouter, Kind
from servegate.rollout.workloads.capacity import requests
from servegate.rollout.workloads.pod_template import drain_seconds, engine_container, engine_port, port_of

VERSIONS = tuple(f"1.{minor}" for minor in range(30, 38))
SLOTS = ("blue", "green")
TOGETHER = (
    *("autoscaling-keda", "batch", "controller", "evals", "external-secrets", "inference-pool", "load", "mig"),
    *("model-huggingface", "model-oci", "model-s3", "monitoring", "spot", "vpa", "watchdog", "workflow", "zones"),
)
"""As many components as go together: one of each kind that docs/kubernetes.md calls exclusive."""
COMBINATIONS = [
    *((overlay,) for overlay in OVERLAYS),
    *((overlay, name) for overlay in OVERLAYS for name in COMPONENTS),
    ("production", *TOGETHER),
]
SINCE = {"model-oci": "1.31"}
"""Components that use what older versions of Kubernetes have not."""
combinations = pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda each: "+".join(each)[:40])
components = pytest.mark.parametrize("name", COMPONENTS)


@pytest.fixture(scope="module", autouse=True)
def _rendered() -> None:
    render_all(COMBINATIONS)


def is_kubernetes_own(item: Object) -> bool:
    """No custom resource: its schema is part of Kubernetes."""
    group = item["apiVersion"].rpartition("/")[0]
    builtin = (
        *("", "apps", "autoscaling", "batch", "policy", "admissionregistration.k8s.io", "coordination.k8s.io"),
        *("networking.k8s.io", "rbac.authorization.k8s.io"),
    )
    return group in builtin


def version_number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_strictly_valid(version: str) -> None:
    seen = set()
    for overlay, *names in COMBINATIONS:
        if any(version_number(version) < version_number(SINCE.get(name, "1.0")) for name in names):
            continue
        for item in added(overlay, *names) if names else documents(overlay):
            text = json.dumps({**item, "metadata": {**item["metadata"], "namespace": "x"}}, sort_keys=True)
            if is_kubernetes_own(item) and text not in seen:
                seen.add(text)
                kubernetes_validate.validate(item, version, strict=True)
    assert len(seen) > 50


def test_a_field_that_does_not_exist_is_found() -> None:
    (deployment, *_) = of_kind("production", "Deployment").values()
    deployment["spec"]["template"]["spec"]["tolerance"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="tolerance"):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


@combinations
def test_no_object_is_made_twice_and_all_are_in_one_namespace(combination: tuple[str, ...]) -> None:
    found = documents(*combination)
    names = [(item["apiVersion"], item["kind"], item["metadata"]["name"]) for item in found]
    assert len(set(names)) == len(names)
    ((namespace, _),) = of_kind(combination[0], "Namespace", *combination[1:]).items()
    cluster_wide = ("Namespace", "NodePool", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    for item in found:
        if item["kind"] not in cluster_wide:
            assert item["metadata"]["namespace"] == namespace
        elif item["kind"].startswith("Validating"):  # two environments in one cluster have their own
            assert item["metadata"]["name"].endswith(f".{namespace}")


def containers(pod: Object) -> Iterator[Object]:
    yield from pod["containers"]
    yield from pod.get("initContainers", [])


@combinations
def test_every_pod_is_held_to_the_policy(combination: tuple[str, ...]) -> None:
    accounts = of_kind(combination[0], "ServiceAccount", *combination[1:])
    pods = [(item, template) for item in documents(*combination) for template in pods_of(item)]
    assert pods
    for item, template in pods:
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["serviceAccountName"] in accounts
        if template["metadata"]["labels"].get("app.kubernetes.io/component") != "controller":
            assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))
        for container in containers(pod):
            repository, _, digest = container["image"].partition("@sha256:")
            assert repository and len(digest) == 64 and ":" not in repository.rpartition("/")[2], item["metadata"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in container["securityContext"]
            assert "memory" in container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= {volume["name"] for volume in pod.get("volumes", [])}


@combinations
def test_secrets_are_references_and_nothing_else(combination: tuple[str, ...]) -> None:
    assert not of_kind(combination[0], "Secret", *combination[1:])
    for item in documents(*combination):
        for template in pods_of(item):
            for variable in (variable for each in containers(template["spec"]) for variable in each.get("env", [])):
                secret = any(word in variable["name"] for word in ("TOKEN", "KEY", "SECRET", "PASSWORD"))
                assert not secret or "secretKeyRef" in variable["valueFrom"]


@combinations
def test_the_slots_are_equal_but_for_their_names(combination: tuple[str, ...]) -> None:
    """But for who has the weight to begin with; an Ingress has it by what makes it the second."""
    for item in documents(*combination):
        if item["kind"] in ("Ingress", "HTTPRoute") or not item["metadata"]["name"].endswith("-blue"):
            continue
        if item["kind"] == "LLMInferenceService":
            assert item["spec"]["router"]["route"].pop("weight") == 100
        name = item["metadata"]["name"].replace("blue", "green")
        other = of_kind(combination[0], item["kind"], *combination[1:])[name]
        if item["kind"] == "LLMInferenceService":
            assert other["spec"]["router"]["route"].pop("weight") == 0
        texts = [yaml.safe_dump(each).replace(slot, "SLOT") for each, slot in ((item, "blue"), (other, "green"))]
        assert texts[0] == texts[1]


@combinations
def test_what_points_at_something_in_the_namespace_finds_it(combination: tuple[str, ...]) -> None:
    def there(kind: str) -> set[str]:
        return set(of_kind(combination[0], kind, *combination[1:]))

    for item in documents(*combination):
        spec = item.get("spec", {})
        target = spec.get("scaleTargetRef") or spec.get("targetRef")
        if target is not None:
            assert target["name"] in there(target.get("kind", "Deployment"))
        if "service" in (target or {}):
            assert target["service"] in there("Service")
        if item["kind"] == "HTTPRoute":
            for reference in spec["rules"][0]["backendRefs"]:
                assert reference["name"] in there(reference.get("kind", "Service"))
                assert ("port" in reference) == (reference.get("kind", "Service") == "Service")
        if item["kind"] == "Ingress":
            backend = spec["rules"][0]["http"]["paths"][0]["backend"]["service"]
            service = of_kind(combination[0], "Service", *combination[1:])[backend["name"]]
            assert backend["port"]["name"] in [port["name"] for port in service["spec"]["ports"]]
        if item["kind"] == "ValidatingAdmissionPolicyBinding":
            assert spec["policyName"] in there("ValidatingAdmissionPolicy")
            assert spec.get("paramRef", {"name": "servegate"})["name"] in there("Lease")
            selector = spec["matchResources"]["namespaceSelector"]["matchLabels"]
            assert selector["kubernetes.io/metadata.name"] in there("Namespace")
        for template in pods_of(item):
            for volume in template["spec"].get("volumes", []):
                claim = volume.get("persistentVolumeClaim", {}).get("claimName", "of-no-release")
                assert claim == "of-no-release" or claim in there("PersistentVolumeClaim")


@combinations
def test_selectors_find_pods(combination: tuple[str, ...]) -> None:
    """NetworkPolicies, InferencePools and monitors select by labels that pods here have."""
    labels = [template["metadata"]["labels"] for item in documents(*combination) for template in pods_of(item)]
    for item in documents(*combination):
        selector = item.get("spec", {}).get("podSelector" if item["kind"] == "NetworkPolicy" else "selector")
        if item["kind"] in ("NetworkPolicy", "InferencePool", "PodMonitor", "PodDisruptionBudget", "Deployment"):
            wanted = selector.get("matchLabels", {})
            assert any(wanted.items() <= found.items() for found in labels), item["metadata"]["name"]


@combinations
def test_pre_stop_drain_and_grace_are_consistent(combination: tuple[str, ...]) -> None:
    for item in documents(*combination):
        if item["kind"] == "Deployment" and item["metadata"]["name"].startswith("llm-"):
            spec = item["spec"]["template"]["spec"]
            engine = engine_container(item)[1]
            assert (
                engine["lifecycle"]["preStop"]["sleep"]["seconds"] + drain_seconds(item) + 15
                == (spec["terminationGracePeriodSeconds"])
            )
            assert drain_seconds(item) >= 10
            if "spot" in combination:  # 120 s of notice, some of them for whoever passes it on
                assert spec["terminationGracePeriodSeconds"] <= 110
        if item["kind"] == "LLMInferenceService":
            spec = item["spec"]["template"]
            (engine,) = spec["containers"]
            # KServe's preset counts on 15 s of preStop, and on 5 s to leave after --shutdown-timeout.
            assert engine["lifecycle"]["preStop"]["sleep"]["seconds"] == 15
            assert spec["terminationGracePeriodSeconds"] - 15 - 5 >= 60


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_drill_stands_between_the_service_and_the_engine(overlay: str) -> None:
    for name, item in of_kind(overlay, "Deployment", "drill").items():
        (fault,) = [each for each in item["spec"]["template"]["spec"]["containers"] if each["name"] == "fault"]
        engine = engine_container(item)[1]
        assert (port_of(item), engine_port(item)) == (8009, 8000)
        assert f"--engine=http://127.0.0.1:{engine_port(item)}" in fault["args"]
        assert f"--port={port_of(item)}" in fault["args"]
        assert of_kind(overlay, "Service", "drill")[name]["spec"]["ports"][0]["targetPort"] == "http"
        assert all(
            engine[f"{kind}Probe"]["httpGet"]["port"] == "engine" for kind in ("startup", "readiness", "liveness")
        )
        # It passes on for as long as the engine answers.
        pause = fault["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pause >= engine["lifecycle"]["preStop"]["sleep"]["seconds"]
    ((_, namespace),) = of_kind(overlay, "Namespace", "drill").items()
    assert namespace["metadata"]["labels"]["servegate.dev/drills"] == "allowed"


@combinations
def test_an_update_by_git_waits_for_no_gpu_that_a_full_cluster_has_not(combination: tuple[str, ...]) -> None:
    for item in of_kind(combination[0], "Deployment", *combination[1:]).values():
        assert item["spec"]["replicas"] == 0
        assert item["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(
    ("name", "resource"),
    [("mig", "nvidia.com/mig-3g.40gb"), ("time-slicing", "nvidia.com/gpu.shared"), ("zones", "nvidia.com/gpu")],
)
def test_a_pod_asks_for_one_kind_of_gpu(overlay: str, name: str, resource: str) -> None:
    for item in of_kind(overlay, "Deployment", name).values():
        asked = requests(item["spec"]["template"]["spec"])
        assert {key: amount for key, amount in asked.items() if "nvidia" in key} == {resource: 1}
        (engine,) = item["spec"]["template"]["spec"]["containers"]
        assert engine["resources"]["limits"][resource] == "1"


def test_components_that_spread_replicas_go_together() -> None:
    for item in of_kind("production", "Deployment", "spot", "zones").values():
        spreads = item["spec"]["template"]["spec"]["topologySpreadConstraints"]
        keys = {spread["topologyKey"] for spread in spreads}
        assert keys == {"karpenter.sh/capacity-type", "topology.kubernetes.io/zone"}
        # Counted within the slot, and by a label that the pods have.
        assert all(spread["matchLabelKeys"] == ["servegate.dev/slot"] for spread in spreads)
        assert "servegate.dev/slot" in item["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize(
    ("name", "kind"), [("inference-pool", "InferencePool"), ("scale-to-zero", "Backend"), ("zones", "Service")]
)
def test_a_rollout_moves_the_weights_of_every_kind_of_back_end(name: str, kind: Kind, tmp_path: Path) -> None:
    api = FakeKube()
    try:
        kube = Kube("llm", kubeconfig=api.kubeconfig(tmp_path))
        path = kube.path("HTTPRoute", "llm")
        api.put(path, of_kind("production", "HTTPRoute", name)["llm"])
        before = json.loads(json.dumps(api.objects[path]["spec"]))
        router = HttpRouteRouter(
            kube, "llm", {"blue": "llm-blue", "green": "llm-green"}, kind=kind, sleep=lambda _: None
        )
        router.write({"blue": 90.0, "green": 10.0}, epoch=1)
        assert router.read() == {"blue": 90.0, "green": 10.0}
        after = api.objects[path]["spec"]
        for spec in (before, after):
            for reference in spec["rules"][0]["backendRefs"]:
                del reference["weight"]
        assert after == before
        kube.close()
    finally:
        api.close()


def test_monitors_bring_the_labels_that_rules_and_autoscalers_ask_for() -> None:
    for item in of_kind("production", "PodMonitor").values():
        (endpoint,) = item["spec"]["podMetricsEndpoints"]
        made = {rule["targetLabel"]: rule["sourceLabels"] for rule in endpoint["relabelings"]}
        assert made == {
            "slot": ["__meta_kubernetes_pod_label_servegate_dev_slot"],
            "release": ["__meta_kubernetes_pod_annotation_servegate_dev_release"],
        }
    texts = [rule["expr"] for each in of_kind("production", "PrometheusRule", "monitoring")["llm"]["spec"]["groups"]
             for rule in each["rules"]]  # fmt: skip
    assert any("by (namespace, slot)" in text for text in texts)
    assert not any("servegate_dev" in text for text in texts)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", ["autoscaling-hpa", "autoscaling-keda", "scale-to-zero"])
def test_autoscalers_wait_longer_than_a_model_load_and_are_guarded(overlay: str, name: str) -> None:
    deployment = of_kind(overlay, "Deployment", name)["llm-blue"]
    probe = deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    load = probe["periodSeconds"] * probe["failureThreshold"]
    assert of_kind(overlay, "ValidatingAdmissionPolicy", name)
    for item in added(overlay, name):
        spec = item["spec"]
        if item["kind"] == "HorizontalPodAutoscaler":
            assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] > load
        if item["kind"] == "ScaledObject":
            behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
            assert behavior["scaleDown"]["stabilizationWindowSeconds"] > load
            assert spec["cooldownPeriod"] > load
            assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
            (query,) = [each["metadata"]["query"] for each in spec["triggers"] if each["type"] == "prometheus"]
            (namespace,) = of_kind(overlay, "Namespace")
            assert query.startswith("sum(")
            assert f'namespace="{namespace}"' in query
        if item["kind"] == "HTTPScaledObject":
            (namespace,) = of_kind(overlay, "Namespace")
            assert spec["scaledownPeriod"] > load
            route = of_kind(overlay, "HTTPRoute", name)["llm"]["spec"]["rules"][0]["backendRefs"]
            sent = {each["name"]: each["filters"][0]["requestHeaderModifier"]["set"] for each in route}
            assert sent[item["metadata"]["name"]] == spec["headers"]
            assert spec["headers"][0]["value"].endswith(f".{namespace}")


@components
def test_a_component_says_what_it_is_for_and_is_in_the_docs(name: str) -> None:
    text = (K8S / "components" / name / "kustomization.yaml").read_text()
    assert text.startswith("# ")
    assert f"`{name}`" in (K8S.parent / "docs" / "kubernetes.md").read_text()


@pytest.mark.parametrize("name", ["controller", "drill", "evals", "load", "watchdog"])
def test_jobs_use_flags_and_files_that_there_are(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command line of the container, taken apart by the command itself; the repository is its working folder."""
    monkeypatch.chdir(K8S.parent)
    found = [item for item in added("production", name) if item["kind"] in ("CronJob", "Job")]
    assert found
    for item in found:
        (container,) = pods_of(item)[0]["spec"]["containers"]
        assert container["command"] == ["servegate"]
        names = {variable["name"] for variable in container["env"]}
        used = {part.partition(")")[0] for text in container["args"] for part in text.split("$(")[1:]}
        assert used <= names
        for text in container["args"]:  # the ConfigMap's files
            if "/etc/rollout/" in text or "/etc/drill/" in text:
                (tmp_path / text.rpartition("/")[2]).touch()
        parsed = parse(cli, [re.sub("/etc/(rollout|drill)/", f"{tmp_path}/", text) for text in container["args"]])
        if name in ("evals", "load"):
            assert "blue" not in str(parsed["base_url"])
            services = [f"http://{each}:8000" for each in of_kind("production", "Service")]
            assert parsed["base_url"].replace("$(SLOT)", "blue") in services


def parse(command: click.Command, arguments: list[str]) -> dict[str, Any]:
    """Parameters of the innermost command. Raises click.UsageError for what it does not know."""
    with click.Context(command) as context:
        while isinstance(command, click.Group):
            _, found, arguments = command.resolve_command(context, arguments)
            assert found is not None
            command = found
        return command.make_context("x", arguments).params
