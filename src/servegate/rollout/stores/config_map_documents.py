"""How state, history, lease and decisions stand in Kubernetes objects: pure; stores/config_map.py reads and writes."""

from __future__ import annotations

import base64
import gzip
import hashlib
from datetime import UTC, datetime

from servegate.errors import InfrastructureError
from servegate.rollout.kube import ANNOTATION, Object, annotations_of, metadata
from servegate.rollout.memory import HistoryLine
from servegate.rollout.ports import Lease

EPOCH = f"{ANNOTATION}epoch"
ROOM = 1_000_000
"""Bytes in a ConfigMap; the API server refuses more than 1 MiB."""
COMPRESS = 256_000
"""Bytes from which on the state is compressed."""
WARNINGS = ("ROLLING_BACK", "ROLLED_BACK", "HELD")
"""Phases whose Events are warnings."""


def without_data(item: Object) -> Object:
    """The object, to be given other data."""
    return {key: value for key, value in item.items() if key not in ("data", "binaryData")}


def pack(state: str, version: int) -> Object:
    """The data of a ConfigMap with the state. Raises InfrastructureError when it does not fit."""
    data, binary = {"version": str(version)}, {}
    raw = state.encode()
    if len(raw) <= COMPRESS:
        data["state"] = state
    else:
        packed = gzip.compress(raw, mtime=0)
        if len(packed) > ROOM:
            raise InfrastructureError(f"the state has {len(packed)} bytes compressed; a ConfigMap takes {ROOM}")
        binary["state.gz"] = base64.b64encode(packed).decode()
    return {"data": data, **({"binaryData": binary} if binary else {})}


def unpack(item: Object) -> str | None:
    """The state in a ConfigMap, None before the first. Raises InfrastructureError when it is damaged."""
    packed = (item.get("binaryData") or {}).get("state.gz")
    if packed is None:
        found = (item.get("data") or {}).get("state")
        return None if found is None else str(found)
    try:
        return gzip.decompress(base64.b64decode(packed)).decode()
    except (ValueError, OSError, EOFError) as error:
        raise InfrastructureError(f"ConfigMap {metadata(item)['name']}: the state in it is damaged") from error


def version(item: Object) -> int:
    """Version of the state; 0 before the first. Raises InfrastructureError when it is no number."""
    return _number(item, (item.get("data") or {}).get("version"), "version")


def epoch(item: Object) -> int:
    """Epoch of the lease that may write; 0 before the first. Raises InfrastructureError when it is no number."""
    return _number(item, annotations_of(item).get(EPOCH), EPOCH)


def _number(item: Object, text: str | None, what: str) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InfrastructureError(f"ConfigMap {metadata(item)['name']}: {what} is {text[:40]!r}, not a number")
    return int(text)


def lines(item: Object) -> list[str]:
    """Lines of the history, oldest first."""
    return [line for line in str((item.get("data") or {}).get("lines", "")).split("\n") if line]


def lease(name: str, item: Object) -> Lease:
    """The lease in a Lease. Raises InfrastructureError when it is not one of a rollout."""
    spec = item.get("spec") or {}
    renewed = spec.get("renewTime")
    try:
        at = 0.0 if renewed is None else datetime.fromisoformat(str(renewed)).timestamp()
        number = int(spec.get("leaseTransitions") or 0)
        return Lease(str(spec.get("holderIdentity") or ""), number, at + float(spec.get("leaseDurationSeconds") or 0))
    except (TypeError, ValueError) as error:
        raise InfrastructureError(f"lease {name}: is not one of a rollout: {error}") from error


def event(name: str, namespace: str, about: str, state: Object | None, said: HistoryLine, line: str) -> Object:
    """A decision as an Event about the ConfigMap of the state.

    Args:
        name: of the store.
        about: name of that ConfigMap.
        state: the ConfigMap itself, where it is known.
        line: the decision as it stands in the history, by which the Event is told from others.
    """
    found = metadata(state) if state is not None else {}
    involved = {"apiVersion": "v1", "kind": "ConfigMap", "name": about, "namespace": namespace}
    at = datetime.fromtimestamp(said.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    weights = ", ".join(f"{slot} {weight:g} %" for slot, weight in sorted(said.weights.items()))
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{hashlib.sha256(line.encode()).hexdigest()[:16]}"},
        "involvedObject": {**involved, **({"uid": found["uid"]} if found.get("uid") else {})},
        "reason": said.phase.title().replace("_", ""),
        "message": f"{said.release}: {said.phase}, {weights}: {said.reason}"[:1000],
        "type": "Warning" if said.phase in WARNINGS else "Normal",
        "source": {"component": "servegate"},
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }
