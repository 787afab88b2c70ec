"""One HTTP exchange with a deadline that holds, seen as the pieces in which it arrived.

Clients bound each read, not the whole: a server that sends a byte every second keeps them for hours. Here a timer
shuts the socket at the deadline, whatever the server does. No retries, no redirects, no decompression, no proxy: a
smoke test must see what the address itself does.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from servegate.endpoint import Endpoint
from servegate.errors import InfrastructureError
from servegate.report.format import clean

LARGEST_BODY = 1024 * 1024
CONNECT_SECONDS = 5.0
Clock = Callable[[], float]


class WireError(InfrastructureError):
    """The exchange did not come to an end; the message is one sentence."""


class NobodyThereError(WireError):
    """No connection at all."""


@dataclass(frozen=True)
class Piece:
    """Bytes of a body and when they came, in seconds of the clock."""

    at: float
    data: bytes


@dataclass(frozen=True)
class Response:
    """A whole response."""

    status: int
    content_type: str
    pieces: tuple[Piece, ...]

    @property
    def body(self) -> bytes:
        """All bytes."""
        return b"".join(piece.data for piece in self.pieces)


@dataclass(frozen=True)
class Wire:
    """Sends requests to one endpoint.

    Args:
        endpoint: whom to ask.
        until: when everything must be over, in seconds of the clock.
        patience: most seconds for one exchange.
        clock: a monotonic clock, in seconds.
    """

    endpoint: Endpoint
    until: float
    patience: float
    clock: Clock = time.monotonic

    def send(self, method: str, path: str, body: bytes | None = None) -> Response:
        """Send one request and read the answer to its end.

        Raises:
            NobodyThereError: no connection.
            WireError: no answer in time, a broken one, or one of more than 1 MiB.
        """
        seconds = min(self.patience, self.until - self.clock())
        if seconds <= 0:
            raise WireError("there was no time left to ask")
        end = self.clock() + seconds
        connection = self._connect(path, min(seconds, CONNECT_SECONDS))
        connection.sock.settimeout(seconds + 1.0)
        late = threading.Event()
        timer = threading.Timer(max(0.0, end - self.clock()), _shut, (connection.sock, late))
        timer.daemon = True
        timer.start()
        pieces: list[Piece] = []
        try:
            response = self._exchange(connection, method, path, body, pieces)
            if late.is_set():  # a body without a length ends where the socket was shut
                raise TimeoutError
            return response
        except (OSError, ValueError, http.client.HTTPException) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                state = "began to answer and then stalled" if pieces else "did not answer"
                raise WireError(f"{path} {state}: given up after {seconds:.2g} s") from error
            if isinstance(error, http.client.RemoteDisconnected | ConnectionError | http.client.IncompleteRead):
                how = "broke off in the middle of the answer" if pieces else "closed the connection without an answer"
                raise WireError(f"{path} {how}") from error
            raise WireError(f"{path} answered what is not HTTP: {clean(error or type(error).__name__, 100)}") from error
        finally:
            timer.cancel()
            connection.close()

    def _connect(self, path: str, seconds: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.endpoint.url)
        host = parts.hostname or ""
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(host, parts.port, timeout=seconds)
        try:
            connection.connect()
        except ssl.SSLError as error:
            raise WireError(f"{path} cannot be reached over TLS: {clean(error.reason or error, 100)}") from error
        except TimeoutError as error:
            raise NobodyThereError(f"nobody answers at {self.endpoint.url} within {seconds:.0f} s") from error
        except OSError as error:
            raise NobodyThereError(f"cannot connect to {self.endpoint.url}: {error.strerror or error}") from error
        return connection

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, pieces: list[Piece]
    ) -> Response:
        prefix = urlsplit(self.endpoint.url).path
        headers = {"Accept-Encoding": "identity", "Connection": "close", **self.endpoint.headers}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, prefix + path, body=body, headers=headers)
        answer = connection.getresponse()
        pieces.append(Piece(self.clock(), b""))  # the headers: the answer has begun
        size = 0
        while data := answer.read1(65536):
            pieces.append(Piece(self.clock(), data))
            size += len(data)
            if size > LARGEST_BODY:
                raise WireError(f"{path} answered more than {LARGEST_BODY} bytes")
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        return Response(answer.status, answer.getheader("Content-Type", ""), tuple(pieces))


@dataclass(frozen=True)
class WiredEndpoint(Endpoint):
    """An endpoint that is asked over a wire, so that asking it about itself keeps the deadline too."""

    wire: Wire | None = None

    def get(self, path: str, timeout: float = 5.0) -> tuple[int, bytes]:  # noqa: ARG002  the wire has a deadline
        """GET a path; (status, body). Raises WireError."""
        assert self.wire is not None
        response = self.wire.send("GET", path)
        return response.status, response.body


def _shut(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError, ValueError):  # closed just now
        sock.shutdown(socket.SHUT_RDWR)
