"""Child processes: each in a group of its own, with a log of its own, gone when we are gone.

A child may start children (Locust, engines, compilers), so signals go to the group. No handler of ours runs after a
SIGKILL, so two others watch: the kernel ends the child with us, and a guard, a shell that waits for the end of a pipe
only we hold, ends what the child has started.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from servegate.errors import InfrastructureError

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Child:
    """One running program.

    Args:
        name: for people and messages.
        command: program and arguments; never a shell line.
        log: file that takes its output; kept.
        env: added to our own environment.

    Raises:
        InfrastructureError: the program cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name, self.command, self.log = name, list(command), log
        log.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()

        def prepare() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died in between
                os._exit(1)

        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(env or {})},
                    cwd=cwd,
                    start_new_session=True,
                    preexec_fn=prepare,
                )
            self._guard: subprocess.Popen[bytes] | None = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r _; kill -KILL "-$1"', "guard", str(self.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise InfrastructureError(f"{name}: cannot be started: {command[0]}: {error.strerror}") from error

    @property
    def pid(self) -> int:
        """Process id, also the id of its group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, None while it runs; negative: the signal that ended it."""
        status = self._process.poll()
        if status is not None and not self._kill(0):
            self._dismiss_guard()
        return status

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end; None when it still runs after `timeout` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return self.returncode

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the child alone (a drain is the child's own affair)."""
        if self.returncode is None:
            self._process.send_signal(number)

    def stop(self, grace: float = 5.0) -> None:
        """End the group: SIGTERM, after `grace` seconds SIGKILL. May be called again at any time."""
        self._kill(signal.SIGTERM)
        self.wait(grace)
        self._kill(signal.SIGKILL)
        self.wait(5)
        self._dismiss_guard()

    def check(self) -> None:
        """Raise InfrastructureError, with the end of the log, when the child has ended."""
        status = self.returncode
        if status is not None:
            raise InfrastructureError(self.obituary(status))

    def obituary(self, status: int) -> str:
        """How it ended and where the log is, for an error message."""
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        lines = tail(self.log)
        return f"{self.name} {how}; log: {self.log}" + "".join(f"\n  | {line}" for line in lines)

    def _kill(self, number: int) -> bool:
        """Signal the group; False when nobody is left in it."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # the latter: the id is somebody else's by now
            return False
        return True

    def _dismiss_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.wait()
            if guard.stdin is not None:
                guard.stdin.close()


def tail(path: Path, lines: int = 5) -> list[str]:
    """The last lines of a text file, printable; nothing when it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 8192))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return []
    kept = [line.rstrip() for line in text.splitlines() if line.strip()]
    return ["".join(char if char.isprintable() else "�" for char in line)[:300] for line in kept[-lines:]]


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Different ports nobody listens on now.

    They lie below the range from which the kernel takes the ports of outgoing connections: a server that starts
    minutes later must not find its port taken by somebody's client. Drawn at random, so that two who ask at once
    get different ones.

    Raises:
        InfrastructureError: there are not that many.
    """
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        lowest = 32768
    candidates = range(10_000, lowest) if lowest > 11_000 else range(61_000, 65_000)
    found: list[int] = []
    for port in random.SystemRandom().sample(candidates, len(candidates)):
        if len(found) == count:
            break
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:  # taken
                continue
            found.append(port)
    if len(found) < count:
        raise InfrastructureError(f"{host} has no {count} free ports")
    return found


def python(*arguments: str) -> list[str]:
    """Command line of this interpreter."""
    return [sys.executable, *arguments]
