"""A real Envoy in front of two small backends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from servegate.endpoint import request
from servegate.errors import InfrastructureError
from servegate.process import Child, free_ports
from servegate.rollout.routers.envoy import Envoy, EnvoyConfig, start_envoy

BACKEND = Path(__file__).parents[1] / "e2e" / "envoy_backend.py"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def answers(url: str) -> bool:
    try:
        return request("GET", url, timeout=1.0)[0] == 200
    except InfrastructureError:
        return False


@dataclass
class Plane:
    envoy: Envoy
    backends: dict[str, Child]
    ports: dict[str, int]
    folder: Path

    def set(self, green: float, epoch: int = 1) -> None:
        self.envoy.router.write({"blue": 100.0 - green, "green": green}, epoch)
        until(lambda: self.envoy.router.verify().accepted)

    def served(self, slot: str, kind: str) -> int:
        body = request("GET", f"http://127.0.0.1:{self.ports[slot]}/served")[1]
        return int(json.loads(body).get(kind, 0))


def plane_in(tmp_path: Path) -> Iterator[Plane]:
    """Two backends and an Envoy, for a fixture."""
    ports = free_ports(4)
    slots = {"blue": ports[2], "green": ports[3]}
    backends = {
        slot: Child(slot, [sys.executable, str(BACKEND), str(port), slot], tmp_path / f"{slot}.log")
        for slot, port in slots.items()
    }
    envoy = None
    try:
        for port in slots.values():
            until(partial(answers, f"http://127.0.0.1:{port}/up"))
        config = EnvoyConfig(
            tmp_path / "envoy", ports[0], ports[1], {slot: [port] for slot, port in slots.items()}, idle_timeout=2.0
        )
        envoy = start_envoy(config, {"blue": 100.0, "green": 0.0})
        yield Plane(envoy, backends, slots, tmp_path)
    finally:
        if envoy is not None:
            envoy.stop()
        for child in backends.values():
            child.stop(grace=0.0)
