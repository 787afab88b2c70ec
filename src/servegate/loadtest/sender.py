"""The open loop: sends what the schedule says when it says so, one greenlet per request, one record each.

Runs in the load process only. It knows nothing of Locust, so that the loop can be tested and measured alone.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol

import gevent
import orjson
from gevent.event import Event

from servegate.errors import InfrastructureError
from servegate.loadtest.answer import Answer, Outcome
from servegate.loadtest.client import ConnectionCount, UnfinishedError
from servegate.loadtest.profile import LoadedProfile
from servegate.loadtest.record import WARM_UP, Clock, to_record
from servegate.loadtest.schedule import Planned, schedule
from servegate.loadtest.sidecar import RecordWriter
from servegate.loadtest.status import ClientStatus, write_status

FLUSH_EVERY = 0.5
# An endpoint that refuses this many connections in a row over this long is gone: a finite run ends.
GONE_AFTER, GONE_SECONDS = 20, 5.0


class Client(Protocol):
    """Sends one request; see `StreamClient`."""

    connections: ConnectionCount

    def send(self, body: bytes, max_tokens: int) -> Outcome:
        """Send one request and read its answer to the end."""

    def close(self) -> None:
        """Close idle connections."""


class Sender:
    """One run of a profile.

    Args:
        loaded: what to send.
        model: name in the requests.
        client: what sends.
        records: file to append to; must be new.
        status: file that tells the state.
        version: what the client is, for the report.
        on_outcome: told every outcome as it becomes known.

    Raises:
        InfrastructureError: the files cannot be created.
    """

    def __init__(
        self,
        loaded: LoadedProfile,
        model: str,
        client: Client,
        records: Path,
        status: Path,
        version: str = "",
        on_outcome: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        self._loaded, self._profile, self._client = loaded, loaded.profile, client
        self._status_path, self._version, self._on_outcome = status, version, on_outcome
        self._bodies = [
            orjson.dumps(
                {
                    "model": model,
                    "messages": prompt.as_messages(),
                    "max_tokens": self._profile.max_tokens,
                    "temperature": self._profile.temperature,
                    "stream": True,
                    "stream_options": {"include_usage": True},
                }
            )
            for prompt in loaded.prompts
        ]
        self._writer = RecordWriter(records)
        self._clock = Clock()
        self._open: dict[int, tuple[Planned, gevent.Greenlet]] = {}
        self._room, self._stop, self._idle, self._done = Event(), Event(), Event(), Event()
        self._idle.set()
        self._state: Literal["running", "finished", "stopped", "gave-up", "failed"] = "running"
        self._reason = ""
        self._count: Counter[str] = Counter()
        self._details: dict[str, str] = {}
        self._blocked_seconds = 0.0
        self._refused: list[float] = []  # when the connections of the present streak were refused
        self._cpu: tuple[float, float] | None = None  # (CPU, wall) when measuring began
        self._cpu_used: tuple[float, float] | None = None
        self._plan: Iterator[Planned] = iter(())
        self._start = 0.0
        self._held: Planned | None = None  # due, and waiting for room
        self._stopped_at = math.inf
        self._ending = False

    @property
    def failed(self) -> str:
        """Why the run could not be carried out; empty when it could."""
        return self._reason if self._state == "failed" else ""

    def dispatch(self) -> None:
        """Send everything in the schedule; returns when the last request was sent, or after `stop`."""
        self._start = time.perf_counter() + 0.1
        self._plan = schedule(self._profile, len(self._bodies))
        self._write_status()
        gevent.spawn(self._keep_flushing)
        gevent.spawn_later(self._start - time.perf_counter() + self._profile.warm_up, self._begin_cpu)
        length = self._profile.length
        for planned in self._plan:
            if not self._wait_until(self._start + planned.offset) or not self._wait_for_room(planned):
                break
            self._send(planned)
        else:
            if length is not None and self._wait_until(self._start + length):
                self._state = "finished"
        self._end_cpu()

    def stop(self) -> None:
        """Send nothing more."""
        if self._state == "running":
            self._state = "stopped"
        self._stop.set()
        self._stopped_at = min(self._stopped_at, time.perf_counter())
        self._room.set()

    def finish(self) -> None:
        """Let open answers end for as long as the profile allows, record the others as unfinished, close the files.

        May be called again, from another greenlet too: all calls return when it is done.
        """
        if self._ending:
            self._done.wait()
            return
        self._ending = True
        self.stop()
        gevent.sleep(0)  # the dispatcher sees it
        self._idle.wait(self._profile.drain)
        greenlets = [greenlet for _, greenlet in self._open.values()]
        gevent.killall(greenlets, exception=UnfinishedError, block=True, timeout=5)
        for planned, _ in list(self._open.values()):  # killed before it began
            self._unsent(planned)
        self._overdue()
        self._client.close()
        try:
            self._writer.close()
        except InfrastructureError as error:
            self._fail(str(error))
        try:
            self._write_status()
        except InfrastructureError as error:
            self._fail(str(error))
        self._done.set()

    def _wait_until(self, moment: float) -> bool:
        """Whether the moment came before `stop`."""
        while (delay := moment - time.perf_counter()) > 0:
            if self._stop.wait(delay):
                return False
        return not self._stop.is_set()

    def _wait_for_room(self, planned: Planned) -> bool:
        if len(self._open) < self._profile.max_in_flight:
            return True
        self._held = planned
        began = time.perf_counter()
        self._count["blocked"] += 1
        length = self._profile.length
        end = None if length is None else self._start + length + self._profile.drain
        while len(self._open) >= self._profile.max_in_flight and not self._stop.is_set():
            left = None if end is None else end - time.perf_counter()
            if left is not None and left <= 0:
                self._state = "finished"
                break
            self._room.clear()
            self._room.wait(left)
        self._blocked_seconds += time.perf_counter() - began
        if len(self._open) >= self._profile.max_in_flight or self._stop.is_set():
            return False
        self._held = None
        return True

    def _send(self, planned: Planned) -> None:
        self._count["sent"] += 1
        self._idle.clear()
        greenlet = gevent.spawn(self._one, planned)
        greenlet.link_exception(self._broken)
        self._open[planned.id] = (planned, greenlet)
        self._count["most"] = max(self._count["most"], len(self._open))

    def _one(self, planned: Planned) -> None:
        outcome = self._client.send(self._bodies[planned.prompt], self._profile.max_tokens)
        self._keep(planned, outcome)
        self._watch(outcome)

    def _broken(self, greenlet: gevent.Greenlet) -> None:
        """An error of ours must not pass for one of the server's."""
        if not isinstance(greenlet.exception, UnfinishedError):
            self._fail(f"the client broke: {greenlet.exception!r}")
            self.stop()

    def _keep(self, planned: Planned, outcome: Outcome) -> None:
        tags = (
            (WARM_UP, *self._loaded.prompts[planned.prompt].tags)
            if planned.warm_up
            else (self._loaded.prompts[planned.prompt].tags)
        )
        self._writer.add(to_record(planned.id, self._start + planned.offset, outcome, tags, self._clock))
        self._count["finished"] += 1
        if outcome.error is not None:
            self._count["failed"] += 1
            self._details.setdefault(outcome.error, outcome.detail[:400])
        self._open.pop(planned.id, None)
        self._room.set()
        if not self._open:
            self._idle.set()
        self._on_outcome(outcome)

    def _unsent(self, planned: Planned) -> None:
        now = time.perf_counter()
        outcome = Outcome(now, now, Answer(self._profile.max_tokens), error="unfinished")
        outcome.detail = "not sent before the run ended"
        self._keep(planned, outcome)

    def _overdue(self) -> None:
        """Requests that were due, and could not be sent because too many were open, were attempted all the same."""
        if self._held is None:
            return
        self._unsent(self._held)
        for planned in self._plan:
            if self._start + planned.offset > self._stopped_at:
                return
            self._unsent(planned)

    def _watch(self, outcome: Outcome) -> None:
        if outcome.error != "connect":
            self._refused.clear()
            return
        self._refused.append(outcome.done)
        gone = len(self._refused) >= GONE_AFTER and self._refused[-1] - self._refused[0] >= GONE_SECONDS
        if gone and self._profile.length is not None and self._state == "running":
            self._state, self._reason = "gave-up", f"{len(self._refused)} connections in a row failed"
            self.stop()

    def _keep_flushing(self) -> None:
        while not self._done.wait(FLUSH_EVERY):
            if self._ending and not self._open:
                return
            try:
                self._writer.flush()
                self._write_status()
            except InfrastructureError as error:
                self._fail(str(error))
                self.stop()
                return

    def _fail(self, reason: str) -> None:
        self._state, self._reason = "failed", reason

    def _begin_cpu(self) -> None:
        self._cpu = (time.process_time(), time.perf_counter())

    def _end_cpu(self) -> None:
        if self._cpu is not None:
            self._cpu_used = (time.process_time() - self._cpu[0], time.perf_counter() - self._cpu[1])

    def _write_status(self) -> None:
        if not self._stop.is_set() and self._state == "running":
            self._end_cpu()
        connections = self._client.connections
        write_status(
            self._status_path,
            ClientStatus(
                state=self._state,
                pid=os.getpid(),
                client=self._version,
                profile_sha256=self._loaded.profile_sha256,
                prompts_sha256=self._loaded.prompts_sha256,
                started=self._clock.epoch(self._start),
                updated=self._clock.epoch(time.perf_counter()),
                sent=self._count["sent"],
                finished=self._count["finished"],
                failed=self._count["failed"],
                in_flight=len(self._open),
                most_in_flight=self._count["most"],
                blocked=self._count["blocked"],
                blocked_seconds=self._blocked_seconds,
                pool_waits=len(connections.pool_waits),
                connections=connections.opened,
                cpu_seconds=self._cpu_used[0] if self._cpu_used else None,
                cpu_window=self._cpu_used[1] if self._cpu_used else None,
                details=self._details,
                reason=self._reason,
            ),
        )
