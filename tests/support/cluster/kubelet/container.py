"""One container: its process, its probes, and what its kubelet says of it."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from servegate.process import Child, tail

Object = dict[str, Any]
BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before a container is started again; a real kubelet begins with 10."""


def now() -> str:
    """The time as Kubernetes writes it, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def bytes_of(quantity: str) -> int:
    """Of an amount of memory such as 512Mi; only the binary units that our manifests use."""
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return int(quantity[:-2]) * units[quantity[-2:]] if quantity[-2:] in units else int(quantity)


def _mount_space(pid: int) -> str:
    """The mount namespace of a process; empty when it is this machine's own, or the process is gone.

    The name is a number that goes to the next namespace as soon as this one has ended: only while somebody holds the
    namespace does it tell whose process this is.
    """
    try:
        found = str(Path(f"/proc/{pid}/ns/mnt").readlink())
    except OSError:
        return ""
    return "" if found == str(Path("/proc/self/ns/mnt").readlink()) else found


@dataclass
class Probe:
    """One probe and where it stands."""

    spec: Object
    due: float = 0.0
    failures: int = 0
    successes: int = 0
    asked: Future[bool] | None = None

    def result(self, ask: Callable[[Object], bool], pool: ThreadPoolExecutor) -> bool | None:
        """True or False when a threshold is reached by an answer that has just come, else None."""
        at = time.monotonic()
        if self.asked is None:
            if at >= self.due:
                self.due = at + float(self.spec.get("periodSeconds", 10))
                self.asked = pool.submit(ask, self.spec)
            return None
        if not self.asked.done():
            return None
        good, self.asked = self.asked.result(), None
        self.successes, self.failures = (self.successes + 1, 0) if good else (0, self.failures + 1)
        if good and self.successes >= int(self.spec.get("successThreshold", 1)):
            return True
        return False if self.failures >= int(self.spec.get("failureThreshold", 3)) else None


@dataclass
class Container:
    """A container of a pod.

    Attributes:
        start: starts its process; raises what `problem` tells of.
        address: of the pod.
        spaces: folder with a file per container that runs, named after its mount namespace, for whoever outlives us.
    """

    spec: Object
    address: str
    start: Callable[[], Child]
    pool: ThreadPoolExecutor
    spaces: Path
    image_problem: str | None = None
    child: Child | None = None
    waiting: Object | None = field(default_factory=lambda: {"reason": "ContainerCreating"})
    terminated: Object | None = None
    last: Object | None = None
    started_at: str = ""
    restarts: int = 0
    due: float = 0.0
    ready: bool = False
    started: bool = False
    out_of_memory: bool = False
    space: str = ""
    held: int | None = None
    probes: dict[str, Probe] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    def launch(self) -> None:
        """Start the process; what it raises is for the pod to tell."""
        self.child = self.start()
        self.waiting = self.terminated = None
        self.started_at = now()
        self.ready, self.started = False, False
        delay = time.monotonic()
        self.probes = {
            kind: Probe(self.spec[f"{kind}Probe"], delay + self.spec[f"{kind}Probe"].get("initialDelaySeconds", 0))
            for kind in ("startup", "readiness", "liveness")
            if f"{kind}Probe" in self.spec
        }

    def look(self, again: bool) -> None:
        """See whether it has ended, ask the probes that are due; `again`: an ended container is started again."""
        if self.child is None:
            return
        status = self.child.returncode
        if self.held is None:
            self._hold()
        if status is None and self._too_large():
            self.out_of_memory = True
            self.child.send(signal.SIGKILL)
            status = self.child.wait(10)
        if status is not None:
            self._ended(status, again)
            return
        if not self.started:
            if "startup" not in self.probes:
                self.started = True
            else:
                found = self.probes["startup"].result(self.ask, self.pool)
                self.started = found is True
                if found is False:
                    self._kill("startup")
            if not self.started:
                return
        if "readiness" not in self.probes:
            self.ready = True
        else:
            found = self.probes["readiness"].result(self.ask, self.pool)
            self.ready = self.ready if found is None else found
        if "liveness" in self.probes and self.probes["liveness"].result(self.ask, self.pool) is False:
            self._kill("liveness")

    def _too_large(self) -> bool:
        """Whether its process has more memory than the container may have, as the kernel of a node would find."""
        limit = self.spec.get("resources", {}).get("limits", {}).get("memory")
        if limit is None or self.child is None:
            return False
        try:
            pages = int(Path(f"/proc/{self.child.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):  # it has just ended
            return False
        return pages * resource.getpagesize() > bytes_of(limit)

    def ask(self, probe: Object) -> bool:
        """One probe or hook: httpGet, tcpSocket or exec."""
        timeout = float(probe.get("timeoutSeconds", 1))
        if "httpGet" in probe:
            spec = probe["httpGet"]
            connection = http.client.HTTPConnection(
                spec.get("host") or self.address, self._port(spec["port"]), timeout=timeout
            )
            try:
                connection.request("GET", spec.get("path", "/"), headers={"User-Agent": "kube-probe/test"})
                return 200 <= connection.getresponse().status < 400
            except (OSError, http.client.HTTPException):
                return False
            finally:
                connection.close()
        if "tcpSocket" in probe:
            try:
                with socket.create_connection((self.address, self._port(probe["tcpSocket"]["port"])), timeout):
                    return True
            except OSError:
                return False
        if "exec" in probe and self.child is not None:
            inside = ["nsenter", "-t", str(self.child.pid), "-n", "-m", "-r", "-w", *probe["exec"]["command"]]
            try:
                return subprocess.run(inside, timeout=timeout, capture_output=True, check=False).returncode == 0
            except (subprocess.TimeoutExpired, OSError):
                return False
        return False

    def _port(self, port: object) -> int:
        if isinstance(port, int):
            return port
        return next(int(item["containerPort"]) for item in self.spec["ports"] if item.get("name") == port)

    def terminate(self, seconds: float) -> None:
        """preStop, SIGTERM, and SIGKILL when `seconds` are over."""
        deadline = time.monotonic() + seconds
        hook = self.spec.get("lifecycle", {}).get("preStop") or {}
        if self.child is not None and self.child.returncode is None and hook:
            if "sleep" in hook:
                self.child.wait(min(float(hook["sleep"]["seconds"]), seconds))
            else:
                self.ask({**hook, "timeoutSeconds": seconds})
        if self.child is not None:
            self.child.send(signal.SIGTERM)
            self.child.wait(max(0.0, deadline - time.monotonic()))
            self.stop()

    def stop(self) -> None:
        """End it at once, and with it whatever its process has started: a container ends as a whole."""
        if self.child is not None:
            self.child.stop(grace=0.0)
        if self.held is None:
            return
        for path in Path("/proc").glob("[0-9]*"):
            if _mount_space(int(path.name)) == self.space:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(path.name), signal.SIGKILL)
        (self.spaces / self.space).unlink(missing_ok=True)
        os.close(self.held)
        self.held = None

    def _hold(self) -> None:
        """Keep the mount namespace of its process, once it has one of its own, until the container is stopped."""
        assert self.child is not None
        if not _mount_space(self.child.pid):
            return
        try:
            held = os.open(f"/proc/{self.child.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it has just ended
            return
        self.space = str(Path(f"/proc/self/fd/{held}").readlink())
        self.held = held
        (self.spaces / self.space).touch()

    def status(self) -> Object:
        """The containerStatus."""
        state: Object = {"running": {"startedAt": self.started_at}}
        if self.waiting is not None:
            state = {"waiting": self.waiting}
        elif self.terminated is not None:
            state = {"terminated": self.terminated}
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": self.spec["image"],
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": state,
            "lastState": {"terminated": self.last} if self.last else {},
        }

    def _kill(self, probe: str) -> None:
        assert self.child is not None
        self.child.log.open("a").write(f"killed: {probe} probe failed\n")
        self.child.stop(grace=1.0)

    def _ended(self, status: int, again: bool) -> None:
        assert self.child is not None
        said = "\n".join(tail(self.child.log)) if status else ""
        code = status if status >= 0 else 128 - status
        ended = {
            "exitCode": code,
            "reason": "OOMKilled" if self.out_of_memory else "Completed" if code == 0 else "Error",
            "message": said,
            "startedAt": self.started_at,
            "finishedAt": now(),
        }
        self.stop()
        self.child, self.ready, self.started, self.out_of_memory = None, False, False, False
        if not again:
            self.terminated = ended
            return
        self.last = ended
        wait = BACKOFF[min(self.restarts, len(BACKOFF) - 1)]
        self.restarts += 1
        self.due = time.monotonic() + wait
        self.waiting = {"reason": "CrashLoopBackOff", "message": f"back-off {wait:g}s restarting failed container"}
