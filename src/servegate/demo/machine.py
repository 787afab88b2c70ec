"""One machine with everything a release needs: two slots, a real Envoy in front, users who send requests.

All children are ended in reverse order whatever happens; every one keeps its log.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from servegate.demo.engine import DemoEngine, Place
from servegate.endpoint import Endpoint
from servegate.errors import InfrastructureError
from servegate.process import free_ports
from servegate.release import Release
from servegate.rollout.routers.envoy import Envoy, EnvoyConfig, start_envoy
from servegate.rollout.routers.envoy_file import EnvoyFileRouter
from servegate.rollout.sources.direct import DirectSource, Gateway
from servegate.rollout.stores.sqlite import SqliteStore
from servegate.rollout.workloads.processes import ProcessWorkload

SLOTS = ("blue", "green")
IDLE_TIMEOUT = 60.0
"""Seconds without a byte after which a request has failed; a small model on a CPU may be silent for long."""

GRACE = 25.0
"""Seconds an engine gets to finish its answers before it is ended."""


@dataclass(frozen=True)
class Machine:
    """What runs."""

    envoy: Envoy
    workload: ProcessWorkload
    source: DirectSource
    store: SqliteStore

    @property
    def router(self) -> EnvoyFileRouter:
        """Moves Envoy's weights."""
        return self.envoy.router

    @property
    def url(self) -> str:
        """Where users connect."""
        return self.envoy.url

    def endpoint(self, slot: str, release: Release) -> Endpoint:
        """A slot itself, past Envoy."""
        return Endpoint(self.workload.address(slot), release.model.served_name)

    def bring_up(self, slot: str, release: Release, timeout: float, say: Callable[[str], None]) -> None:
        """Run a release in a slot and wait until it answers.

        Raises:
            InfrastructureError: it cannot start, or is not ready in time; with the place of its log.
        """
        self.workload.ensure(slot, release, 1)
        deadline = time.monotonic() + timeout
        while True:
            status = self.workload.status(slot)
            if status.failed:
                raise InfrastructureError(f"{release.name} in {slot}: {status.failed}")
            if status.ready >= 1:
                return
            if time.monotonic() > deadline:
                raise InfrastructureError(
                    f"{release.name} in {slot} is not ready after {timeout:g} s: {status.message}"
                )
            say(status.message)
            time.sleep(0.1)


@contextmanager
def machine(engine: DemoEngine, place: Place) -> Iterator[Machine]:
    """Start Envoy and empty slots; end everything when the context ends."""
    with ExitStack() as stack:
        ports = free_ports(2 + len(SLOTS))
        slot_ports = {slot: [port] for slot, port in zip(SLOTS, ports[2:], strict=True)}
        workload = ProcessWorkload(engine.launch, slot_ports, place.logs, grace=GRACE)
        stack.callback(workload.close)
        config = EnvoyConfig(place.root / "envoy", ports[0], ports[1], slot_ports, idle_timeout=IDLE_TIMEOUT)
        envoy = start_envoy(config, {SLOTS[0]: 100.0, SLOTS[1]: 0.0})
        stack.callback(envoy.stop)

        source = DirectSource(workload.targets, Gateway(envoy.admin, SLOTS))
        stack.callback(source.close)
        store = SqliteStore(place.root / "rollout.db")
        stack.callback(store.close)
        yield Machine(envoy, workload, source, store)


@contextmanager
def claimed(wanted: Path) -> Iterator[Place]:
    """A folder of our own: the wanted one, or `-2`, `-3` … beside it while another demo writes there.

    What an earlier demo left in it is removed first.

    Raises:
        InfrastructureError: it cannot be written.
    """
    import shutil

    for number in range(1, 100):
        root = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            stream = (root.parent / f".{root.name}.lock").open("wb")
        except OSError as error:
            raise InfrastructureError(f"{root}: cannot be written: {error.strerror}") from error
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # another demo works there
                continue
            try:
                if root.exists():
                    if any(root.iterdir()) and not (root / ".servegate-demo").exists():
                        raise InfrastructureError(f"{root} holds something that is not a demo; name another --output")
                    shutil.rmtree(root)
                root.mkdir()
                (root / ".servegate-demo").touch()
            except OSError as error:
                raise InfrastructureError(f"{root}: cannot be written: {error.strerror}") from error
            yield Place(root)
            return
    raise InfrastructureError(f"{wanted}: a hundred demos are running here")
