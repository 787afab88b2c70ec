"""Sizes from a registry's manifests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from servegate.errors import InfrastructureError


def pulled_size(raw: Callable[[str], str], repository: str, digest: str) -> int:
    """Bytes a node pulls: the compressed layers and the configuration of the image for amd64.

    Args:
        raw: the text of the manifest behind `repository@digest`.

    Raises:
        InfrastructureError: no manifest, or none for amd64.
    """
    for _ in range(2):  # an index, then a manifest
        manifest = _parse(raw(f"{repository}@{digest}"), repository)
        if "layers" in manifest:
            return int(manifest["config"]["size"]) + sum(int(layer["size"]) for layer in manifest["layers"])
        fitting = [
            item["digest"]
            for item in manifest.get("manifests", [])
            if item.get("platform", {}).get("architecture") == "amd64"
        ]
        if not fitting:
            break
        digest = fitting[0]
    raise InfrastructureError(f"{repository}@{digest}: the registry has no image for amd64 there")


def _parse(text: str, repository: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InfrastructureError(f"{repository}: the registry's answer is no manifest") from error
    if not isinstance(found, dict):
        raise InfrastructureError(f"{repository}: the registry's answer is no manifest")
    return found
