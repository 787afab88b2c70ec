"""Documents of the controller's components, as the test cluster can run them."""

from __future__ import annotations

from typing import Any

import yaml
from manifests import K8S

IMAGE = "servegate.test/controller"


def component(name: str, file: str, namespace: str) -> dict[str, Any]:
    """A shipped document, in a namespace and with an image that the test cluster has."""
    text = (K8S / "components" / name / file).read_text().replace("example.invalid/servegate", IMAGE)
    document: dict[str, Any] = yaml.safe_load(text)
    document["metadata"]["namespace"] = namespace
    return document
