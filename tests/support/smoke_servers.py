"""An endpoint that passes every smoke check, to be broken in one thing at a time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from servegate.endpoint import Endpoint

TEXT = "일반 배송은 영업일 기준 3일이 걸립니다. 주문이 많은 날에는 하루가 더 걸릴 수 있습니다."
SSE = "text/event-stream; charset=utf-8"


class Healthy(BaseHTTPRequestHandler):
    """An endpoint that does everything right, one character a token."""

    protocol_version = "HTTP/1.1"
    models: ClassVar[list[str]] = ["m"]
    gap = 0.002

    def do_GET(self) -> None:
        self.tell()

    def tell(self) -> None:
        if self.path == "/health":
            self.health()
        elif self.path == "/v1/models":
            self.reply(200, {"data": [{"id": name} for name in self.models]})
        elif self.path == "/version":
            self.reply(200, {"version": "0.32.0"})
        else:
            self.reply(404, {"error": {"message": "not here"}})

    def health(self) -> None:
        self.reply(200, b"")

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            body = json.loads(raw)
        except ValueError:
            self.malformed()
            return
        if body["model"] not in self.models:
            self.unknown(body)
        elif body.get("stream"):
            self.stream(body)
        else:
            self.whole(body)

    def malformed(self) -> None:
        self.reply(400, {"error": {"message": "not JSON"}})

    def unknown(self, body: dict[str, Any]) -> None:
        self.reply(404, {"error": {"message": f"no model {body['model']}"}})

    def whole(self, body: dict[str, Any]) -> None:
        self.say(body, *self.think(body))

    def say(self, body: dict[str, Any], text: str, finish: str | None) -> None:
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        self.reply(
            200, {"model": body["model"], "choices": [choice], "usage": {"completion_tokens": max(1, len(text))}}
        )

    def think(self, body: dict[str, Any]) -> tuple[str, str]:
        text, finish = TEXT, "stop"
        for mark in body.get("stop", ()):
            text = text.partition(mark)[0]
        if len(text) > body["max_tokens"]:
            text, finish = text[: body["max_tokens"]], "length"
        return text, finish

    def stream(self, body: dict[str, Any]) -> None:
        text, finish = self.think(body)
        self.begin(SSE)
        for event in self.events(text, finish):
            # In two pieces, cut inside a character where there is one.
            middle = len(event) // 2
            self.piece(event[:middle])
            self.piece(event[middle:])
            time.sleep(self.gap)
        self.piece(b"")

    def events(self, text: str, finish: str | None) -> list[bytes]:
        deltas: list[dict[str, Any]] = [{"choices": [{"delta": {"content": char}}]} for char in text]
        end: dict[str, Any] = {"choices": [{"delta": {}, "finish_reason": finish}]}
        usage: dict[str, Any] = {"choices": [], "usage": {"completion_tokens": len(text)}}
        rows = [json.dumps(row, ensure_ascii=False) for row in (*deltas, end, usage)]
        return [f"data: {row}\n\n".encode() for row in (*rows, "[DONE]")]

    def begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def piece(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def reply(self, status: int, body: Any, kind: str = "application/json") -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[Endpoint]:
    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients that give up are part of the tests."""

    server = Quiet(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Endpoint(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
