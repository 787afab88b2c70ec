"""What an endpoint may do to us before anything is measured."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from servegate.endpoint import Endpoint
from servegate.errors import ConfigError, InfrastructureError
from servegate.process import free_ports

Pages = dict[str, tuple[int, bytes]]
Serve = Callable[[Pages], AbstractContextManager[str]]
MODELS = json.dumps({"data": [{"id": "m", "max_model_len": 2048}]}).encode()


@contextmanager
def serve(pages: Pages, release: threading.Event | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = pages.get(self.path, (404, b"{}"))
            if status == 0:
                assert release is not None
                release.wait(20)
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + (7 if status == 206 else 0)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_describe() -> None:
    with serve({"/v1/models": (200, MODELS), "/version": (200, b'{"version": "0.32.0"}')}) as url:
        facts = Endpoint(url + "/v1/").describe()
    assert (facts.model, facts.version, facts.max_model_len) == ("m", "0.32.0", 2048)


def test_version_is_optional() -> None:
    with serve({"/v1/models": (200, MODELS)}) as url:
        assert Endpoint(url, "m").describe().version is None


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ({"/v1/models": (200, b"<html>login</html>")}, "answered HTML where JSON was expected"),
        ({"/v1/models": (500, b"")}, "answered HTTP 500"),
        ({"/v1/models": (200, b"[]")}, "lists no model"),
        ({"/v1/models": (200, b'{"data": [{"id": 7}, null]}')}, "lists no model"),
        ({"/v1/models": (200, b'{"data": [{"id": "other"}]}')}, "does not serve model 'm'; it serves other"),
        ({"/v1/models": (206, MODELS)}, "closed before the answer was complete"),
        ({"/v1/models": (200, b"[" * (9 * 1024 * 1024))}, "larger than"),
    ],
)
def test_one_clear_message(pages: Pages, message: str) -> None:
    with serve(pages) as url, pytest.raises(InfrastructureError, match=message):
        Endpoint(url, "m").describe()


def test_a_server_that_never_answers() -> None:
    release = threading.Event()
    with serve({"/v1/models": (0, b"")}, release) as url:
        with pytest.raises(InfrastructureError, match="no answer in time"):
            Endpoint(url).describe(timeout=0.2)
        release.set()


def test_nobody_there() -> None:
    with pytest.raises(InfrastructureError, match=r"cannot connect: .*refused"):
        Endpoint(f"http://127.0.0.1:{free_ports(1)[0]}").describe()


def test_several_models_need_a_name() -> None:
    with serve({"/v1/models": (200, b'{"data": [{"id": "a"}, {"id": "b"}]}')}) as url:
        with pytest.raises(ConfigError, match="name one of a, b"):
            Endpoint(url).describe()
        assert Endpoint(url, "b").describe().model == "b"


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "http://a:99999", "http://[::1"])
def test_not_an_address(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the URL of an endpoint"):
        Endpoint(url)


def test_the_key_is_not_shown() -> None:
    endpoint = Endpoint("http://h", api_key="sk-secret")
    assert "sk-secret" not in repr(endpoint)
    assert endpoint.headers == {"Authorization": "Bearer sk-secret"}
