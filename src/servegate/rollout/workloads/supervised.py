"""Slots of this machine that outlive the controller: their owner is another process, asked over a Unix socket.

In a cluster the pods do not die with the controller; on one machine they would, if it had started them. So one process
owns the replicas (`serve`, around a ProcessWorkload) and any number of controllers and commands ask it (`Supervised`).
A Unix socket in a folder of the user's own, because whoever may put a release into a slot may run programs. A change
names the epoch of its controller's lease, and the owner refuses one that names none or one below the highest it has
seen for that slot. The highest stands in a file beside the socket before anything is done under it, so an owner that
was ended and started again refuses what the one before would have.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from servegate.contract import Contract, Slot, write_atomic
from servegate.errors import ConfigError, InfrastructureError
from servegate.release import Release
from servegate.rollout.ports import FencedError, Reclaimed, SlotStatus
from servegate.rollout.sources.direct import Target
from servegate.rollout.workloads.processes import ProcessWorkload

TIMEOUT = 10.0
MAX_BODY = 1024 * 1024
STEP_EVERY = 0.5
"""Seconds between two looks of the owner itself: what leaves a slot is ended also while nobody asks."""


@contextmanager
def serve(workload: ProcessWorkload, path: Path, *, anew: bool = False) -> Iterator[None]:
    """Answer for `workload` on the socket `path` until the context ends.

    Args:
        anew: the store has seen no rollout yet, so epochs kept here are of one that is gone: forget them.

    Raises:
        ConfigError: somebody serves there already, the path is too long for a socket, or the file of epochs is damaged.
        InfrastructureError: the socket cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if len(os.fsencode(path)) > 100:
        raise ConfigError(f"{path}: too long for a Unix socket; name a shorter folder")
    if path.exists():
        if _alive(path):
            raise ConfigError(f"{path}: another process owns this machine's slots; end it first")
        path.unlink()
    kept = path.with_name(f"{path.name}.epochs.json")
    if anew:
        kept.unlink(missing_ok=True)
    fence = Fence(kept)
    try:
        server = _Server(str(path), _Handler)
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be served: {error.strerror}") from error
    path.chmod(0o600)
    server.workload, server.fence, server.changing = workload, fence, threading.Lock()
    ended = threading.Event()

    def step() -> None:
        while not ended.wait(STEP_EVERY):
            for slot in workload.slots:
                workload.status(slot)

    threads = [threading.Thread(target=server.serve_forever, daemon=True), threading.Thread(target=step, daemon=True)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        path.unlink(missing_ok=True)


class Supervised:
    """Workload whose owner answers on the socket `path`.

    Args:
        epoch: fencing epoch of the lease we hold; None: we only look, and changes are refused.
    """

    def __init__(self, path: Path, epoch: Callable[[], int] | None = None) -> None:
        self.path, self.epoch = path, epoch

    def ensure(self, slot: str, release: Release, replicas: int) -> None:
        """Make the slot run `release` with `replicas`; returns at once. The same again changes nothing."""
        self._change(f"/slots/{slot}", {"release": release.model_dump(mode="json"), "replicas": replicas})

    def scale(self, slot: str, replicas: int) -> None:
        """Change the replicas of what the slot runs; 0 empties it after a drain."""
        self._change(f"/slots/{slot}/replicas", {"replicas": replicas})

    def status(self, slot: str) -> SlotStatus:
        """What the slot runs now."""
        said = self._ask("GET", f"/slots/{slot}")["status"]
        return SlotStatus(**{**said, "reclaimed": tuple(Reclaimed(**item) for item in said["reclaimed"])})

    def address(self, slot: str) -> str:
        """URL of the slot's first replica, past the router."""
        return str(self._ask("GET", f"/slots/{slot}")["address"])

    def targets(self) -> list[Target]:
        """The replicas whose metrics are to be read."""
        return [Target(**item) for item in self._ask("GET", "/targets")]

    def _change(self, path: str, body: dict[str, Any]) -> None:
        self._ask("PUT", path, body if self.epoch is None else {**body, "epoch": self.epoch()})

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = _Connection(self.path)
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode())
            response = connection.getresponse()
            answer = json.loads(response.read(MAX_BODY))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise InfrastructureError(
                f"{self.path}: the owner of the slots does not answer ({error or type(error).__name__}); "
                f"is `servegate rollout machine` running?"
            ) from error
        finally:
            connection.close()
        if response.status == 400:
            raise ConfigError(str(answer["error"]))
        if response.status == 409:
            raise FencedError(str(answer["error"]))
        if response.status != 200:
            raise InfrastructureError(str(answer["error"]))
        return answer


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self._path))


