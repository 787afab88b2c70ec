"""Traffic in the background: what users do while a release is rolled out. The same code path as a measured run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from servegate.endpoint import Endpoint
from servegate.loadtest.launch import LoadProcess
from servegate.loadtest.profile import LoadedProfile
from servegate.loadtest.sidecar import RecordTail
from servegate.report.records import RequestRecord


@dataclass
class Counts:
    """Results so far.

    Attributes:
        finished: requests whose outcome is known.
        failed: of these, how many brought no complete answer.
        errors: kind of failure → requests.
        by_slot: slot → (finished, failed); requests that no slot answered are under None.
    """

    finished: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    by_slot: dict[str | None, tuple[int, int]] = field(default_factory=dict)

    def add(self, record: RequestRecord) -> None:
        """Count one record."""
        failed = 0 if record.ok else 1
        self.finished += 1
        self.failed += failed
        if not record.ok:
            self.errors[record.error or "unknown"] += 1
        before = self.by_slot.get(record.slot, (0, 0))
        self.by_slot[record.slot] = (before[0] + 1, before[1] + failed)


class Traffic:
    """Traffic that runs until it is stopped; use as a context manager or call `stop`.

    Attributes:
        records: the growing file; read it with a `RecordTail`.
        log: what Locust says.
    """

    def __init__(self, process: LoadProcess) -> None:
        self._process = process
        self.records: Path = process.records
        self.log: Path = process.log
        self._tail, self._counts = RecordTail(process.records), Counts()

    @property
    def pid(self) -> int:
        """Of the load process; also its group."""
        return self._process.child.pid

    @property
    def running(self) -> bool:
        """Whether requests are still sent."""
        return self._process.child.returncode is None

    def check(self) -> None:
        """Raise InfrastructureError, with the end of the log, when the process has ended though nobody stopped it."""
        self._process.child.check()

    def counts(self) -> Counts:
        """Results of all records written so far.

        Raises:
            InfrastructureError: the records cannot be read.
        """
        for record in self._tail.new():
            self._counts.add(record)
        return self._counts

    def stop(self) -> Counts:
        """Send nothing more, wait for open answers as long as the profile's `drain` allows, end; all results.

        May be called again, and after a profile with an end has ended by itself.

        Raises:
            InfrastructureError: the process broke; its records are kept.
        """
        self._process.stop()
        self._process.final()
        return self.counts()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._process.stop()
        else:  # something broke or was interrupted: nobody waits for open answers
            self._process.ended()


def traffic(loaded: LoadedProfile, endpoint: Endpoint, output: Path) -> Traffic:
    """Start traffic; returns when the first request is about to be sent.

    Args:
        loaded: what to send; without `duration` it has no end.
        endpoint: where to. A missing model name is asked for.
        output: folder of the records, the log and the profile as sent.

    Raises:
        InfrastructureError: the endpoint is down or serves other models, or the load process does not start.
    """
    if endpoint.model is None:
        endpoint = Endpoint(endpoint.url, endpoint.describe().model, endpoint.api_key)
    process = LoadProcess(loaded, endpoint, output)
    try:
        process.wait_started()
    except BaseException:
        process.ended()
        raise
    return Traffic(process)
