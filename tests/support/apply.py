"""Server-side apply over one connection: what `kubectl apply --server-side` asks, without a process per object."""

from __future__ import annotations

import functools
from typing import Any

from servegate.rollout.kube import Kube

Object = dict[str, Any]

STRICT = {"fieldManager": "git", "fieldValidation": "Strict"}


class Applier:
    """Applies documents as field manager `git`; unknown and repeated fields are errors."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self._resources = functools.cache(self._discover)

    def apply(self, item: Object, *, dry: bool = False) -> Object:
        """Raises KubeError when the API server refuses."""
        query = STRICT | ({"dryRun": "All"} if dry else {})
        return self.kube.call("PATCH", self.path(item), item, query=query, content="application/apply-patch+yaml")

    def create(self, item: Object, *, dry: bool = False) -> Object:
        """Raises KubeError when the API server refuses."""
        folder = self.path(item).rpartition("/")[0]
        return self.kube.call("POST", folder, item, query=STRICT | ({"dryRun": "All"} if dry else {}))

    def delete(self, item: Object) -> None:
        """Raises KubeError when the API server refuses."""
        self.kube.call("DELETE", self.path(item), query={"propagationPolicy": "Background"})

    def path(self, item: Object) -> str:
        """Address of an object."""
        version, metadata = item["apiVersion"], item["metadata"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        name, namespaced = self._resources(root)[item["kind"]]
        place = f"/namespaces/{metadata['namespace']}" if namespaced else ""
        return f"{root}{place}/{name}/{metadata.get('name', '')}"

    def _discover(self, root: str) -> dict[str, tuple[str, bool]]:
        found = self.kube.call("GET", root)["resources"]
        return {each["kind"]: (each["name"], each["namespaced"]) for each in found if "/" not in each["name"]}
