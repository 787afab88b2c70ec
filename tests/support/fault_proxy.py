"""Between a client and the real API server: answers late, refuses, goes away, and cuts or silences watches."""

from __future__ import annotations

import contextlib
import http.server
import json
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

from servegate.rollout.kube import Kube

HOPS = ("connection", "transfer-encoding", "content-length", "host", "accept-encoding", "authorization")


class FaultProxy:
    """A proxy of an API server, with the rights of `kube`.

    Attributes:
        delay: seconds before each answer.
        refuse: statuses of which one is answered instead, to a share of the requests that are no watches.
        share: that share.
        away: nobody is answered; connections are closed.
        silent: no word of any watch is passed on.
        asked: how often by method; of a watch the method is WATCH.
    """

    def __init__(self, kube: Kube, seed: int = 1) -> None:
        self.delay, self.share, self.away, self.silent = 0.0, 0.0, False, False
        self.refuse: tuple[int, ...] = ()
        self.asked = Counter[str]()
        self._kube, self._draw, self._cuts = kube, random.Random(seed), 0
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                proxy._answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815  the names are http.server's

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.cut()
        self._server.shutdown()
        self._server.server_close()

    def cut(self) -> None:
        """End all watches."""
        self._cuts += 1

    def kubeconfig(self, folder: Path) -> Path:
        """A file to reach it with."""
        server = f"http://127.0.0.1:{self._server.server_address[1]}"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": server}}],
            "users": [{"name": "me", "user": {"token": "t"}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "me"}}],
            "current-context": "proxy",
        }
        path = folder / "proxy.kubeconfig"
        path.write_text(json.dumps(document))
        return path

    def _answer(self, handler: Any) -> None:
        watch = "watch=1" in urlsplit(handler.path).query
        self.asked["WATCH" if watch else handler.command] += 1
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        time.sleep(self.delay)
        if self.away:
            handler.close_connection = True
            return
        if not watch and self._draw.random() < self.share:
            choices = [status for status in self.refuse if status != 409 or handler.command != "GET"]
            self._send(handler, self._draw.choice(choices), json.dumps({"message": "the proxy refuses"}).encode())
            return
        headers = {
            name: value for name, value in handler.headers.items() if name.lower() not in (*HOPS, "authorization")
        }
        response = self._kube._http.pool_manager.request(
            handler.command,
            self._kube.configuration.host + handler.path,
            body=body or None,
            headers=headers,
            preload_content=False,
            retries=False,
            timeout=urllib3.Timeout(connect=5, read=60 if watch else 10),
        )
        if watch and response.status == 200:
            self._pass_on(handler, response)
        else:
            self._send(handler, response.status, response.read())

    def _send(self, handler: Any, status: int, data: bytes) -> None:
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _pass_on(self, handler: Any, response: Any) -> None:
        cuts = self._cuts
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.end_headers()
        handler.wfile.flush()

        def stop() -> None:
            while cuts == self._cuts and not self.away:
                time.sleep(0.05)
            with contextlib.suppress(RuntimeError):  # its answer has ended meanwhile
                response.shutdown()

        threading.Thread(target=stop, daemon=True).start()
        try:
            while part := response.read1(65536):
                if not self.silent:
                    handler.wfile.write(part)
        except (OSError, urllib3.exceptions.HTTPError):
            return  # one of the two ends is gone
