"""KServe's part in the test cluster, played by the test: KServe's own controller does not run there.

For each LLMInferenceService it makes what KServe 0.20 makes of one without prefill and workers, as far as a rollout
meets it: Deployment `<name>-kserve`, whose selector and pods have KServe's labels and `spec.labels`, whose pods have
`spec.annotations` and the template; and Service `<name>-kserve-workload-svc`. Where KServe's preset pastes `args` into
a line of shell, they are read as a shell does.
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
OWN = {"kserve.io/component": "workload", "app.kubernetes.io/part-of": "llminferenceservice"}
EVERY = 0.2


class StandIn:
    """Follows the LLMInferenceServices `names` of a namespace until it is closed."""

    def __init__(self, kube: Kube, *names: str) -> None:
        self.kube, self.names, self.applier = kube, names, Applier(kube)
        self.problem: str | None = None
        self._made: dict[str, Object] = {}
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
            for name in self.names:
                try:
                    self._follow(self.kube.get("LLMInferenceService", name))
                except KubeError as error:
                    self.problem = str(error)  # tried again, as a controller would

    def _follow(self, item: Object) -> None:
        name = item["metadata"]["name"]
        if self._made.get(name) == item["spec"]:
            return
        for wanted in (self._deployment(item), self._service(item)):
            self.applier.apply(wanted)
        self._made[name] = item["spec"]

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
            "metadata": self._meta(item, "-kserve-workload-svc"),
            "spec": {"selector": selector, "ports": ports},
        }

    def _meta(self, item: Object, suffix: str) -> Object:
        return {"name": item["metadata"]["name"] + suffix, "namespace": item["metadata"]["namespace"]}
