"""KServe's part in the test cluster, played by the test: KServe's own controller does not run there.

For each LLMInferenceService it makes what KServe 0.20 makes of one without prefill and workers, as far as a rollout
meets it: Deployment `<name>-kserve`, whose selector and pods have KServe's labels and `spec.labels`, whose pods have
`spec.annotations` and the template; and Service `<name>-kserve-workload-svc`. Where KServe's preset pastes `args` into
a line of shell, they are read as a shell does. Of the services of one group it makes, where it is told under which host
name, one HTTPRoute with the members' weights, to their Services (as KServe does without a scheduler, with one to
InferencePools), and says so in their status once the gateway has it.
It is no proof of KServe: no presets are combined, no model is brought, and no webhook of it looks at what is written.
"""

from __future__ import annotations

import copy
import shlex
import threading
from typing import Any

from apply import Applier

from servegate.rollout.kube import Kube, KubeError

Object = dict[str, Any]
ROUTE = "llm-kserve-route"
SERVICE = "-kserve-workload-svc"
OWN = {"kserve.io/component": "workload", "app.kubernetes.io/part-of": "llminferenceservice"}
EVERY = 0.2


def quick(item: Object) -> Object:
    """A slot of KServe as the local overlay has Deployments: it starts and ends in seconds, and fits a small node."""
    template = item["spec"]["template"]
    template["terminationGracePeriodSeconds"] = 30
    (main,) = template["containers"]
    main["lifecycle"]["preStop"]["sleep"]["seconds"] = 2
    main["resources"]["requests"].update(cpu="100m", memory="256Mi")
    main["resources"]["limits"].update(memory="512Mi")
    for kind in ("startup", "readiness", "liveness"):
        main[f"{kind}Probe"]["periodSeconds"] = 1
    return item


class StandIn:
    """Follows the LLMInferenceServices `names` of a namespace, all of one group, until it is closed.

    Args:
        host: of the HTTPRoute it makes; without one it makes none.
    """

    def __init__(self, kube: Kube, *names: str, host: str | None = None) -> None:
        self.kube, self.names, self.host, self.applier = kube, names, host, Applier(kube)
        self.problem: str | None = None
        self._made: dict[str, Object] = {}
        self._routed: list[Object] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.problem is not None:
            print(f"KServe's stand-in was refused, last: {self.problem}")

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            try:
                items = [self.kube.get("LLMInferenceService", name) for name in self.names]
                for item in items:
                    self._follow(item)
                if self.host is not None:
                    self._route(items, self.host)
            except KubeError as error:
                self.problem = str(error)  # tried again, as a controller would

    def _follow(self, item: Object) -> None:
        name = item["metadata"]["name"]
        if self._made.get(name) == item["spec"]:
            return
        for wanted in (self._deployment(item), self._service(item)):
            self.applier.apply(wanted)
        self._made[name] = item["spec"]

    def _route(self, items: list[Object], host: str) -> None:
        """The group's HTTPRoute, and what the members' status says of it when the gateway has taken it up."""
        members = [
            {"name": item["metadata"]["name"], "weight": item["spec"]["router"]["route"]["weight"]} for item in items
        ]
        if members == self._routed:
            return
        refs = [{"name": each["name"] + SERVICE, "port": 8000, "weight": each["weight"]} for each in members]
        gateway = [{"name": ref["name"], "namespace": ref["namespace"]} for ref in _gateways(items[0])]
        spec = {"parentRefs": gateway, "hostnames": [host], "rules": [{"backendRefs": refs}]}
        meta = {"name": ROUTE, "namespace": items[0]["metadata"]["namespace"]}
        made = self.applier.apply(
            {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": meta, "spec": spec}
        )
        while not _accepted(self.kube.get("HTTPRoute", ROUTE), made["metadata"]["generation"]):
            if self._ended.wait(EVERY):
                return
        conditions = [{"type": kind, "status": "True"} for kind in ("HTTPRoutesReady", "GroupReady")]
        group = items[0]["spec"]["router"]["route"]["group"]
        status = {"conditions": conditions, "router": {"group": {"name": group, "members": members}}}
        for item in items:
            path = f"{self.applier.path(item)}/status"
            self.kube.call("PATCH", path, {"status": status}, content="application/merge-patch+json")
        self._routed = members

    def _labels(self, item: Object) -> dict[str, str]:
        """Of the pods, and of the selector, which is the same map in KServe."""
        own = {**OWN, "app.kubernetes.io/component": "llminferenceservice-workload"}
        return {**own, "app.kubernetes.io/name": item["metadata"]["name"], **item["spec"].get("labels", {})}

    def _deployment(self, item: Object) -> Object:
        spec = copy.deepcopy(item["spec"]["template"])
        (main,) = [found for found in spec["containers"] if found["name"] == "main"]
        preset = ["--model", "/mnt/models", "--served-model-name", item["spec"]["model"]["name"]]
        preset += ["--host", "0.0.0.0", "--port", "8000"]
        main["args"] = preset + shlex.split(" ".join(main.get("args", [])))
        labels = self._labels(item)
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self._meta(item, "-kserve"),
            "spec": {
                "replicas": item["spec"]["replicas"],
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels, "annotations": item["spec"].get("annotations", {})},
                    "spec": spec,
                },
            },
        }

    def _service(self, item: Object) -> Object:
        selector = {**OWN, "app.kubernetes.io/name": item["metadata"]["name"]}
        ports = [{"name": "http", "port": 8000, "targetPort": 8000, "appProtocol": "http"}]
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self._meta(item, SERVICE),
            "spec": {"selector": selector, "ports": ports},
        }

    def _meta(self, item: Object, suffix: str) -> Object:
        return {"name": item["metadata"]["name"] + suffix, "namespace": item["metadata"]["namespace"]}


def _gateways(item: Object) -> list[Object]:
    found: list[Object] = item["spec"]["router"]["gateway"]["refs"]
    return found


def _accepted(route: Object, generation: int) -> bool:
    """The gateway has taken up this generation of a route."""
    said = [
        condition
        for parent in (route.get("status") or {}).get("parents", ())
        for condition in parent["conditions"]
        if condition["type"] in ("Accepted", "ResolvedRefs") and condition["observedGeneration"] == generation
    ]
    return len(said) >= 2 and all(condition["status"] == "True" for condition in said)
