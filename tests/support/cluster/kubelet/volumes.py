"""What a pod mounts and reads into its environment, taken from the API server."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from servegate.rollout.kube import Kube, KubeError

Object = dict[str, Any]


class NotYetError(Exception):
    """Something the pod refers to is not there; the kubelet tries again.

    Attributes:
        volume: whether it is a volume.
    """

    volume = False


class References:
    """Objects of one pod's namespace."""

    def __init__(self, kube: Kube, pod: Object) -> None:
        self.kube, self.pod = kube, pod
        self.namespace: str = pod["metadata"]["namespace"]

    def values(self, kind: str, name: str, optional: bool = False) -> dict[str, bytes]:
        """Content of a ConfigMap or Secret."""
        plural = {"configMap": "configmaps", "secret": "secrets"}[kind]
        try:
            item = self.kube.call("GET", f"/api/v1/namespaces/{self.namespace}/{plural}/{name}")
        except KubeError as error:
            if error.missing and optional:
                return {}
            if error.missing:
                raise NotYetError(f'{kind.lower()} "{name}" not found') from error
            raise
        found = {key: base64.b64decode(value) for key, value in (item.get("binaryData") or {}).items()}
        for key, value in (item.get("data") or {}).items():
            found[key] = base64.b64decode(value) if kind == "secret" else str(value).encode()
        return found

    def services(self) -> list[str]:
        """Lines of a hosts file with the names of the namespace's Services, which in a cluster DNS knows."""
        found = self.kube.call("GET", f"/api/v1/namespaces/{self.namespace}/services")["items"]
        addresses = {item["metadata"]["name"]: item["spec"].get("clusterIP") for item in found}
        return [
            f"{address} {name} {name}.{self.namespace} {name}.{self.namespace}.svc"
            for name, address in addresses.items()
            if address not in (None, "", "None")
        ]

    def field(self, path: str, address: str) -> str:
        """A downward API field."""
        meta, spec = self.pod["metadata"], self.pod["spec"]
        for kind in ("labels", "annotations"):
            if path.startswith(f"metadata.{kind}['"):
                return str((meta.get(kind) or {}).get(path.split("'")[1], ""))
        known: dict[str, str] = {
            "metadata.name": meta["name"],
            "metadata.namespace": meta["namespace"],
            "metadata.uid": meta["uid"],
            "spec.nodeName": spec["nodeName"],
            "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
            "status.podIP": address,
            "status.podIPs": address,
        }
        return known[path]

    def environment(self, container: Object, address: str) -> dict[str, str]:
        """The container's variables, `$(NAME)` expanded."""
        env: dict[str, str] = {}
        for source in container.get("envFrom") or ():
            for key, kind in (("configMapRef", "configMap"), ("secretRef", "secret")):
                if key in source:
                    found = self.values(kind, source[key]["name"], source[key].get("optional", False))
                    env.update({source.get("prefix", "") + name: value.decode() for name, value in found.items()})
        for item in container.get("env") or ():
            source = item.get("valueFrom")
            if source is None:
                env[item["name"]] = expand(item.get("value", ""), env)
            elif "fieldRef" in source:
                env[item["name"]] = self.field(source["fieldRef"]["fieldPath"], address)
            else:
                key, kind = (
                    ("configMapKeyRef", "configMap") if "configMapKeyRef" in source else ("secretKeyRef", "secret")
                )
                reference = source[key]
                optional = reference.get("optional", False)
                found = self.values(kind, reference["name"], optional)
                if reference["key"] in found:
                    env[item["name"]] = found[reference["key"]].decode()
                elif not optional:
                    raise NotYetError(f"couldn't find key {reference['key']} in {kind} {reference['name']}")
        return env

    def volume(self, volume: Object, folder: Path, claims: Path, address: str) -> Path:
        """Folder with the content of a volume."""
        place = folder / "volumes" / str(volume["name"])
        if "persistentVolumeClaim" in volume:
            place = claims / f"{self.namespace}-{volume['persistentVolumeClaim']['claimName']}"
        place.mkdir(parents=True, exist_ok=True)
        if "projected" in volume:
            for source in volume["projected"]["sources"]:
                self._project(source, place, address)
        elif "emptyDir" not in volume and "persistentVolumeClaim" not in volume:
            self._project(volume, place, address)
        return place

    def _project(self, source: Object, place: Path, address: str) -> None:
        if "serviceAccountToken" in source:
            account = self.pod["spec"].get("serviceAccountName", "default")
            path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
            reference = {"kind": "Pod", "apiVersion": "v1", "name": self.pod["metadata"]["name"]}
            reference["uid"] = self.pod["metadata"]["uid"]
            request = {"spec": {"expirationSeconds": 3600, "boundObjectRef": reference}}
            token = self.kube.call("POST", path, request)["status"]["token"]
            _write(place / source["serviceAccountToken"].get("path", "token"), token.encode())
        elif "downwardAPI" in source:
            for item in source["downwardAPI"]["items"]:
                _write(place / item["path"], self.field(item["fieldRef"]["fieldPath"], address).encode())
        elif "configMap" in source or "secret" in source:
            kind = "configMap" if "configMap" in source else "secret"
            reference = source[kind]
            name = reference.get("name") or reference.get("secretName")
            found = self.values(kind, name, reference.get("optional", False))
            items = reference.get("items")
            for key, value in found.items():
                paths = [key] if items is None else [item["path"] for item in items if item["key"] == key]
                for path in paths:
                    _write(place / path, value)
        else:
            kind = next(iter(set(source) - {"name"}))
            raise NotYetError(f"the test cluster has no volumes of kind {kind}")


def expand(text: str, env: dict[str, str]) -> str:
    """`$(NAME)` → its value, `$$(NAME)` → `$(NAME)`, an unknown name stays."""
    made, rest = "", text
    while rest:
        before, found, after = rest.partition("$")
        made += before
        if not found:
            break
        if after.startswith("$"):
            made, rest = made + "$", after[1:]
        elif after.startswith("(") and ")" in after:
            name, _, rest = after[1:].partition(")")
            made += env.get(name, f"$({name})")
        else:
            made, rest = made + "$", after
    return made


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
