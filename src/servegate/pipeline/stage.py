"""A release beside the one that serves: in the idle slot, without traffic, to be tested by its own address."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from servegate.errors import ConfigError, InfrastructureError
from servegate.pipeline.canary import Ports
from servegate.release import Release
from servegate.rollout import memory
from servegate.rollout.ports import LeaseLostError, SlotStatus, Store

LEASE = 30.0
"""Seconds: only the change itself is made under the lease, so a rollback never waits for a model that loads."""
POLL = 1.0


def idle_slot(ports: Ports, slots: tuple[str, str]) -> str:
    """The slot that serves nobody.

    Raises:
        ConfigError: a rollout is under way, or both slots have traffic.
        InfrastructureError: the store or the router cannot be asked.
    """
    known, _ = memory.load(ports.store)
    if known is not None and not known.state.phase.finished:
        state = known.state
        raise ConfigError(f"{state.rollout} is under way ({state.phase}): wait for its end or abort it")
    # Before the first rollout the first slot serves, and what a route says comes from Git.
    stable = slots[0] if known is None else known.state.stable
    weights = ports.router.verify().weights if known is None else ports.router.read()
    free = [slot for slot in slots if weights.get(slot, 0.0) == 0 and slot != stable]
    if not free:
        said = ", ".join(f"{slot} {weight:g} %" for slot, weight in sorted(weights.items()))
        raise ConfigError(f"no slot is without traffic ({said})")
    return free[-1]


def first_slot(ports: Ports, slots: tuple[str, str], release: Release) -> str:
    """The slot a place begins with, where the traffic goes before the first rollout.

    Raises:
        ConfigError: something runs here already, or a rollout was here.
        InfrastructureError: the store or the workload cannot be asked.
    """
    known, _ = memory.load(ports.store)
    if known is not None:
        raise ConfigError(f"{known.state.rollout} was here: a release gets in by a rollout now")
    for slot in slots:
        status = ports.workload.status(slot)
        if status.replicas and (slot, status.release) != (slots[0], release.identity()):
            raise ConfigError(
                f"{slot} runs {status.release or 'something of no release'}: this is not the first release"
            )
    return slots[0]


def stage(
    ports: Ports,
    slots: tuple[str, str],
    release: Release,
    replicas: int,
    *,
    within: float,
    first: bool = False,
    say: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Put a release into the idle slot and wait until it is ready; weights stay.

    Args:
        first: nothing serves here yet, and this release will: it goes where the traffic goes.
        within: seconds until it must be ready.
        say: told what the slot is doing, whenever that changes.

    Returns:
        Name of the slot.

    Raises:
        ConfigError: see idle_slot and first_slot; or the release serves already.
        LeaseLostError: a controller is at work here.
        InfrastructureError: it did not become ready, with the reason; it is left there to be looked at.
    """
    with _leading(ports.store, clock):
        slot = first_slot(ports, slots, release) if first else idle_slot(ports, slots)
        other = next(name for name in slots if name != slot)
        if ports.workload.status(other).release == release.identity():
            raise ConfigError(f"{release.label()} serves already, in {other}")
        ports.workload.ensure(slot, release, replicas)
    ends, told = clock() + within, ""
    while True:
        status = ports.workload.status(slot)
        told = _told(slot, status, told, say)
        if status.release not in (None, release.identity()):
            raise InfrastructureError(f"{slot}: another release was put there meanwhile ({status.release})")
        if status.failed:
            raise InfrastructureError(f"{slot}: {status.failed}")
        if status.ready >= replicas and status.release == release.identity():
            return slot
        if clock() >= ends:
            raise InfrastructureError(f"{slot}: not ready in {within:g} s: {status.message or 'no reason given'}")
        sleep(POLL)


def unstage(ports: Ports, slots: tuple[str, str], *, clock: Callable[[], float] = time.time) -> str:
    """Empty the idle slot; the name of it. The same again changes nothing. Raises as `stage` does."""
    with _leading(ports.store, clock):
        slot = idle_slot(ports, slots)
        ports.workload.scale(slot, 0)
    return slot


def _told(slot: str, status: SlotStatus, told: str, say: Callable[[str], None]) -> str:
    now = f"{slot}: {status.ready} of {status.replicas} ready{f'; {status.message}' if status.message else ''}"
    if now != told:
        say(now)
    return now


@contextmanager
def _leading(store: Store, clock: Callable[[], float]) -> Iterator[None]:
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    try:
        lease = store.acquire(holder, clock(), LEASE)
    except LeaseLostError as error:
        raise LeaseLostError(f"a controller is at work here: {error}") from error
    try:
        yield
    finally:
        store.release(lease)


__all__ = ["idle_slot", "stage", "unstage"]
