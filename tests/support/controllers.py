"""Documents of the controller's components, as the test cluster can run them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml
from manifests import K8S, Object, placed

if TYPE_CHECKING:
    from cluster_place import Place

IMAGE = "servegate.test/controller"
"""An image with servegate in it."""
FILES = ("plan.yaml", "site.yaml", "trust.yaml", "release.pub")


def component(name: str, file: str, namespace: str) -> Object:
    """A shipped document, in a namespace and with an image that the test cluster has."""
    document: Object = with_image(yaml.safe_load((K8S / "components" / name / file).read_text()))
    document["metadata"]["namespace"] = namespace
    return document


def with_image(document: Object) -> Object:
    """The document with an image of the test cluster in the place of the placeholder."""
    found: Object = json.loads(json.dumps(document).replace("example.invalid/servegate", IMAGE))
    return found


def whole(name: str, namespace: str) -> list[Object]:
    """All that a component adds to the overlay for the test cluster."""
    before = placed("local", namespace)
    return [with_image(item) for item in placed("local", namespace, name) if item not in before]


def order(place: Place, name: str) -> None:
    """A Job that rolls a release out, as the workflow makes it: one ConfigMap, one Job."""
    cluster, namespace = place.cluster, place.namespace
    names = {"release.json": f"{name}.json", "verdict.json": f"{name}.verdict.json", "stable.json": "v1.json"}
    names |= {file: file for file in FILES}
    files = [f"--from-file={key}={place.folder / file}" for key, file in names.items()]
    cluster.kubectl("-n", namespace, "delete", "job,configmap", "servegate-rollout", "--ignore-not-found", "--wait")
    cluster.kubectl("-n", namespace, "create", "configmap", "servegate-rollout", *files)
    cluster.apply(component("controller", "job.yaml", namespace))


def pods(place: Place, job: str = "servegate-rollout") -> list[str]:
    """Names of a Job's pods that are not on their way out."""
    found = place.cluster.get("-n", place.namespace, "pods", "-l", f"job-name={job}")["items"]
    return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]
