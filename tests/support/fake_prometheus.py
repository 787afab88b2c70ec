"""A Prometheus that answers what a test wants: samples by the time of their scrape, and every kind of bad answer."""

from __future__ import annotations

import http.server
import json
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Labels = tuple[tuple[str, str], ...]


@dataclass
class FakePrometheus:
    """Answers range selectors from `samples`; `instead` answers in its place when it is set."""

    samples: dict[Labels, list[tuple[float, str]]] = field(default_factory=dict)
    described: list[dict[str, Any]] | None = field(default_factory=list)
    instead: Callable[[http.server.BaseHTTPRequestHandler], None] | None = None
    date_offset: float = 0.0
    asked: list[tuple[str, dict[str, list[str]], dict[str, str]]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def start(self, tls: tuple[Path, Path] | None = None) -> None:
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                fake.asked.append((parts.path, parse_qs(parts.query), dict(self.headers)))
                if fake.instead is not None:
                    fake.instead(self)
                else:
                    fake.answer(self, parts.path, parse_qs(parts.query))

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate((timestamp or time.time()) + fake.date_offset, usegmt=True)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()

    def scrape(self, at: float, text: str, **target: str) -> None:
        """Store what a target answered; `up` included."""
        for line in text.strip().splitlines():
            if line.startswith("#"):
                continue
            name, labels, value = _parts(r"([^{ ]+)(?:\{(.*)\})? (\S+)$", line)
            own = dict(re.findall(r'([a-z_]+)="([^"]*)"', labels or ""))
            self.add(at, name, value, **own, **target)
        self.add(at, "up", "1", **target)

    def add(self, at: float, name: str, value: str, **labels: str) -> None:
        key = tuple(sorted({"__name__": name, **labels}.items()))
        self.samples.setdefault(key, []).append((at, value))

    def answer(self, handler: http.server.BaseHTTPRequestHandler, path: str, query: dict[str, list[str]]) -> None:
        if path == "/api/v1/query":
            selector, window = _parts(r"(.*)\[(\d+)ms\]$", query["query"][0])
            at = float(query["time"][0])
            rows = [
                {
                    "metric": dict(labels),
                    "values": [[when, value] for when, value in points if inside(when, at, window)],
                }
                for labels, points in self.samples.items()
                if matches(selector, dict(labels))
            ]
            found = [row for row in rows if row["values"]]
            send_json(handler, {"status": "success", "data": {"resultType": "matrix", "result": found}})
        elif path.startswith("/api/v1/label/"):
            label = path.split("/")[4]
            wanted = query.get("match[]", ["{}"])[0]
            values = {
                dict(labels)[label]
                for labels in self.samples
                if label in dict(labels) and matches(wanted, dict(labels))
            }
            send_json(handler, {"status": "success", "data": sorted(values)})
        elif path == "/api/v1/targets/metadata" and self.described is not None:
            send_json(handler, {"status": "success", "data": self.described})
        else:
            send(handler, b"404 page not found", status=404)


def inside(when: float, at: float, window: str) -> bool:
    return at - int(window) / 1000 < when <= at


def matches(selector: str, labels: dict[str, str]) -> bool:
    for name, operator, value in re.findall(r'(\w+)(=~|=)"((?:[^"\\]|\\.)*)"', selector):
        found, wanted = labels.get(name, ""), value.replace("\\\\", "\\")
        if not (re.fullmatch(wanted, found) if operator == "=~" else found == wanted):
            return False
    return True


def send_json(handler: http.server.BaseHTTPRequestHandler, document: object, status: int = 200) -> None:
    send(handler, json.dumps(document).encode(), "application/json", status)


def send(
    handler: http.server.BaseHTTPRequestHandler, body: bytes, content_type: str = "text/plain", status: int = 200
) -> None:
    handler.send_response(status)
    handler.send_header("content-type", content_type)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _parts(pattern: str, text: str) -> tuple[Any, ...]:
    found = re.match(pattern, text)
    assert found is not None, text
    return found.groups()
