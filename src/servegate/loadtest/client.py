"""Sends one chat completion over a kept-alive connection and stamps every chunk. Runs in the load process only.

geventhttpclient's pool and parser are used directly: its response reader waits for lines or blocks, while here every
`recv` is stamped and handed on at once. Nothing is retried, because what a user would have lost is what is measured.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import gevent
import gevent.socket
from geventhttpclient.connectionpool import ConnectionPool, SSLConnectionPool
from geventhttpclient.response import HTTPParseError, HTTPResponse

from servegate.loadtest.answer import Answer, Outcome

SLOT_HEADER = "x-servegate-slot"
PATH = "/v1/chat/completions"
_BLOCK = 64 * 1024
_MAX_HEAD = 64 * 1024
_MAX_ERROR_BODY = 4 * 1024


class UnfinishedError(Exception):
    """Thrown into a request whose time to finish is over."""


@dataclass
class ConnectionCount:
    """How many connections were opened, and how long requests waited for a place in the pool."""

    opened: int = 0
    pool_waits: list[float] = field(default_factory=list)


class _Message(HTTPResponse):
    """One response as it arrives; the body is taken out piece by piece."""

    def __init__(self) -> None:
        super().__init__("POST")
        self._received = bytearray()

    def _on_body(self, buf: bytearray) -> None:
        self._received += buf

    def take(self) -> bytes:
        """Bytes of the body since the last call."""
        data = bytes(self._received)
        self._received.clear()
        return data

    def header(self, name: str) -> str | None:
        """A header's value, the first one when it is repeated."""
        value = self.get(name)
        first = value[0] if isinstance(value, list) and value else value
        return first if isinstance(first, str) else None


class StreamClient:
    """A pool of connections to one endpoint.

    Args:
        url: base URL.
        headers: sent with every request.
        size: connections at once; at least as many as requests in flight.
        timeout: seconds for one request, connecting included.
    """

    def __init__(self, url: str, headers: dict[str, str], size: int, timeout: float) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        self.connections = ConnectionCount()
        self._timeout = timeout
        self._in_use, self._size = 0, size
        literal = f"[{host}]" if ":" in host else host
        lines = {
            "Host": literal if port == (443 if secure else 80) else f"{literal}:{port}",
            "User-Agent": "servegate-loadtest",
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            **headers,
        }
        for name, value in lines.items():
            if any(char in name + value for char in "\r\n\0"):
                raise ValueError(f"header {name} holds a line end")
        head = f"POST {parts.path.rstrip('/')}{PATH} HTTP/1.1\r\n"
        self._head = (head + "".join(f"{name}: {value}\r\n" for name, value in lines.items())).encode("latin-1")
        count = self.connections

        # The type checker knows no base class that is chosen at run time.
        class Pool(SSLConnectionPool if secure else ConnectionPool):  # type: ignore[misc]
            """Counts what it opens; small requests leave at once."""

            def after_connect(self, sock: Any) -> None:
                sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
                count.opened += 1

        # One timer per request bounds everything, so a read needs none of its own: they cost a timer per chunk.
        self._pool = Pool(host, port, host, port, size=size, connection_timeout=None, network_timeout=None)

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()

    def send(self, body: bytes, max_tokens: int) -> Outcome:
        """Send one request and read its answer to the end; failures are in the outcome."""
        now = time.perf_counter()
        outcome = Outcome(now, now, Answer(max_tokens))
        timeout = gevent.Timeout(self._timeout)
        timeout.start()
        try:
            self._exchange(body, outcome)
        except gevent.Timeout as error:
            if error is not timeout:
                raise
            if not outcome.answer.whole:
                outcome.error, outcome.detail = "timeout", f"not complete after {self._timeout:g} s"
        except UnfinishedError:
            if not outcome.answer.whole:
                outcome.error, outcome.detail = "unfinished", "still open when the time to drain was over"
        finally:
            timeout.close()
        outcome.done = time.perf_counter()
        return outcome

    def _exchange(self, body: bytes, outcome: Outcome) -> None:
        waits = self._in_use >= self._size
        self._in_use += 1
        sock, message = None, _Message()
        try:
            try:
                sock = self._pool.get_socket()
            except OSError as error:
                outcome.error, outcome.detail = "connect", _reason(error)
                return
            finally:
                if waits:
                    self.connections.pool_waits.append(time.perf_counter() - outcome.sent)
            self._talk(sock, message, body, outcome)
        finally:
            self._in_use -= 1
            if sock is not None:
                if message.should_close():
                    self._pool.release_socket(sock)
                else:
                    self._pool.return_socket(sock)

    def _talk(self, sock: Any, message: _Message, body: bytes, outcome: Outcome) -> None:
        answer, streaming, data = outcome.answer, False, b""
        try:
            sock.sendall(b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body))
            head = 0
            while not message.message_complete or message.get_code() < 200:
                data = sock.recv(_BLOCK)
                now = time.perf_counter()
                if not data and not message.headers_complete:
                    kind = "truncated" if head else "connect"
                    outcome.error, outcome.detail = kind, "the connection was closed before the headers were complete"
                    return
                message.feed(data)
                if not streaming:
                    head += len(data)
                    if message.headers_complete and message.get_code() >= 200:
                        if not self._accept(message, outcome):
                            self._read_error(sock, message, outcome)
                            return
                        streaming = True
                    elif head > _MAX_HEAD:
                        outcome.error, outcome.detail = "protocol", f"headers of more than {_MAX_HEAD} bytes"
                        return
                if streaming:
                    part = message.take()
                    outcome.body_bytes += len(part)
                    if part and not answer.feed(part, now):
                        break
                if not data and not message.message_complete:
                    raise HTTPParseError("the connection was closed")
        except (OSError, HTTPParseError) as error:
            head_complete = message.headers_complete and message.get_code() >= 200
            if head_complete and not streaming and not self._accept(message, outcome):
                return
            if not head_complete:
                outcome.error = "connect" if isinstance(error, OSError) else "protocol"
                outcome.detail = _reason(error)
                return
            answer.feed(message.take(), time.perf_counter())
            if not answer.whole and not answer.error:  # what follows a whole answer harms nobody
                garbled = data and isinstance(error, HTTPParseError)
                answer.error = "protocol" if garbled else "truncated"
                answer.detail = _reason(error) if data else "the connection was closed in the middle of the answer"
        answer.close()
        outcome.error, outcome.detail = answer.error, answer.detail

    def _accept(self, message: _Message, outcome: Outcome) -> bool:
        """Note status and slot; whether a stream follows."""
        outcome.status = message.get_code()
        outcome.slot = message.header(SLOT_HEADER)
        if outcome.status != 200:
            outcome.error = f"http_{outcome.status}"
            return False
        kind = (message.header("content-type") or "nothing").split(";")[0].strip().lower()
        if kind != "text/event-stream":
            outcome.error, outcome.detail = "protocol", f"answered {kind[:60]!r} instead of an event stream"
            return False
        return True

    def _read_error(self, sock: Any, message: _Message, outcome: Outcome) -> None:
        """Read a short error body, so that the connection can be used again and the log says why."""
        text = message.take()
        try:
            while not message.message_complete and len(text) <= _MAX_ERROR_BODY:
                data = sock.recv(_BLOCK)
                message.feed(data)
                text += message.take()
                if not data:
                    break
        except (OSError, HTTPParseError):
            pass  # the request has failed already; what came of its reason is shown
        outcome.body_bytes = len(text)
        if not outcome.detail:
            shown = text[:200].decode("utf-8", "replace")
            outcome.detail = "".join(char if char.isprintable() else " " for char in shown)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
