"""What Argo CD and Flux apply when told to leave fields alone: Git's document with the cluster's values in them."""

from __future__ import annotations

import copy
from typing import Any

import yaml
from manifests import K8S

Object = dict[str, Any]


def rules() -> dict[str, list[str]]:
    """Pointers of the fields to leave alone, by kind, as shipped for Argo CD (and the same for Flux)."""
    spec = yaml.safe_load((K8S / "gitops" / "argocd.yaml").read_text())["spec"]
    return {rule["kind"]: rule["jsonPointers"] for rule in spec["ignoreDifferences"]}


def respecting(desired: Object, live: Object) -> Object:
    """`desired` with the values of `live` in all fields that are left alone."""
    made = copy.deepcopy(desired)
    for pointer in rules().get(desired["kind"], ()):
        keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
        found = _at(live, keys)
        *parents, last = keys
        place = _at(made, parents)
        if found is None and isinstance(place, dict):
            place.pop(last, None)
        elif found is not None:
            _put(made, keys, found)
    return made


def _at(item: Any, keys: list[str]) -> Any:
    for key in keys:
        if isinstance(item, list):
            item = dict(enumerate(item)).get(int(key))
            continue
        item = (item or {}).get(key)
    return item


def _put(item: Any, keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        item = item[int(key)] if isinstance(item, list) else item.setdefault(key, {})
    if isinstance(item, list):
        item[int(keys[-1]) : int(keys[-1]) + 1] = [value]
    else:
        item[keys[-1]] = value
