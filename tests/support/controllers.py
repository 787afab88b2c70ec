"""Documents of the controller's components, as the test cluster can run them."""

from __future__ import annotations

import json

import yaml
from manifests import K8S, Object, placed

IMAGE = "servegate.test/controller"
"""An image with servegate in it."""


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
