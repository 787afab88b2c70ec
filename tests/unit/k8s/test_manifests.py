"""The manifests without a cluster: they render, are valid in every Kubernetes we name, and keep the house rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import K8S, OVERLAYS, Object, documents, of_kind

from servegate.config import load
from servegate.release import Engine, Image, Model, Release
from servegate.rollout.routers.envoy import NOT_SERVING
from servegate.rollout.workloads.pod_template import arguments, drain_seconds, port_of

CUSTOM = ("HTTPRoute", "PodMonitor")
"""Kinds whose schemas are not Kubernetes' own; the real API server checks them (tests/cluster)."""
VERSIONS = ("1.30", "1.33", "1.35", "1.36", "1.37")
SLOTS = ("blue", "green")
overlays = pytest.mark.parametrize("overlay", OVERLAYS)


def template(overlay: str, slot: str) -> Object:
    found: Object = of_kind(overlay, "Deployment")[f"llm-{slot}"]["spec"]["template"]
    return found


def engine(overlay: str, slot: str = "blue") -> Object:
    (container,) = template(overlay, slot)["spec"]["containers"]
    return dict(container)


def matches(selector: Object, labels: dict[str, str]) -> bool:
    assert selector["matchLabels"]
    return bool(selector["matchLabels"].items() <= labels.items())


@overlays
def test_no_object_is_made_twice_and_all_are_in_one_namespace(overlay: str) -> None:
    found = [(item["kind"], item["metadata"]["name"]) for item in documents(overlay)]
    assert len(set(found)) == len(found)
    ((name, _),) = of_kind(overlay, "Namespace").items()
    others = [item for item in documents(overlay) if item["kind"] != "Namespace"]
    assert {item["metadata"]["namespace"] for item in others} == {name}


def test_the_slots_are_equal_but_for_their_names() -> None:
    for overlay in OVERLAYS:
        for kind in ("Deployment", "Service", "PodMonitor", "PodDisruptionBudget"):
            found = of_kind(overlay, kind)
            texts = {slot: yaml.safe_dump(found[f"llm-{slot}"]).replace(slot, "SLOT") for slot in SLOTS}
            assert texts["blue"] == texts["green"]


@overlays
@pytest.mark.parametrize("slot", SLOTS)
def test_selectors_ports_and_labels_meet(overlay: str, slot: str) -> None:
    labels = template(overlay, slot)["metadata"]["labels"]
    other = template(overlay, next(name for name in SLOTS if name != slot))["metadata"]["labels"]
    selectors = [of_kind(overlay, kind)[f"llm-{slot}"]["spec"]["selector"] for kind in ("Deployment", "PodMonitor")]
    selectors += [of_kind(overlay, "PodDisruptionBudget")[f"llm-{slot}"]["spec"]["selector"]]
    service = of_kind(overlay, "Service")[f"llm-{slot}"]["spec"]
    for selector in [*selectors, {"matchLabels": service["selector"]}]:
        assert matches(selector, labels)
        assert not matches(selector, other)
    (port,) = service["ports"]
    assert port["targetPort"] == "http"
    names = {item["name"]: item["containerPort"] for item in engine(overlay, slot)["ports"]}
    assert names["http"] == port_of(of_kind(overlay, "Deployment")[f"llm-{slot}"])
    (endpoint,) = of_kind(overlay, "PodMonitor")[f"llm-{slot}"]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in names
    ((rule,),) = [of_kind(overlay, "HTTPRoute")["llm"]["spec"]["rules"]]
    references = {ref["name"]: ref for ref in rule["backendRefs"]}
    assert references[f"llm-{slot}"]["port"] == port["port"]
    policy = of_kind(overlay, "NetworkPolicy")["llm-engine"]["spec"]
    assert matches(policy["podSelector"], labels)
    assert all(item["port"] in names for rule in policy["ingress"] for item in rule["ports"])


