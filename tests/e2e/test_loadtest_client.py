"""The streaming client against servers that do everything wrong, on real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
import pytest

from servegate.loadtest.answer import Outcome
from servegate.loadtest.client import StreamClient, UnfinishedError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nX-Servegate-Slot: blue\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = HEAD + b"Connection: close\r\n\r\n"
TOKEN = 'data: {"choices":[{"delta":{"content":"배송"},"finish_reason":null}]}\n\n'.encode()
LAST = b'data: {"choices":[{"delta":{"content":"!"},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = TOKEN + LAST + USAGE + DONE


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def plain(status: bytes, body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (status, kind, len(body), body)


Script = Callable[[socket.socket], None]


@contextmanager
def serving(script: Script) -> Iterator[tuple[str, list[int]]]:
    """A server that reads one request after the other and lets the script answer; (URL, requests per connection)."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    over = threading.Event()
    served: list[int] = []

    def connection(sock: socket.socket, number: int) -> None:
        sock.settimeout(5)
        with sock:
            while not over.is_set():
                try:
                    if not _read_request(sock):
                        return
                    served[number] += 1
                    script(sock)
                except OSError:
                    return

    threads: list[threading.Thread] = []

    def accept() -> None:
        while not over.is_set():
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                continue
            served.append(0)
            threads.append(threading.Thread(target=connection, args=(sock, len(served) - 1)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", served
    finally:
        over.set()
        acceptor.join()
        for thread in threads:
            thread.join()
        listener.close()


def _read_request(sock: socket.socket) -> bool:
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        if not part:
            return False
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += sock.recv(65536)
    return True


def ask(url: str, timeout: float = 5.0, size: int = 4) -> Outcome:
    client = StreamClient(url, {}, size, timeout)
    try:
        return client.send(b"{}", 10)
    finally:
        client.close()


def says(*parts: bytes, close: bool = False) -> Script:
    def script(sock: socket.socket) -> None:
        for part in parts:
            sock.sendall(part)
        if close:
            sock.shutdown(socket.SHUT_RDWR)
            raise ConnectionError

    return script


@pytest.mark.parametrize(
    "script",
    [
        says(CHUNKED + chunk(WHOLE) + b"0\r\n\r\n"),
        says(*[bytes([byte]) for byte in CHUNKED + b"".join(map(chunk, (TOKEN, LAST, USAGE, DONE))) + b"0\r\n\r\n"]),
        says(CHUNKED, *[chunk(bytes([byte])) for byte in WHOLE], b"0\r\n\r\n"),
        says(UNTIL_CLOSE + WHOLE, close=True),
        says(HEAD + b"Content-Length: %d\r\n\r\n" % len(WHOLE) + WHOLE),
        says(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + CHUNKED + chunk(WHOLE) + b"0\r\n\r\n"),
        says(CHUNKED + chunk(WHOLE), close=True),  # broken off after all that matters
        says(CHUNKED + chunk(TOKEN + LAST + USAGE) + b"0\r\n\r\n"),  # no [DONE]
    ],
    ids=["whole", "by-bytes", "chunk-per-byte", "until-close", "length", "early-hints", "closed-after-done", "no-done"],
)
def test_a_whole_answer_however_it_comes(script: Script) -> None:
    with serving(script) as (url, _):
        outcome = ask(url)
    assert (outcome.error, outcome.detail) == (None, "")
    assert (outcome.status, outcome.slot) == (200, "blue")
    assert len(outcome.answer.times) == 2
    assert (outcome.answer.output_tokens, outcome.answer.finish_reason) == (2, "stop")
    assert outcome.sent <= outcome.answer.times[0] <= outcome.answer.times[1] <= outcome.done


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        (says(close=True), "connect", "closed before the headers"),
        (says(b"HTTP/1.1 200 OK\r\nContent", close=True), "truncated", "closed before the headers"),
        (says(b"\x16\x03\x01\x02\x00 not http at all\r\n\r\n"), "protocol", ""),
        (says(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 20_000), "protocol", "headers of more than"),
        (says(plain(b"503 Service Unavailable", b"no healthy upstream")), "http_503", "no healthy upstream"),
        (says(plain(b"404 Not Found", '{"error":"모델 없음"}'.encode())), "http_404", "모델 없음"),
        (says(plain(b"301 Moved", b"")), "http_301", ""),
        (says(plain(b"200 OK", b"<html>login</html>", b"text/html")), "protocol", "'text/html'"),
        (says(plain(b"200 OK", b"{}")), "protocol", "'application/json'"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), "protocol", "'nothing'"),
        (says(CHUNKED + chunk(TOKEN), close=True), "truncated", "closed"),
        (says(CHUNKED + chunk(TOKEN) + b"0\r\n\r\n"), "truncated", "without a finish_reason"),
        (says(CHUNKED + chunk(TOKEN) + b"zz\r\n"), "protocol", "chunk size"),
        (says(CHUNKED, chunk(TOKEN), b"zz\r\n"), "protocol", "chunk size"),
        (says(UNTIL_CLOSE + TOKEN, close=True), "truncated", "without a finish_reason"),
        (says(CHUNKED + chunk(TOKEN + b'data: {"error":{"message":"boom"}}\n\n')), "stream_error", "boom"),
        (says(CHUNKED + chunk(b"data: <html>\n\n")), "protocol", "<html>"),
        (says(CHUNKED + chunk(b"data: \xff\n\n")), "protocol", "not JSON"),
        (says(CHUNKED + chunk(b"\x00" * 3000), close=True), "truncated", ""),
    ],
)
def test_every_way_to_fail_has_its_name(script: Script, kind: str, said: str) -> None:
    with serving(script) as (url, _):
        outcome = ask(url)
    assert outcome.error == kind
    assert said in outcome.detail
    assert outcome.detail.isprintable()


