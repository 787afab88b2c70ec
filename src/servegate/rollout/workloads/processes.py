"""Slots as processes of this machine: for trying a release, a plan and this program without a cluster.

It keeps the promises a cluster keeps. A slot's ports are fixed, as a Service's name is. A replica is ready when it says
so and serves the model of its release; one missed probe does not make it unready. What leaves gets time to finish:
first a pause in which the gateway stops sending (a pod's preStop), then SIGTERM and the engine's own drain, then the
group is killed. A process that ended by itself stays ended until it is wanted anew, and one that has never been ready
is not tried again at all: a loop would hide what is wrong with it.

Nothing waits: `ensure` and `scale` say what is wanted, and every call of `status` takes the next step towards it.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from servegate.endpoint import request
from servegate.errors import ConfigError, InfrastructureError
from servegate.process import Child
from servegate.release import Release
from servegate.rollout.ports import SlotStatus
from servegate.rollout.sources.direct import Target

HOST = "127.0.0.1"
PROBE_TIMEOUT = 1.0
MISSED_PROBES = 3
"""Probes in a row a ready replica must miss to be unready."""


@dataclass(frozen=True)
class Launch:
    """How to start one replica; it must listen on the port it was given, on 127.0.0.1."""

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


Launcher = Callable[[str, Release, int], Launch]
"""(slot, release, port) → how to start it."""


@dataclass
class _Replica:
    index: int
    port: int
    child: Child
    release: Release
    digest: str
    ready: bool = False
    was_ready: bool = False
    missed: int = 0
    leaving_since: float | None = None
    terminated: bool = False

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


@dataclass
class _Slot:
    ports: tuple[int, ...]
    release: Release | None = None
    replicas: int = 0
    running: dict[int, _Replica] = field(default_factory=dict)
    leaving: list[_Replica] = field(default_factory=list)
    cannot_start: str | None = None


class ProcessWorkload:
    """Runs the replicas of every slot as child processes.

    Args:
        launcher: how to start a replica.
        ports: fixed ports per slot, one per possible replica.
        logs: folder for the engines' output, one file per slot, replica and release.
        drain: seconds between the end of traffic and SIGTERM.
        grace: seconds between SIGTERM and SIGKILL.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        launcher: Launcher,
        ports: Mapping[str, Sequence[int]],
        logs: Path,
        *,
        drain: float = 5.0,
        grace: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.launcher, self.logs = launcher, logs
        self.drain, self.grace, self.clock = drain, grace, clock
        self._slots = {slot: _Slot(tuple(numbers)) for slot, numbers in ports.items()}
        self._lock = threading.RLock()
        self._closed = False
        # The kernel ends a child with the thread that started it: this one lives as long as we do.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots."""
        return tuple(self._slots)

    def ensure(self, slot: str, release: Release, replicas: int) -> None:
        """Make the slot run `release` with `replicas`; returns at once. The same again changes nothing.

        A replica that was ready once and has ended is started again.

        Raises:
            ConfigError: no such slot, or it has fewer ports than replicas are wanted.
        """
        with self._lock:
            item = self._slot(slot, replicas)
            if item.release is None or item.release.identity() != release.identity():
                item.cannot_start = None
                self._leave(item, list(item.running))
            ended = [replica for replica in item.running.values() if replica.child.returncode is not None]
            self._leave(item, [replica.index for replica in ended if replica.was_ready])
            item.release, item.replicas = release, replicas
            self._advance(slot, item)

    def scale(self, slot: str, replicas: int) -> None:
        """Change the replicas of what the slot runs; 0 empties it after a drain.

        Raises:
            ConfigError: no such slot, or it has fewer ports than replicas are wanted.
        """
        with self._lock:
            item = self._slot(slot, replicas)
            item.replicas = replicas
            if replicas == 0:
                item.cannot_start = None
            self._leave(item, [index for index in item.running if index >= replicas])
            self._advance(slot, item)

    def status(self, slot: str) -> SlotStatus:
        """What the slot runs now; takes the next step towards what is wanted."""
        with self._lock:
            item = self._slot(slot, 0)
            self._advance(slot, item)
            failed = item.cannot_start
            for replica in item.running.values():
                status = replica.child.returncode
                if status is not None:
                    replica.ready = False
                    failed = failed or _last_words(replica.child.obituary(status))
                else:
                    self._probe(replica)
            ready = sum(replica.ready for replica in item.running.values())
            return SlotStatus(
                release=item.release.identity() if item.release is not None and item.replicas else None,
                replicas=item.replicas,
                ready=ready,
                failed=failed,
                message=self._message(item, ready),
            )

    def address(self, slot: str) -> str:
        """URL of the slot's first replica, past the router."""
        return f"http://{HOST}:{self._slot(slot, 0).ports[0]}"

    def targets(self) -> list[Target]:
        """The replicas whose metrics are to be read, also those that have ended: they are missing, not zero."""
        with self._lock:
            return [
                Target(f"{slot}/{replica.index}", slot, replica.url, replica.digest)
                for slot, item in self._slots.items()
                for replica in item.running.values()
            ]

    def close(self) -> None:
        """End everything: SIGTERM to all, then, after the grace, their groups. May be called again."""
        with self._lock:
            self._closed = True
            children = [
                replica.child for item in self._slots.values() for replica in [*item.running.values(), *item.leaving]
            ]
            for item in self._slots.values():
                item.running.clear()
                item.leaving.clear()
                item.replicas, item.release = 0, None
            for child in children:
                child.send(signal.SIGTERM)
            deadline = time.monotonic() + self.grace
            for child in children:
                child.wait(max(0.0, deadline - time.monotonic()))
                child.stop(grace=0.0)
            self._starter.shutdown(wait=True)

    def _slot(self, slot: str, replicas: int) -> _Slot:
        if slot not in self._slots:
            raise ConfigError(f"no slot {slot!r}; there are {', '.join(self._slots)}")
        item = self._slots[slot]
        if not 0 <= replicas <= len(item.ports):
            raise ConfigError(f"slot {slot} has {len(item.ports)} ports; {replicas} replicas cannot run in it")
        return item

    def _leave(self, item: _Slot, indices: Sequence[int]) -> None:
        for index in indices:
            replica = item.running.pop(index)
            replica.leaving_since = self.clock()
            item.leaving.append(replica)

    def _advance(self, slot: str, item: _Slot) -> None:
        now = self.clock()
        for replica in list(item.leaving):
            waited = now - (now if replica.leaving_since is None else replica.leaving_since)
            if replica.child.returncode is None and waited >= self.drain and not replica.terminated:
                replica.child.send(signal.SIGTERM)
                replica.terminated = True
            if replica.child.returncode is not None or waited >= self.drain + self.grace:
                replica.child.stop(grace=0.0)  # also what it may have left behind
                item.leaving.remove(replica)
        busy = {replica.port for replica in item.leaving}
        for index in range(item.replicas):
            if index not in item.running and item.ports[index] not in busy and item.cannot_start is None:
                self._start(slot, item, index)

    def _start(self, slot: str, item: _Slot, index: int) -> None:
        if self._closed:
            raise InfrastructureError(f"slot {slot} cannot be filled: the workload has been closed")
        assert item.release is not None
        release, port = item.release, item.ports[index]
        try:
            launch = self.launcher(slot, release, port)
            log = self.logs / f"{slot}-{index}-{release.id}.log"
            name = f"{slot}/{index} ({release.label()})"
            child = self._starter.submit(Child, name, launch.command, log, launch.env).result()
        except (InfrastructureError, OSError) as error:
            item.cannot_start = str(error)
            return
        item.running[index] = _Replica(index, port, child, release, release.identity())

    def _probe(self, replica: _Replica) -> None:
        if self._answers(replica):
            replica.ready, replica.was_ready, replica.missed = True, True, 0
        else:
            replica.missed += 1
            replica.ready = replica.ready and replica.missed < MISSED_PROBES

    def _answers(self, replica: _Replica) -> bool:
        try:
            status, _ = request("GET", f"{replica.url}/health", timeout=PROBE_TIMEOUT)
            if status != 200 or replica.ready:
                return status == 200
            status, body = request("GET", f"{replica.url}/v1/models", timeout=PROBE_TIMEOUT)
            models = json.loads(body)["data"] if status == 200 else []
            return any(model["id"] == replica.release.model.served_name for model in models)
        except (InfrastructureError, ValueError, KeyError, TypeError):
            return False  # not up, or not this engine: asked again at the next look

    def _message(self, item: _Slot, ready: int) -> str:
        if item.leaving:
            return f"waiting for {len(item.leaving)} process{'es' * (len(item.leaving) > 1)} to end"
        if item.replicas == 0:
            return "empty"
        return "ready" if ready == item.replicas else f"{ready} of {item.replicas} ready"


def _last_words(obituary: str) -> str:
    """How it ended in one sentence, with the last line of its log."""
    how, *lines = obituary.split("\n  | ")
    return f"{how}; it said: {lines[-1]}" if lines else how
