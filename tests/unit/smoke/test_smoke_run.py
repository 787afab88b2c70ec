"""The checks against real servers on loopback: one healthy, and one for each thing that can be wrong."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from smoke_servers import SSE, Healthy, serving

from servegate.endpoint import Endpoint
from servegate.errors import ConfigError
from servegate.report.model import Report, Subject
from servegate.smoke import Result, run
from servegate.smoke.checks import CHECKS

HASH = "sha256:" + "2" * 64


def sentences(report: Report) -> dict[str, str]:
    return {finding.code: finding.message for finding in report.findings}


def passed(report: Report, key: str = "smoke.passed") -> float | None:
    measure = report.measure(key)
    assert measure is not None
    return measure.value


def test_a_healthy_endpoint_passes() -> None:
    seen: list[Result] = []
    with serving(Healthy) as endpoint:
        report = run(endpoint, expect_model="m", expect_version="0.32.0", progress=seen.append)
    assert sorted(sentences(report)) == sorted(f"{name}-ok" for name, _ in CHECKS)
    assert passed(report) == 1.0
    assert report.void is None
    assert [result.check for result in seen] == [name for name, _ in CHECKS]
    assert all(result.ok for result in seen)
    assert report.subject.endpoint is not None
    assert (report.subject.endpoint.model, report.subject.endpoint.version) == ("m", "0.32.0")
    took = report.measure("duration.total[check=streams]")
    assert took is not None
    assert took.value is not None
    assert took.value > 0


def test_the_release_is_the_subject() -> None:
    with serving(Healthy) as endpoint:
        report = run(endpoint, subject=Subject(release=HASH, name="v2"))
    assert (report.subject.release, report.subject.name) == (HASH, "v2")
    assert report.subject.endpoint is not None


class Html(Healthy):
    def tell(self) -> None:
        self.reply(200, b"<!doctype html><title>Log in</title>", "text/html")


class Sick(Healthy):
    def health(self) -> None:
        self.reply(503, {"error": {"message": "loading\n weights"}})


class Redirecting(Healthy):
    def health(self) -> None:
        self.send_response(302)
        self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Length", "0")
        self.end_headers()


class Empty(Healthy):
    models: ClassVar[list[str]] = []


class Erring(Healthy):
    def whole(self, body: dict[str, Any]) -> None:
        self.reply(500, {"error": {"message": "CUDA error"}})

    stream = whole


class Blank(Healthy):
    def think(self, body: dict[str, Any]) -> tuple[str, str]:
        return " ", "stop"


class Endless(Healthy):
    def whole(self, body: dict[str, Any]) -> None:
        self.reply(200, b"x" * (1024 * 1024 + 1))


class Impostor(Healthy):
    def whole(self, body: dict[str, Any]) -> None:
        super().whole({**body, "model": "other"})


class NotStreaming(Healthy):
    def stream(self, body: dict[str, Any]) -> None:
        self.whole(body)


class OneChunk(Healthy):
    def events(self, text: str, finish: str | None) -> list[bytes]:
        rows = [
            {"choices": [{"delta": {"content": text}, "finish_reason": finish}]},
            {"usage": {"completion_tokens": 9}},
        ]
        return [f"data: {json.dumps(row)}\n\n".encode() for row in rows] + [b"data: [DONE]\n\n"]


class Buffering(Healthy):
    def stream(self, body: dict[str, Any]) -> None:
        self.begin(SSE)
        self.piece(b"".join(self.events(*self.think(body))))
        self.piece(b"")


class Cutting(Healthy):
    def stream(self, body: dict[str, Any]) -> None:
        self.begin(SSE)
        for event in self.events(*self.think(body))[:5]:
            self.piece(event)
        self.close_connection = True


class NoDone(Healthy):
    def events(self, text: str, finish: str | None) -> list[bytes]:
        return super().events(text, finish)[:-1]


class NoUsage(Healthy):
    def events(self, text: str, finish: str | None) -> list[bytes]:
        return [*super().events(text, finish)[:-2], b"data: [DONE]\n\n"]


class NoFinish(Healthy):
    def events(self, text: str, finish: str | None) -> list[bytes]:
        return super().events(text, None)


class Breaking(Healthy):
    def events(self, text: str, finish: str | None) -> list[bytes]:
        return super().events(text[:4] + "\ufffd" + text[5:], finish)


class Garbage(Healthy):
    def events(self, text: str, finish: str | None) -> list[bytes]:
        return [b"data: {\xff\x00\x1b[31m\n\n", b"data: [DONE]\n\n"]


class Boundless(Healthy):
    def think(self, body: dict[str, Any]) -> tuple[str, str]:
        return super().think({**body, "max_tokens": 48})


class WrongReason(Healthy):
    def think(self, body: dict[str, Any]) -> tuple[str, str]:
        return super().think(body)[0], "stop"


class Unstoppable(Healthy):
    def think(self, body: dict[str, Any]) -> tuple[str, str]:
        return super().think({**body, "stop": ()})


class Forgiving(Healthy):
    def malformed(self) -> None:
        self.say({"model": "m"}, "?", "stop")


class Crashing(Healthy):
    def malformed(self) -> None:
        self.reply(500, b"")


class Promiscuous(Healthy):
    def unknown(self, body: dict[str, Any]) -> None:
        self.whole(body)


@pytest.mark.parametrize(
    ("handler", "failed", "sentence"),
    [
        (Html, "release", "/v1/models answered HTML where JSON was expected"),
        (Sick, "up", "/health answers HTTP 503 (loading  weights)"),
        (Redirecting, "up", "/health answers HTTP 302"),
        (Empty, "release", "lists no model"),
        (Erring, "answers", "the answer is HTTP 500 (CUDA error)"),
        (Blank, "answers", "the answer is empty"),
        (Endless, "answers", "answered more than 1048576 bytes"),
        (Impostor, "answers", "asked for model m, it answers as other"),
        (NotStreaming, "streams", "it sent the whole answer at once"),
        (OneChunk, "streams", "it sent the whole answer in one chunk"),
        (Buffering, "streams", "chunks arrived in 1 burst: something on the way buffers the stream"),
        (Cutting, "streams", "broke off in the middle of the answer"),
        (NoDone, "streams", "without [DONE]"),
        (NoUsage, "streams", "has no usage"),
        (NoFinish, "streams", "has no finish_reason"),
        (Breaking, "streams", "has broken characters"),
        (Garbage, "streams", "is not UTF-8"),
        (Boundless, "stops", "asked for at most 2 tokens, it answered 48"),
        (WrongReason, "stops", "the finish_reason is stop instead of length"),
        (Unstoppable, "stops", "asked to stop at ' ', it went on"),
        (Forgiving, "rejects", "a malformed body is answered with HTTP 200 instead of 4xx"),
        (Crashing, "rejects", "a malformed body is answered with HTTP 500 instead of 4xx"),
        (Promiscuous, "rejects", "a model that is not there is answered with HTTP 200 instead of 4xx"),
    ],
)
def test_what_is_wrong_fails_its_check_with_one_sentence(handler: type[Healthy], failed: str, sentence: str) -> None:
    with serving(handler) as endpoint:
        report = run(endpoint)
    said = sentences(report)
    assert sentence in said[f"{failed}-failed"]
    assert said[f"{failed}-failed"].isprintable()
    assert passed(report, f"smoke.passed[check={failed}]") == 0.0
    assert (passed(report) or 0.0) < 1
    assert report.void is None


def test_without_the_right_model_nothing_else_is_asked() -> None:
    with serving(Healthy) as endpoint:
        report = run(Endpoint(endpoint.url, "other"))
    said = sentences(report)
    assert "does not serve model 'other'; it serves m" in said["release-failed"]
    assert said["streams-not-run"] == "not run: release failed"
    assert passed(report) == pytest.approx(1 / 6)
    assert passed(report, "smoke.passed[check=streams]") is None


def test_another_engine_version() -> None:
    with serving(Healthy) as endpoint:
        report = run(endpoint, expect_version="0.33.0")
    assert "runs engine version 0.32.0; expected is 0.33.0" in sentences(report)["release-failed"]


def test_several_models_and_none_named() -> None:
    class Several(Healthy):
        models: ClassVar[list[str]] = ["a", "b"]

    with serving(Several) as endpoint:
        with pytest.raises(ConfigError, match="name one of a, b"):
            run(endpoint)
        assert passed(run(endpoint, expect_model="b")) == 1.0


def test_a_server_without_health_is_up_when_it_lists_models() -> None:
    class NoHealth(Healthy):
        def health(self) -> None:
            self.reply(404, b"")

    with serving(NoHealth) as endpoint:
        report = run(endpoint)
    assert sentences(report)["up-ok"] == "there is no /health, but /v1/models answers"
    assert passed(report) == 1.0


def test_broken_characters_of_the_model_itself_are_not_the_streams_fault() -> None:
    class Stammering(Healthy):
        def think(self, body: dict[str, Any]) -> tuple[str, str]:
            text, finish = super().think(body)
            return text.replace("배", "\ufffd"), finish

    with serving(Stammering) as endpoint:
        assert passed(run(endpoint)) == 1.0


def test_nobody_there_is_void_and_not_a_failure() -> None:
    with serving(Healthy) as endpoint:
        pass
    report = run(endpoint)
    assert report.void is not None
    assert report.void.code == "nobody-there"
    assert "cannot connect" in report.void.message
    assert passed(report) is None


class Trickling(Healthy):
    """Answers one byte at a time, for ever."""

    def whole(self, body: dict[str, Any]) -> None:
        self.begin("application/json")
        while True:
            self.piece(b" ")
            time.sleep(0.01)


class Stalling(Healthy):
    def whole(self, body: dict[str, Any]) -> None:
        time.sleep(3)


class StallingStream(Healthy):
    def stream(self, body: dict[str, Any]) -> None:
        self.begin(SSE)
        self.piece(self.events(*self.think(body))[0])
        time.sleep(3)


class EndlessHeaders(Healthy):
    def whole(self, body: dict[str, Any]) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            self.wfile.write(b"x")
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("handler", "failed", "sentence"),
    [
        (Stalling, "answers", "did not answer: given up after"),
        (Trickling, "answers", "began to answer and then stalled: given up after"),
        (EndlessHeaders, "answers", "stalled: given up after"),
        (StallingStream, "streams", "began to answer and then stalled: given up after"),
    ],
)
def test_a_server_that_stalls_cannot_hold_us(handler: type[Healthy], failed: str, sentence: str) -> None:
    with serving(handler) as endpoint:
        report = run(endpoint, deadline=3)
    assert sentence in sentences(report)[f"{failed}-failed"]


def test_after_the_deadline_nothing_more_is_asked() -> None:
    now = iter([0.0, 0.0, *([100.0] * 1000)])
    with serving(Healthy) as endpoint:
        report = run(endpoint, deadline=10, clock=lambda: next(now))
    assert set(sentences(report).values()) == {"there was no time left to ask", "not run: up failed"}


@contextmanager
def raw(answer: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    """A listener that is no HTTP server."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    answer(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Endpoint(f"http://127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"220 mail.example ESMTP\r\n", "answered what is not HTTP"),
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", "broke off in the middle of the answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n", "broke off in the middle of the answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500, "answered what is not HTTP"),
    ],
)
def test_what_is_not_http(answer: bytes, sentence: str) -> None:
    with raw(lambda client: client.sendall(answer)) as endpoint:
        report = run(endpoint)
    assert sentence in sentences(report)["up-failed"]
