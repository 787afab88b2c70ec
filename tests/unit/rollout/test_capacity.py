"""Quantities, requests and room as the scheduler understands them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from servegate.errors import ConfigError
from servegate.rollout.workloads.capacity import quantity, requests, room


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", "0.5"),
        ("48Gi", "51539607552"),
        ("1e3", "1000"),
        ("2", "2"),
        (4, "4"),
        ("1.5G", "1500000000"),
        ("3E", "3e18"),
    ],
)
def test_quantities(text: object, value: str) -> None:
    assert quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "Gi", "1KiB", "one", "1 Gi"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a quantity"):
        quantity(text)


def container(amount: str, **more: Any) -> dict[str, Any]:
    return {"resources": {"requests": {"cpu": amount}}, **more}


def test_what_a_pod_asks_for() -> None:
    spec = {"containers": [container("1"), container("2")], "initContainers": [container("5")]}
    assert requests(spec) == {"cpu": 5, "pods": 1}
    sidecar = container("1", restartPolicy="Always")
    assert requests({"containers": [container("3")], "initContainers": [sidecar]})["cpu"] == 4
    limited = {"resources": {"limits": {"nvidia.com/mig-1g.10gb": "2"}}}
    assert requests({"containers": [limited]})["nvidia.com/mig-1g.10gb"] == 2


def node(cpu: str, taints: list[dict[str, str]] | None = None, ready: str = "True", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": f"n{cpu}", "labels": labels},
        "spec": {"taints": taints or []},
        "status": {"allocatable": {"cpu": cpu, "pods": "110"}, "conditions": [{"type": "Ready", "status": ready}]},
    }


def test_what_a_node_takes_in() -> None:
    spec: dict[str, Any] = {"containers": [container("2")]}
    assert room(spec, [node("5"), node("3")], [], 10).fits == 3
    assert room(spec, [node("500")], [], 4).fits == 4
    gone = {"spec": {"nodeName": "n5", **spec}, "status": {"phase": "Succeeded"}}
    there = {"spec": {"nodeName": "n5", **spec}, "status": {"phase": "Running"}}
    assert room(spec, [node("5")], [gone, there], 10).fits == 1
    assert room(spec, [node("5", ready="Unknown")], [], 10).why == "1 node: not ready"
    selecting = {**spec, "nodeSelector": {"gpu": "h200"}}
    assert room(selecting, [node("5"), node("5", gpu="h200")], [], 10).fits == 2


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        ({"operator": "Exists"}, 1),
        ({"key": "spot", "operator": "Exists", "effect": "NoSchedule"}, 1),
        ({"key": "spot", "operator": "Exists", "effect": "NoExecute"}, 0),
        ({"key": "spot", "value": "true"}, 1),
        ({"key": "spot", "value": "false"}, 0),
        ({"key": "other", "operator": "Exists"}, 0),
    ],
)
def test_taints_and_tolerations(toleration: dict[str, str], fits: int) -> None:
    tainted = node("2", [{"key": "spot", "value": "true", "effect": "NoSchedule"}])
    spec = {"containers": [container("2")], "tolerations": [toleration]}
    assert room(spec, [tainted], [], 1).fits == fits
    preferred = node("2", [{"key": "spot", "value": "true", "effect": "PreferNoSchedule"}])
    assert room({"containers": [container("2")]}, [preferred], [], 1).fits == 1
