"""One machine in a cluster's place: Envoy and two slots that stay up while controllers come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from servegate.errors import ConfigError, InfrastructureError
from servegate.pipeline.launch import launcher
from servegate.pipeline.site import MachineSite
from servegate.release import Release
from servegate.rollout import memory
from servegate.rollout.routers.envoy import Envoy, EnvoyConfig, start_envoy
from servegate.rollout.stores.sqlite import SqliteStore
from servegate.rollout.workloads.processes import ProcessWorkload
from servegate.rollout.workloads.supervised import serve

GRACE = 30.0
"""Seconds an engine gets to finish its answers before it is ended."""


@dataclass(frozen=True)
class Up:
    """What is up."""

    envoy: Envoy
    workload: ProcessWorkload
    serving: tuple[str, ...]

    def ready(self, slot: str) -> bool:
        """The slot has a ready replica. Raises InfrastructureError when it, or Envoy, cannot go on."""
        self.envoy.check()
        status = self.workload.status(slot)
        if status.failed:
            raise InfrastructureError(f"{slot}: {status.failed}")
        return status.ready > 0


@contextmanager
def up(site: MachineSite, stable: Release | None, say: Callable[[str], None]) -> Iterator[Up]:
    """Start Envoy, the slots and what serves in them; end everything when the context ends.

    Args:
        stable: what serves when the store has seen no rollout yet; afterwards the store knows.

    Raises:
        ConfigError: nothing is known to serve, or this machine is up already.
        InfrastructureError: Envoy does not start, or a port is taken.
    """
    first, second = site.slots
    site.root.mkdir(parents=True, exist_ok=True)
    store = SqliteStore(site.store)
    try:
        known, _ = memory.load(store)
    finally:
        store.close()
    if known is not None:
        serving = known.release_in(known.state.stable)
        if stable is not None and stable.identity() != serving.identity():
            raise ConfigError(f"{serving.label()} is stable here, not {stable.label()}; leave --stable out")
        # Also the candidate, when the machine went down in the middle of a rollout: Envoy kept its weights.
        wanted = {slot: known.release_in(slot) for slot, weight in known.state.weights.items() if weight > 0}
        weights = dict(known.state.weights)
    elif stable is not None:
        wanted, weights = {first: stable}, {first: 100.0, second: 0.0}
    else:
        raise ConfigError("nothing has been rolled out here yet: say with --stable which release serves")
    with ExitStack() as stack:
        workload = ProcessWorkload(launcher(site.vllm), site.slots, site.root / "logs", grace=GRACE)
        stack.callback(workload.close)
        stack.enter_context(serve(workload, site.socket, anew=known is None))
        for slot, release in wanted.items():
            workload.ensure(slot, release, len(site.slots[slot]))
            say(f"{release.label()} starts in {slot}")
        config = EnvoyConfig(
            site.root / "envoy", site.port, site.admin_port, site.slots, idle_timeout=site.idle_timeout
        )
        envoy = start_envoy(config, weights)
        stack.callback(envoy.stop)
        yield Up(envoy, workload, tuple(wanted))
