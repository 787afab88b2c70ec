"""What a dataset can make arbitrarily slow, with a time limit: regular expressions and JSON Schemas.

One helper process serves all scorers of this process, is started when first needed, and is replaced when a job took
too long. A job costs about 0.1 ms when nothing goes wrong.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from servegate.evals.scorers.base import ScoringError

SECONDS = 2.0
_PROGRAM = Path(__file__).with_name("_helper.py")


def search(pattern: str, text: str, ignore_case: bool) -> bool:
    """Whether `pattern` occurs in `text`.

    Raises:
        ScoringError: it took longer than `SECONDS`, or more memory than there is.
    """
    return bool(_HELPER.run({"do": "search", "pattern": pattern, "text": text, "ignore_case": ignore_case}))


def schema_problem(schema: dict[str, Any]) -> str | None:
    """What is wrong with a JSON Schema; None: nothing. Raises ScoringError as `search`."""
    found = _HELPER.run({"do": "schema_problem", "schema": schema})
    return None if found is None else str(found)


def mismatch(schema: dict[str, Any], value: Any) -> str | None:
    """Why `value` does not fit `schema`; None: it fits. Raises ScoringError as `search`, or a schema that refers
    to something outside itself.
    """
    found = _HELPER.run({"do": "mismatch", "schema": schema, "value": value})
    return None if found is None else str(found)


class Helper:
    """Client of one helper process. Safe to use from several threads; one job at a time.

    Args:
        seconds: of processor time for one job; starting the process and importing its libraries comes on top.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def run(self, job: dict[str, Any]) -> Any:
        """Do a job and return its value. Raises ScoringError when it cannot be done within the limit."""
        request = json.dumps({**job, "seconds": self.seconds}) + "\n"
        with self._lock:
            line = self._exchange(request)
            if not line.endswith("\n"):
                self._close()
                raise ScoringError(f"{job['do']} needed more than {self.seconds:g} s of processor time")
        result = json.loads(line)
        if "error" in result:
            raise ScoringError(f"{job['do']}: {result['error']}")
        return result["value"]

    def close(self) -> None:
        """End the process; the next job starts another."""
        with self._lock:
            self._close()

    def _exchange(self, line: str) -> str:
        process = self._process
        if process is None or process.poll() is not None:
            self._close()
            process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:  # it has ended: no answer says so
            return ""

    def _start(self) -> subprocess.Popen[str]:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                start_new_session=True,
            )
        except OSError as error:
            raise ScoringError(f"the scoring helper cannot be started: {error.strerror}") from error
        return self._process

    def _close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what it never read
                    stream.close()


_HELPER = Helper()
atexit.register(_HELPER.close)