def test_a_reset_is_seen() -> None:
    def reset(sock: socket.socket) -> None:
        sock.sendall(CHUNKED + chunk(TOKEN))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        raise ConnectionError

    with serving(reset) as (url, _):
        outcome = ask(url)
    assert outcome.error == "truncated"


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    outcome = ask(f"http://127.0.0.1:{port}")
    assert (outcome.error, outcome.detail, outcome.status) == ("connect", "Connection refused", None)


@pytest.mark.parametrize(
    "parts", [[], [CHUNKED], [CHUNKED + chunk(TOKEN)], [HEAD]], ids=["silent", "head", "token", "half-head"]
)
def test_a_stall_ends_with_the_timeout(parts: list[bytes]) -> None:
    over = threading.Event()

    def stall(sock: socket.socket) -> None:
        says(*parts)(sock)
        over.wait(10)
        raise ConnectionError

    with serving(stall) as (url, _):
        outcome = ask(url, timeout=0.2)
        over.set()
    assert outcome.error == "timeout"
    assert outcome.detail == "not complete after 0.2 s"


def test_a_server_that_holds_the_line_after_the_whole_answer_lost_nothing() -> None:
    over = threading.Event()

    def hold(sock: socket.socket) -> None:
        says(CHUNKED + chunk(WHOLE))(sock)
        over.wait(10)
        raise ConnectionError

    with serving(hold) as (url, _):
        outcome = ask(url, timeout=0.2)
        over.set()
    assert outcome.error is None


def test_a_request_that_is_told_to_end_is_unfinished() -> None:
    over = threading.Event()

    def stall(sock: socket.socket) -> None:
        over.wait(10)
        raise ConnectionError

    with serving(stall) as (url, _):
        client = StreamClient(url, {}, 1, 5)
        greenlet = gevent.spawn(client.send, b"{}", 10)
        gevent.sleep(0.05)
        greenlet.kill(UnfinishedError)
        over.set()
        client.close()
    assert greenlet.value.error == "unfinished"


def test_connections_are_used_again_also_after_an_http_error() -> None:
    answers = [plain(b"500 Oops", b"x"), CHUNKED + chunk(WHOLE) + b"0\r\n\r\n"] * 3
    with serving(lambda sock: sock.sendall(answers.pop(0))) as (url, served):
        client = StreamClient(url, {}, 2, 5)
        errors = [client.send(b"{}", 10).error for _ in range(6)]
        client.close()
        assert errors == ["http_500", None] * 3
        assert served == [6]
    assert client.connections.opened == 1


def test_a_broken_answer_does_not_poison_the_next_one() -> None:
    answers = [CHUNKED + chunk(b"data: nonsense\n\n") + chunk(TOKEN), CHUNKED + chunk(WHOLE) + b"0\r\n\r\n"]
    with serving(lambda sock: sock.sendall(answers.pop(0))) as (url, served):
        client = StreamClient(url, {}, 1, 5)
        errors = [client.send(b"{}", 10).error for _ in range(2)]
        client.close()
        assert errors == ["protocol", None]
        assert served == [1, 1]


def test_waiting_for_a_connection_is_counted() -> None:
    with serving(says(CHUNKED + chunk(WHOLE) + b"0\r\n\r\n")) as (url, _):
        client = StreamClient(url, {}, 1, 5)
        greenlets = [gevent.spawn(client.send, b"{}", 10) for _ in range(3)]
        gevent.joinall(greenlets)
        client.close()
        assert [greenlet.value.error for greenlet in greenlets] == [None] * 3
    assert len(client.connections.pool_waits) == 2


def test_a_key_cannot_smuggle_a_header() -> None:
    with pytest.raises(ValueError, match="line end"):
        StreamClient("http://127.0.0.1:1", {"Authorization": "Bearer a\r\nX: y"}, 1, 1)
