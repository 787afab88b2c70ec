"""What of a cluster is ready for rollouts: namespace, objects, rights, Gateway, PodMonitors, room for a candidate."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any, Protocol

from servegate.errors import ConfigError
from servegate.pipeline.doctor import Finding, State
from servegate.rollout.kube import KubeError
from servegate.rollout.workloads.capacity import room

APPLY = "kubectl apply --server-side --field-manager=git -k k8s/overlays/…"
# What the controller does, as k8s/base/rbac.yaml allows it: (verb, group, resource, name).
MEMORY = (
    ("list", "", "pods", ""),
    ("list", "discovery.k8s.io", "endpointslices", ""),
    ("update", "", "configmaps", "{memory}-state"),
    ("update", "", "configmaps", "{memory}-intents"),
    ("update", "coordination.k8s.io", "leases", "{memory}"),
)
NEEDS = (
    ("get", "gateway.networking.k8s.io", "httproutes", "{route}"),
    ("patch", "gateway.networking.k8s.io", "httproutes", "{route}"),
    ("patch", "apps", "deployments", "{app}-blue"),
    ("patch", "apps", "deployments", "{app}-green"),
    *MEMORY,
)
# What it hears of instead of asking. It works without, and asks the API server at every look.
HEARD = (
    ("watch", "", "pods", ""),
    ("watch", "discovery.k8s.io", "endpointslices", ""),
    ("watch", "", "configmaps", "{memory}-intents"),
)
WATCHES = (
    ("watch", "gateway.networking.k8s.io", "httproutes", "{route}"),
    ("watch", "apps", "deployments", "{app}-blue"),
    ("watch", "apps", "deployments", "{app}-green"),
    *HEARD,
)
# The same where the slots are LLMInferenceServices, as k8s/components/kserve allows it.
KSERVE_NEEDS = (
    ("patch", "serving.kserve.io", "llminferenceservices", "{app}-blue"),
    ("patch", "serving.kserve.io", "llminferenceservices", "{app}-green"),
    ("get", "apps", "deployments", "{app}-blue-kserve"),
    ("get", "apps", "deployments", "{app}-green-kserve"),
    ("get", "", "services", "{app}-blue-kserve-workload-svc"),
    ("get", "", "services", "{app}-green-kserve-workload-svc"),
    *MEMORY,
)
KSERVE_WATCHES = (
    ("watch", "serving.kserve.io", "llminferenceservices", "{app}-blue"),
    ("watch", "serving.kserve.io", "llminferenceservices", "{app}-green"),
    ("watch", "apps", "deployments", "{app}-blue-kserve"),
    ("watch", "apps", "deployments", "{app}-green-kserve"),
    *HEARD,
)


DEPLOYMENTS = ("apps/v1", "deployments")
SERVICES = ("serving.kserve.io/v1alpha2", "llminferenceservices")


class Api(Protocol):
    """An API server, as servegate.rollout.kube has it."""

    def call(self, method: str, path: str, body: Any = None, *, query: Mapping[str, str] | None = None) -> Any:
        """One request. Raises KubeError."""


def cluster(
    api: Api, namespace: str, *, app: str = "llm", route: str = "llm", memory: str = "servegate"
) -> Iterator[Finding]:
    """Look at a namespace with the rights of whoever asks; nothing is changed."""
    where = f"namespace {namespace}"
    try:
        version = api.call("GET", "/version").get("gitVersion", "unknown")
        yield Finding("cluster", "API server", State.OK, f"Kubernetes {version}")
        api.call("GET", f"/api/v1/namespaces/{namespace}")
        yield Finding("cluster", where, State.OK, "there")
    except KubeError as error:
        if error.status == 0:
            todo = "is it reachable from here, and does it know us? kubectl cluster-info"
            yield Finding("cluster", "API server", State.MISSING, str(error), todo)
            return
        state = State.UNKNOWN if error.status == 403 else State.MISSING
        yield Finding("cluster", where, state, str(error), APPLY if state is State.MISSING else "")
        if state is State.MISSING:
            return
    kserve = _kserve(api, namespace, app)
    group, plural = SERVICES if kserve else DEPLOYMENTS
    slots: dict[str, Mapping[str, Any] | None] = {}
    for slot in ("blue", "green"):
        path = f"/apis/{group}/namespaces/{namespace}/{plural}/{app}-{slot}"
        slots[slot] = yield from _object(api, f"slot {slot}", path)
    served = None
    if not kserve:
        path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{route}"
        served = yield from _object(api, "route", path)
    yield from _object(api, "memory", f"/api/v1/namespaces/{namespace}/configmaps/{memory}-state")
    if served is not None:
        yield _gateway(served)
    if kserve:
        yield _group(slots, route)
    yield from _rights(api, namespace, {"app": app, "route": route, "memory": memory}, kserve=kserve)
    yield _monitors(api, namespace)
    found = slots["green"] or slots["blue"]
    if found is not None:
        template = found["spec"]["template"]
        yield _room(api, template if kserve else template["spec"])


def _kserve(api: Api, namespace: str, app: str) -> bool:
    """Whether a slot there is an LLMInferenceService."""
    group, plural = SERVICES
    for slot in ("blue", "green"):
        try:
            api.call("GET", f"/apis/{group}/namespaces/{namespace}/{plural}/{app}-{slot}")
        except KubeError:  # no KServe, no such object, or not ours to read: then Deployments are looked for
            continue
        return True
    return False


def _group(slots: Mapping[str, Mapping[str, Any] | None], wanted: str) -> Finding:
    """Whether KServe serves both slots as one group."""
    said = []
    for item in slots.values():
        if item is None:
            continue
        name, group = item["metadata"]["name"], item["spec"].get("router", {}).get("route", {}).get("group")
        if group != wanted:
            todo = f"spec.router.route.group of both must be what the site calls route: {wanted}"
            return Finding("cluster", "group", State.WRONG, f"{name}: its group is {group or 'none'}", todo)
        conditions = {found["type"]: found for found in (item.get("status") or {}).get("conditions") or ()}
        found = conditions.get("GroupReady") or {}
        if found.get("status") != "True":
            said.append(f"{name}: {found.get('message') or found.get('reason') or 'KServe has said nothing yet'}")
    if said:
        return Finding(
            "cluster", "group", State.WRONG, "; ".join(said), "kubectl describe llminferenceservice says more"
        )
    return Finding("cluster", "group", State.OK, f"KServe serves {wanted}")


def _object(api: Api, what: str, path: str) -> Generator[Finding, None, Mapping[str, Any] | None]:
    """The object, where it can be read."""
    name = path.rpartition("/")[2]
    try:
        found = api.call("GET", path)
    except KubeError as error:
        state = State.MISSING if error.missing else State.UNKNOWN
        yield Finding("cluster", what, state, f"{name}: {error}", APPLY if error.missing else "ask with more rights")
        return None
    yield Finding("cluster", what, State.OK, name)
    return dict(found)


def _gateway(route: Mapping[str, Any]) -> Finding:
    """Whether every Gateway of the route serves it."""
    parents = (route.get("status") or {}).get("parents") or ()
    refused = [
        f"{condition['type']}: {condition.get('message') or condition.get('reason') or condition['status']}"
        for parent in parents
        for condition in parent.get("conditions") or ()
        if condition["type"] in ("Accepted", "ResolvedRefs") and condition["status"] != "True"
    ]
    if not parents:
        wanted = (route["spec"].get("parentRefs") or [{}])[0]
        name = f"{wanted.get('namespace', 'the same namespace')}/{wanted.get('name', '?')}"
        return Finding(
            "cluster", "Gateway", State.MISSING, f"none has taken the route up; it asks for {name}",
            "install a Gateway API implementation and that Gateway, or edit parentRefs in k8s/base/route.yaml",
        )  # fmt: skip
    if refused:
        return Finding("cluster", "Gateway", State.WRONG, "; ".join(refused), "kubectl describe httproute says more")
    return Finding("cluster", "Gateway", State.OK, "serves the route")


def _rights(api: Api, namespace: str, names: Mapping[str, str], *, kserve: bool) -> Iterator[Finding]:
    """Whether we may do what a rollout does, and hear what it would else ask for."""
    where = "k8s/components/kserve" if kserve else "k8s/base/rbac.yaml"
    todo = f"bind this identity to Role servegate-controller, or apply it anew ({where})"
    needs, watches = (KSERVE_NEEDS, KSERVE_WATCHES) if kserve else (NEEDS, WATCHES)
    try:
        lacking = [wanted for need in needs if (wanted := _lacking(api, namespace, need, names))]
        deaf = [wanted for need in watches if (wanted := _lacking(api, namespace, need, names))]
    except KubeError as error:
        yield Finding("cluster", "rights", State.UNKNOWN, str(error))
        return
    if lacking:
        yield Finding(
            "cluster", "rights", State.WRONG, f"we may not {', '.join(lacking)}", f"to lead a rollout from here, {todo}"
        )
    else:
        yield Finding("cluster", "rights", State.OK, "all that a rollout needs")
    if deaf:
        said = f"we may not {', '.join(deaf)}: a rollout works, and asks the API server for them at every look"
        yield Finding("cluster", "watches", State.WRONG, said, todo)
    else:
        yield Finding("cluster", "watches", State.OK, "all that a rollout hears of")


def _lacking(api: Api, namespace: str, need: tuple[str, str, str, str], names: Mapping[str, str]) -> str:
    """What we may not do, in words; "" when we may. Raises KubeError."""
    verb, group, resource, pattern = need
    name = pattern.format(**names)
    wanted = {"namespace": namespace, "verb": verb, "group": group, "resource": resource, "name": name}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted},
    }
    answer = api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
    return "" if answer["status"].get("allowed") else f"{verb} {resource} {name}".rstrip()


def _monitors(api: Api, namespace: str) -> Finding:
    """Whether a Prometheus is told about the slots."""
    try:
        found = api.call("GET", f"/apis/monitoring.coreos.com/v1/namespaces/{namespace}/podmonitors")["items"]
    except KubeError as error:
        if not error.missing:
            return Finding("cluster", "Prometheus", State.UNKNOWN, str(error))
        todo = "install the Prometheus Operator; without it a rollout reads the engines itself"
        return Finding("cluster", "Prometheus", State.UNKNOWN, "there are no PodMonitors in this cluster", todo)
    if not found:
        return Finding("cluster", "Prometheus", State.MISSING, f"no PodMonitor in {namespace}", APPLY)
    return Finding("cluster", "Prometheus", State.OK, ", ".join(item["metadata"]["name"] for item in found))


def _room(api: Api, spec: Mapping[str, Any]) -> Finding:
    """Whether a candidate's pod would find a node."""
    try:
        nodes = api.call("GET", "/api/v1/nodes")["items"]
        pods = api.call("GET", "/api/v1/pods")["items"]
    except KubeError as error:
        return Finding(
            "cluster", "room", State.UNKNOWN, str(error), "nodes and pods of all namespaces must be readable"
        )
    try:
        found = room(dict(spec), nodes, pods, 8)
    except ConfigError as error:
        return Finding("cluster", "room", State.WRONG, str(error))
    if found.fits:
        return Finding("cluster", "room", State.OK, f"for {found.fits} more pods of a slot (8 are looked for)")
    todo = "free a GPU or let an autoscaler add a node; with `capacity: shift` stable makes room itself"
    return Finding("cluster", "room", State.WRONG, f"for no pod of a slot: {found.why}", todo)


__all__ = ["cluster"]
