"""What the doctor says of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from manifests import of_kind

from servegate.pipeline.doctor import State
from servegate.pipeline.doctor_cluster import KSERVE_NEEDS, KSERVE_WATCHES, NEEDS, WATCHES, cluster
from servegate.rollout.kube import KubeError

SPEC = {"containers": [{"name": "engine", "resources": {"requests": {"nvidia.com/gpu": "1"}}}]}
NODE = {
    "metadata": {"name": "gpu-0"},
    "spec": {},
    "status": {
        "allocatable": {"nvidia.com/gpu": "2", "pods": "10"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
GOOD: dict[str, Any] = {
    "/version": {"gitVersion": "v1.36.0"},
    "/api/v1/namespaces/llm": {},
    "/apis/apps/v1/namespaces/llm/deployments/llm-blue": {"spec": {"template": {"spec": SPEC}}},
    "/apis/apps/v1/namespaces/llm/deployments/llm-green": {"spec": {"template": {"spec": SPEC}}},
    "/apis/gateway.networking.k8s.io/v1/namespaces/llm/httproutes/llm": {
        "spec": {"parentRefs": [{"name": "gateway", "namespace": "gateway"}]},
        "status": {"parents": [{"conditions": [{"type": "Accepted", "status": "True"}]}]},
    },
    "/api/v1/namespaces/llm/configmaps/servegate-state": {},
    "/apis/monitoring.coreos.com/v1/namespaces/llm/podmonitors": {"items": [{"metadata": {"name": "llm-blue"}}]},
    "/api/v1/nodes": {"items": [NODE]},
    "/api/v1/pods": {"items": []},
}


class Api:
    """Answers by path."""

    def __init__(self, changed: Mapping[str, Any], refused: tuple[str, ...] = ()) -> None:
        self.answers, self.refused = {**GOOD, **changed}, refused

    def call(self, method: str, path: str, body: Any = None, *, query: Mapping[str, str] | None = None) -> Any:
        del method, query
        if path.endswith("selfsubjectaccessreviews"):
            wanted = body["spec"]["resourceAttributes"]
            return {"status": {"allowed": f"{wanted['verb']} {wanted['resource']}" not in self.refused}}
        found = self.answers.get(path, 404)
        if isinstance(found, int):
            raise KubeError(f"HTTP {found}", found)
        return found


def said(changed: Mapping[str, Any], refused: tuple[str, ...] = ()) -> dict[str, tuple[State, str]]:
    return {item.what: (item.state, item.found) for item in cluster(Api(changed, refused), "llm")}


def test_a_cluster_that_is_ready() -> None:
    found = said({})
    assert {state for state, _ in found.values()} == {State.OK}
    assert found["API server"][1] == "Kubernetes v1.36.0"
    assert found["room"][1].startswith("for 2 more pods")


def test_a_cluster_that_does_not_answer_ends_it() -> None:
    assert said({"/version": 0}) == {"API server": (State.MISSING, "HTTP 0")}


def test_a_namespace_that_is_missing_ends_it() -> None:
    found = said({"/api/v1/namespaces/llm": 404})
    assert found["namespace llm"][0] is State.MISSING
    assert "route" not in found


def test_what_may_not_be_read_is_unknown_and_what_is_missing_is_missing() -> None:
    found = said(
        {
            "/api/v1/namespaces/llm": 403,
            "/apis/apps/v1/namespaces/llm/deployments/llm-blue": 404,
            "/api/v1/nodes": 403,
            "/apis/monitoring.coreos.com/v1/namespaces/llm/podmonitors": 404,
        }
    )
    states = {what: state for what, (state, _) in found.items()}
    assert states["namespace llm"] is states["room"] is states["Prometheus"] is State.UNKNOWN
    assert states["slot blue"] is State.MISSING


def test_rights_are_named_that_a_rollout_needs_and_we_do_not_have() -> None:
    found = said({}, refused=("patch httproutes", "update leases"))
    assert found["rights"] == (State.WRONG, "we may not patch httproutes llm, update leases servegate")


def test_what_is_not_heard_of_is_named_and_needed_by_nothing() -> None:
    found = said({}, refused=("watch pods", "watch configmaps"))
    assert found["rights"][0] is State.OK
    state, text = found["watches"]
    assert state is State.WRONG
    assert text.startswith("we may not watch pods, watch configmaps servegate-intents: a rollout works")


def test_a_route_that_no_gateway_serves() -> None:
    path = "/apis/gateway.networking.k8s.io/v1/namespaces/llm/httproutes/llm"
    spec = GOOD[path]["spec"]
    state, text = said({path: {"spec": spec}})["Gateway"]
    assert (state, text) == (State.MISSING, "none has taken the route up; it asks for gateway/gateway")
    bad = [{"conditions": [{"type": "ResolvedRefs", "status": "False", "message": "no such Service"}]}]
    found = said({path: {"spec": spec, "status": {"parents": bad}}})
    assert found["Gateway"] == (State.WRONG, "ResolvedRefs: no such Service")


def test_no_room_for_a_candidate() -> None:
    full = {"spec": {"nodeName": "gpu-0", **SPEC}, "status": {"phase": "Running"}}
    state, text = said({"/api/v1/pods": {"items": [full, full]}})["room"]
    assert state is State.WRONG
    assert text.startswith("for no pod of a slot")


def service(group: str = "llm", **said: str) -> dict[str, Any]:
    conditions = [{"type": "GroupReady", "status": "True", **said}]
    return {
        "metadata": {"name": "llm-green"},
        "spec": {"router": {"route": {"group": group}}, "template": SPEC},
        "status": {"conditions": conditions},
    }


def kserve(**said_of_group: Any) -> dict[str, Any]:
    place = "/apis/serving.kserve.io/v1alpha2/namespaces/llm/llminferenceservices/llm"
    return {f"{place}-blue": service(), f"{place}-green": service(**said_of_group)}


def test_slots_of_kserve_are_looked_at_with_their_group_in_place_of_a_route() -> None:
    found = said(kserve())
    assert {state for state, _ in found.values()} == {State.OK}
    assert "route" not in found
    assert found["group"][1] == "KServe serves llm"
    assert found["room"][1].startswith("for 2 more pods")
    found = said(kserve(status="False", message="members serve different models"))
    assert found["group"] == (State.WRONG, "llm-green: members serve different models")
    assert said(kserve(group="other"))["group"] == (State.WRONG, "llm-green: its group is other")
    found = said(kserve(), refused=("patch llminferenceservices",))
    assert found["rights"] == (
        State.WRONG,
        "we may not patch llminferenceservices llm-blue, patch llminferenceservices llm-green",
    )


def role(*components: str) -> dict[str, Any]:
    return of_kind("local", "Role", *components)["servegate-controller"]


@pytest.mark.parametrize(
    ("components", "needs"), [((), (*NEEDS, *WATCHES)), (("kserve",), (*KSERVE_NEEDS, *KSERVE_WATCHES))]
)
def test_the_role_of_the_controller_allows_all_of_it(
    components: tuple[str, ...], needs: tuple[tuple[str, str, str, str], ...]
) -> None:
    names = {"app": "llm", "route": "llm", "memory": "servegate"}
    for verb, group, resource, pattern in needs:
        assert any(
            verb in rule["verbs"]
            and group in rule["apiGroups"]
            and resource in rule["resources"]
            and pattern.format(**names) in rule.get("resourceNames", [pattern.format(**names)])
            for rule in role(*components)["rules"]
        ), (verb, resource, pattern)
