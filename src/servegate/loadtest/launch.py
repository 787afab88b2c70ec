"""Starts and ends the load process. The parent imports neither Locust nor gevent: their patching must not meet asyncio.

The profile and its prompts are written into the output folder first and sent from there, so that the folder alone
says what was sent, and an edit during a run changes nothing.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from servegate.contract import write_atomic
from servegate.endpoint import Endpoint
from servegate.errors import InfrastructureError
from servegate.loadtest.profile import LoadedProfile
from servegate.loadtest.sidecar import trim
from servegate.loadtest.status import ClientStatus, read_status
from servegate.process import Child, python

RECORDS, STATUS, LOG, REPORT = "records.jsonl", "client.json", "locust.log", "report.json"
START_TIMEOUT = 60.0
_POLL = 0.05


class LoadProcess:
    """One load process and its files.

    The kernel ends it when the thread that started it ends, so start it from a thread that lives on.

    Args:
        loaded: what to send.
        endpoint: where to; its model must be named.
        output: folder for profile.json, prompts.jsonl, records.jsonl, client.json and locust.log. What an earlier run
            left there is removed.

    Raises:
        InfrastructureError: the folder cannot be written, or Locust cannot be started.
    """

    def __init__(self, loaded: LoadedProfile, endpoint: Endpoint, output: Path) -> None:
        self.output = output
        self.records, self.log = output / RECORDS, output / LOG
        self._status = output / STATUS
        self._drain = loaded.profile.drain
        _clear(output)
        profile = loaded.write(output)
        write_atomic(self.log, b"")
        command = python("-m", "locust", "-f", str(_locustfile(loaded.path)), "--headless", "--only-summary")
        command += ["--users", "1", "--spawn-rate", "1", "--host", endpoint.url, "--model", endpoint.model or ""]
        command += ["--traffic", str(profile.resolve()), "--records", str(self.records.resolve())]
        # A folder without configuration of Locust's: its own defaults must hold.
        environment = {"SERVEGATE_API_KEY": endpoint.api_key or ""}
        self.child = Child("load process", command, self.log.resolve(), environment, cwd=output)

    def status(self) -> ClientStatus | None:
        """What the process last said of itself; None before it began to send."""
        return read_status(self._status)

    def wait_started(self) -> ClientStatus:
        """Wait until it sends.

        Raises:
            InfrastructureError: it ended before, or does not begin within a minute.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            status = self.status()
            if status is not None:
                return status
            self.child.check()
            time.sleep(_POLL)
        self.child.stop(0)
        raise InfrastructureError(f"the load process did not begin within {START_TIMEOUT:g} s; log: {self.log}")

    def stop(self) -> ClientStatus | None:
        """Send nothing more, wait for open answers as long as the profile's drain allows, end. May be called again."""
        self.child.send(signal.SIGTERM)
        self.child.wait(self._drain + 10)
        return self.ended()

    def ended(self) -> ClientStatus | None:
        """End it if it still runs; the records are whole lines afterwards. The last thing it said."""
        self.child.stop(0 if self.child.returncode is not None else 2)
        trim(self.records)
        return self.status()

    def final(self) -> ClientStatus:
        """The state after the end.

        Raises:
            InfrastructureError: it did not come to an end of its own.
        """
        status, code = self.ended(), self.child.returncode
        if status is None or code != 0 or status.state in ("running", "failed"):
            reason = status.reason if status is not None and status.state == "failed" else ""
            raise InfrastructureError(reason or self.child.obituary(-9 if code is None else code))
        return status


def _clear(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name in (REPORT, STATUS, RECORDS, LOG):  # the report first: it must not outlive its records
            (output / name).unlink(missing_ok=True)
    except OSError as error:
        raise InfrastructureError(f"{output}: cannot be written: {error.strerror}") from error


def _locustfile(profile: Path) -> Path:
    """The pipeline's own `loadtest/locustfile.py` when the profile lies in `loadtest/profiles`, else ours."""
    folder = profile.resolve().parent
    own = folder.parent / "locustfile.py"
    return own if folder.name == "profiles" and own.is_file() else Path(__file__).with_name("_locustfile.py")
