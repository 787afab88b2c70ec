"""The life of a controller in the small world of crash_world.py, and the ports it acts through.

Every effect passes a gate before and after it happens, where the controller can be killed, or paused while another one
takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from servegate.errors import InfrastructureError
from servegate.release import Release
from servegate.rollout.ports import ConflictError, Lease, RouteStatus, SlotStatus, Weights

if TYPE_CHECKING:
    from crash_world import World


class Killed(BaseException):
    """The controller is dead: nothing it does after this moment happens."""


@dataclass
class Life:
    """One controller, from its start to its death.

    Args:
        name: who it is.
        at: called before and after every effect with its number and name; may raise Killed or let others live.
    """

    name: str
    at: Callable[[int, str], None] = lambda _n, _what: None
    dead: bool = False
    moments: list[str] = field(default_factory=list)
    epoch: int = 0

    def moment(self, what: str) -> None:
        if self.dead:
            raise Killed
        self.moments.append(what)
        try:
            self.at(len(self.moments), what)
        except Killed:
            self.dead = True
            raise


@dataclass
class Router:
    world: World
    life: Life

    def read(self) -> Weights:
        return dict(self.world.wanted)

    def write(self, weights: Weights, epoch: int) -> None:
        self.life.moment("before router.write")
        self.world.write(self.life, weights, epoch)
        self.life.moment("after router.write")

    def verify(self) -> RouteStatus:
        return self.world.verify()


@dataclass
class Workload:
    """Fenced like the one of Kubernetes: by the epoch of the lease its controller has."""

    world: World
    life: Life

    def ensure(self, slot: str, wanted: Release, replicas: int) -> None:
        self.life.moment("before workload.ensure")
        self.world.ensure(self.life, slot, wanted, replicas)
        self.life.moment("after workload.ensure")

    def scale(self, slot: str, replicas: int) -> None:
        self.life.moment("before workload.scale")
        self.world.scale(self.life, slot, replicas)
        self.life.moment("after workload.scale")

    def status(self, slot: str) -> SlotStatus:
        return self.world.status(slot)

    def address(self, slot: str) -> str:
        return f"http://{slot}"


class Store:
    """The real store, with moments of death and trouble around what writes."""

    def __init__(self, world: World, life: Life) -> None:
        self.world, self.life = world, life

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world.store, name)

    def acquire(self, holder: str, now: float, ttl: float) -> Lease:
        lease: Lease = self._done("acquire", holder, now, ttl)
        self.life.epoch = lease.epoch
        return lease

    def renew(self, lease: Lease, now: float, ttl: float) -> Lease:
        renewed: Lease = self._done("renew", lease, now, ttl)
        return renewed

    def release(self, lease: Lease) -> None:
        self._done("release", lease)

    def save(self, state: str, expected_version: int, lease: Lease) -> int:
        if self.world.has("store-conflict"):
            self.life.moment("before store.save")
            raise ConflictError("somebody else wrote in between")
        version: int = self._done("save", state, expected_version, lease)
        if self.world.has("store-timeout"):
            raise InfrastructureError("no answer in time")  # and yet it was kept
        return version

    def append_history(self, line: str) -> None:
        self._done("append_history", line)

    def settle(self, *arguments: Any) -> None:
        self._done("settle", *arguments)

    def _done(self, name: str, *arguments: Any) -> Any:
        self.life.moment(f"before store.{name}")
        if self.world.has("store-500"):
            raise InfrastructureError("the store answers HTTP 500")
        result = getattr(self.world.store, name)(*arguments)
        if name == "save":
            holder = self.world.store.holder()
            if holder is not None and holder.epoch > self.life.epoch:
                self.world.violations.append(f"{self.life.name} saved after its lease at {self.world.now}")
            self.world.acts(self.life, "saved")
        self.life.moment(f"after store.{name}")
        return result
