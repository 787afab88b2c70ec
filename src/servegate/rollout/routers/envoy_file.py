"""Router that moves weights by Envoy's file-based route discovery: write beside, rename, ask Envoy whether it took it.

The file is the target of the effect, so the fencing epoch stands in it, as the first half of the version Envoy reports
back (`<epoch>.<serial>`). Whoever writes reads the epoch in the file under a lock first: an older controller that wakes
up late is refused, in whatever process it is. The lock is only held for a read and a rename.
"""

from __future__ import annotations

import fcntl
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servegate.contract import write_atomic
from servegate.endpoint import request
from servegate.errors import InfrastructureError
from servegate.process import Child
from servegate.rollout.ports import Arrangement, FencedError, RouteStatus, Weights
from servegate.rollout.routers import envoy_routes
from servegate.rollout.routers.envoy_routes import ROUTES
from servegate.rollout.routers.weights import UNITS, to_units

LOCK_TIMEOUT = 2.0
_VERSION = re.compile(r"^(\d{1,18})\.(\d{1,18})$")


@dataclass(frozen=True)
class _Route:
    """A route configuration, from the file or from Envoy."""

    epoch: int
    serial: int
    weights: dict[str, float]
    arrangement: Arrangement

    @property
    def version(self) -> str:
        return f"{self.epoch}.{self.serial}"


class EnvoyFileRouter:
    """Moves weights of an Envoy that watches `file`.

    Args:
        file: the route configuration; its folder is watched by Envoy and holds nothing else.
        admin: URL of Envoy's admin interface.
        slots: all slots, each a cluster of Envoy.
        idle_timeout: seconds without a byte from the engine after which a request is ended.
        child: the Envoy, where we started it, so that its end can be told from its silence.
    """

    sticky_by: frozenset[str] = frozenset({"cookie", "header"})

    def __init__(
        self,
        file: Path,
        admin: str,
        slots: Sequence[str],
        *,
        idle_timeout: float = 300.0,
        child: Child | None = None,
    ) -> None:
        self.file, self.admin, self.slots = file, admin.rstrip("/"), tuple(slots)
        self.idle_timeout, self.child = idle_timeout, child

    def read(self) -> Weights:
        """Weights as last written.

        Raises:
            InfrastructureError: the file is missing or is not ours.
        """
        return self._read().weights

    def write(self, weights: Weights, epoch: int) -> None:
        """Make `weights` the wanted ones, under the fencing epoch of the caller's lease.

        Raises:
            FencedError: the file carries a higher epoch.
            InfrastructureError: the file cannot be read or written.
            ValueError: the weights are not percent of known slots that sum to 100.
        """
        units = to_units(weights, self.slots)
        self._change(epoch, lambda _: units, lambda arrangement: arrangement)

    def arrange(self, arrangement: Arrangement, epoch: int) -> None:
        """Mirror, and keep users where they are, as wanted; the weights stay.

        Raises:
            FencedError: the file carries a higher epoch.
            InfrastructureError: the file cannot be read or written, or there are no weights yet.
            ValueError: a slot is not known, or a share is no percentage.
        """
        for slot, share in arrangement.mirror.items():
            if slot not in self.slots or not 0 < share <= 100:
                raise ValueError(f"{share} % of the requests cannot be copied to slot {slot!r}")
        self._change(epoch, lambda weights: to_units(weights, self.slots), lambda _: arrangement)

    def _change(
        self,
        epoch: int,
        units_of: Callable[[Weights], dict[str, int]],
        arranged: Callable[[Arrangement], Arrangement],
    ) -> None:
        with self._locked():
            serial, weights, arrangement = 1, {}, Arrangement()
            if self.file.exists():
                current = self._read()
                if current.epoch > epoch:
                    raise FencedError(
                        f"weights were refused: epoch {epoch} is over, {self.file} was written under {current.epoch}"
                    )
                serial, weights, arrangement = current.serial + 1, current.weights, current.arrangement
                same = weights == {slot: count / UNITS for slot, count in units_of(weights).items()}
                if same and arranged(arrangement) == arrangement and current.epoch == epoch:
                    return
            document = envoy_routes.document(
                units_of(weights), arranged(arrangement), f"{epoch}.{serial}", self.idle_timeout
            )
            write_atomic(self.file, (json.dumps(document, indent=1) + "\n").encode())

    def verify(self) -> RouteStatus:
        """Whether Envoy routes by the weights last written; never raises for an Envoy that does not answer."""
        status = None if self.child is None else self.child.returncode
        if self.child is not None and status is not None:
            return RouteStatus(False, {}, self.child.obituary(status))
        try:
            wanted = self._read()
            active = self._active()
        except InfrastructureError as error:
            return RouteStatus(False, {}, str(error))
        if active is None:
            return RouteStatus(False, {}, "envoy has no route yet")
        if active.version != wanted.version or active.weights != wanted.weights:
            message = f"envoy routes by version {active.version}, written is {wanted.version}"
            return RouteStatus(False, active.weights, message, active.arrangement)
        return RouteStatus(True, active.weights, arrangement=active.arrangement)

    def _read(self) -> _Route:
        try:
            document = json.loads(self.file.read_bytes())
        except OSError as error:
            raise InfrastructureError(f"{self.file}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InfrastructureError(f"{self.file}: is not JSON: {error}") from error
        try:
            return _route(document["version_info"], document["resources"][0])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InfrastructureError(f"{self.file}: is not a route configuration of ours") from error

    def _active(self) -> _Route | None:
        url = f"{self.admin}/config_dump?resource=dynamic_route_configs"
        status, body = request("GET", url, timeout=2.0)
        try:
            configs = json.loads(body).get("configs", []) if status == 200 else []
            for config in configs:
                if config["route_config"]["name"] == ROUTES:
                    return _route(config["version_info"], config["route_config"])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise InfrastructureError(f"{url} answered something that is not a route configuration of ours") from error
        return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Beside the watched folder: Envoy reloads on every rename inside it.
        path = self.file.parent.with_suffix(".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("ab")
        except OSError as error:
            raise InfrastructureError(f"{path}: cannot be opened: {error.strerror}") from error
        with stream:
            deadline = time.monotonic() + LOCK_TIMEOUT
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise InfrastructureError(f"{path}: another process has held it too long") from error
                    time.sleep(0.01)
            yield


def _route(version: Any, resource: Any) -> _Route:
    match = _VERSION.match(str(version))
    if match is None:
        raise ValueError(f"version {version!r}")
    weights, arrangement = envoy_routes.read(resource)
    return _Route(int(match[1]), int(match[2]), weights, arrangement)
