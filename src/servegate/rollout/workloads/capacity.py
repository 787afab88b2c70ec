"""Whether a slot's pods would find room, before traffic is touched. Pure.

It asks what the scheduler asks of resources, taints and node selectors; affinity and spreading may still say no, and
then the pod says so itself (pod_problems). Extended resources need no special case: a GPU, a MIG slice
(`nvidia.com/mig-1g.10gb`) and a shared one are names with whole numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from servegate.errors import ConfigError
from servegate.rollout.kube import Object, labels_of, metadata

_SUFFIXES = {
    "": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal(10**3),
    "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}  # fmt: skip

_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)([A-Za-z]{0,2})")

Resources = Mapping[str, Decimal]


@dataclass(frozen=True)
class Room:
    """How many more of a pod fit.

    Attributes:
        fits: number of such pods that find a node now.
        why: what keeps the next one out, nodes counted by reason.
    """

    fits: int
    why: str


def quantity(text: object) -> Decimal:
    """A Kubernetes quantity, such as 500m, 48Gi or 1e3, as a number. Raises ConfigError."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None or match[2] not in _SUFFIXES:
        raise ConfigError(f"{str(text)[:40]!r} is not a quantity of Kubernetes")
    return Decimal(match[1]) * _SUFFIXES[match[2]]


def requests(spec: Object) -> dict[str, Decimal]:
    """What a pod asks for: the sum of its containers, or its largest init container where that is more."""
    total: dict[str, Decimal] = {"pods": Decimal(1)}
    for container in spec.get("containers") or ():
        _add(total, _asked(container))
    for container in spec.get("initContainers") or ():
        asked = _asked(container)
        if container.get("restartPolicy") == "Always":  # a sidecar: beside the others
            _add(total, asked)
        else:
            total.update({name: max(total.get(name, amount), amount) for name, amount in asked.items()})
    return total


def room(spec: Object, nodes: Iterable[Object], pods: Iterable[Object], at_most: int) -> Room:
    """How many pods of `spec` fit on `nodes`, where `pods` (of all namespaces) run already.

    Args:
        at_most: stop counting there.
    """
    used: dict[str, dict[str, Decimal]] = {}
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            _add(used.setdefault(node, {}), requests(pod["spec"]))
    wanted = requests(spec)
    fits, reasons = 0, Counter[str]()
    for node in nodes:
        problem = _refuses(spec, node)
        if problem is None:
            allocatable = {name: quantity(value) for name, value in node["status"].get("allocatable", {}).items()}
            taken = used.get(metadata(node)["name"], {})
            count, scarce = at_most, ""
            for name, amount in wanted.items():
                if amount > 0:
                    free = allocatable.get(name, Decimal(0)) - taken.get(name, Decimal(0))
                    possible = int(max(Decimal(0), free) // amount)
                    if possible < count:
                        count, scarce = possible, name
            fits += count
            problem = f"no more {scarce}" if scarce else None
        if problem is not None:
            reasons[problem] += 1
    return Room(
        min(fits, at_most),
        ", ".join(f"{count} node{'s' * (count > 1)}: {text}" for text, count in reasons.most_common()),
    )


def _refuses(spec: Object, node: Object) -> str | None:
    if node["spec"].get("unschedulable"):
        return "cordoned"
    ready = [item for item in node["status"].get("conditions") or () if item["type"] == "Ready"]
    if not ready or ready[0]["status"] != "True":
        return "not ready"
    found = labels_of(node)
    if any(found.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return "node selector"
    for taint in node["spec"].get("taints") or ():
        if taint["effect"] != "PreferNoSchedule" and not any(
            _tolerates(item, taint) for item in spec.get("tolerations") or ()
        ):
            return f"taint {taint['key']}"
    return None


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return (toleration.get("key"), toleration.get("value", "")) == (taint["key"], taint.get("value", ""))


def _add(total: dict[str, Decimal], more: Resources) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, Decimal(0)) + amount


def _asked(container: Object) -> dict[str, Decimal]:
    resources = container.get("resources") or {}
    # A limit without a request is a request too.
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantity(value) for name, value in asked.items()}