@overlays
@pytest.mark.parametrize("slot", SLOTS)
def test_a_slot_starts_empty_and_takes_no_gpu_it_cannot_have(overlay: str, slot: str) -> None:
    spec = of_kind(overlay, "Deployment")[f"llm-{slot}"]["spec"]
    assert spec["replicas"] == 0
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert of_kind(overlay, "HTTPRoute")["llm"]["spec"]["rules"][0]["backendRefs"][0]["weight"] == 100


@overlays
def test_probes_wait_for_the_model_and_do_not_kill_under_load(overlay: str) -> None:
    container = engine(overlay)
    startup, ready, live = (container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 60
    assert ready["periodSeconds"] <= 2
    assert live["periodSeconds"] * live["failureThreshold"] >= 15
    deadline = of_kind(overlay, "Deployment")["llm-blue"]["spec"]["progressDeadlineSeconds"]
    assert deadline > startup["periodSeconds"] * startup["failureThreshold"]


@overlays
def test_pre_stop_drain_and_grace_are_consistent(overlay: str) -> None:
    deployment = of_kind(overlay, "Deployment")["llm-blue"]
    pod = deployment["spec"]["template"]["spec"]
    pause = engine(overlay)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = drain_seconds(deployment)
    assert drain >= 10
    assert pause + drain < pod["terminationGracePeriodSeconds"]
    release = Release(
        name="x",
        image=Image(repository="r", digest="sha256:" + "0" * 64),
        model=Model(uri="hf://a/b", served_name="m"),
        engine=Engine(name="vllm", version="1"),
    )
    made = arguments(release, deployment)
    assert made[made.index("--shutdown-timeout") + 1] == str(drain)


@overlays
def test_rights_name_what_they_are_for(overlay: str) -> None:
    """Whatever changes something existing is limited to names; nothing is a wildcard."""
    free: list[tuple[Any, ...]] = []
    for role in of_kind(overlay, "Role").values():
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            changing = set(rule["verbs"]) - {"get", "list", "watch"}
            if changing and "resourceNames" not in rule:
                free.append((role["metadata"]["name"], *rule["resources"], *sorted(changing)))
    assert sorted(free) == [
        ("servegate-controller", "configmaps", "create"),
        ("servegate-controller", "events", "create"),
    ]
    assert not of_kind(overlay, "ClusterRole")


def test_the_release_that_git_asks_for_is_one(tmp_path: Path) -> None:
    release = load(K8S / "release.yaml", Release)
    assert release.image is None  # the build adds it
    assert release.engine.name == "vllm"
    assert release.model.revision is not None


def test_the_release_names_the_engine_that_the_image_has() -> None:
    release = load(K8S / "release.yaml", Release)
    bases = re.findall(r"^FROM \S*vllm\S*:v(\d+\.\d+\.\d+)", (K8S.parent / "Dockerfile").read_text(), re.MULTILINE)
    assert set(bases) == {release.engine.version}


def test_the_startup_probe_lasts_three_times_as_long_as_the_model_needs() -> None:
    """The rule of docs/kubernetes.md for the model of release.yaml: 8.2 billion parameters in BF16 at 100 MB/s."""
    probe = engine("production")["startupProbe"]
    needed = 3 * (2 * 8.2e9 / 100e6 + 120)
    assert needed <= probe["periodSeconds"] * probe["failureThreshold"] <= 1.2 * needed
    assert load(K8S / "release.yaml", Release).model.uri.endswith("8B")


def test_the_clusters_gateway_counts_as_requests_what_envoy_on_a_machine_does() -> None:
    patch = list(yaml.safe_load_all((K8S / "gateway/envoy-gateway.yaml").read_text("utf-8")))[1]
    path = patch["spec"]["jsonPatches"][0]["operation"]["value"]["filter"]["header_filter"]["header"]
    assert path == {"name": ":path", "string_match": {"safe_regex": {"regex": NOT_SERVING}}, "invert_match": True}