class Epochs(Contract):
    """The file beside the socket: slot → the highest epoch under which it was changed."""

    schema_version: Literal[1] = 1
    epochs: dict[Slot, Annotated[int, Field(ge=1, strict=True)]] = Field(default_factory=dict)


class Fence:
    """Lets only the latest controller change a slot, also after its owner was started anew.

    Raises:
        ConfigError: the file is damaged.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.epochs = dict(Epochs.read(file).epochs) if file.exists() else {}

    def admit(self, slot: str, epoch: object) -> None:
        """Keep the epoch of a change that is about to be made.

        Raises:
            ConfigError: it names no epoch.
            FencedError: a later one has changed the slot.
            InfrastructureError: the epoch cannot be kept; then nothing may be changed.
        """
        if type(epoch) is not int or epoch < 1:
            raise ConfigError("a change was refused: it names no epoch of a lease, so it may be one that is over")
        highest = self.epochs.get(slot, 0)
        if epoch < highest:
            raise FencedError(f"a change was refused: epoch {epoch} is over, slot {slot} is at {highest}")
        if epoch > highest:
            kept = {**self.epochs, slot: epoch}
            write_atomic(self.file, (Epochs(epochs=kept).model_dump_json() + "\n").encode())
            self.epochs = kept


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    workload: ProcessWorkload
    fence: Fence
    changing: threading.Lock


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._answer(self._read)

    def do_PUT(self) -> None:
        self._answer(self._write)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
        """Nothing: every tick asks several times."""

    def address_string(self) -> str:
        return "socket"  # a Unix socket's peer has no address

    def _read(self) -> Any:
        workload, parts = self.server.workload, self.path.strip("/").split("/")
        if parts == ["targets"]:
            return [asdict(target) for target in workload.targets()]
        if len(parts) == 2 and parts[0] == "slots":
            return {"status": asdict(workload.status(parts[1])), "address": workload.address(parts[1])}
        raise ConfigError(f"nothing is known about {self.path}")

    def _write(self) -> Any:
        workload, parts = self.server.workload, self.path.strip("/").split("/")
        length = int(self.headers.get("content-length") or 0)
        if not 0 < length <= MAX_BODY:
            raise ConfigError("a body of at most 1 MiB is needed")
        body = json.loads(self.rfile.read(length))
        if parts[0] != "slots" or len(parts) not in (2, 3) or parts[2:] not in ([], ["replicas"]):
            raise ConfigError(f"nothing can be done with {self.path}")
        replicas, slot = int(body["replicas"]), parts[1]
        with self.server.changing:
            if slot in workload.slots:
                self.server.fence.admit(slot, body.get("epoch"))
            if parts[2:]:
                workload.scale(slot, replicas)
            else:
                workload.ensure(slot, Release.model_validate(body["release"]), replicas)
        return {}

    def _answer(self, work: Any) -> None:
        try:
            status, answer = 200, work()
        except (ConfigError, ValidationError, ValueError, KeyError, TypeError) as error:
            status, answer = 400, {"error": f"{error}"}
        except FencedError as error:
            status, answer = 409, {"error": f"{error}"}
        except InfrastructureError as error:
            status, answer = 503, {"error": f"{error}"}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:  # nobody listens
            return False
        return True
