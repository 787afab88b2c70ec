"""A small API server for unit tests: it stores objects and keeps the promises that our ports rely on.

Those are: a resourceVersion that changes with every change and is checked on PUT, JSON Patch with `test`, a generation
that grows with the spec, 404 and 409 and 422 as the real one answers them. Everything else is for the tests against the
real API server (tests/cluster), which run the same contracts.
"""

from __future__ import annotations

import copy
import http.server
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Object = dict[str, Any]


class RefusedError(Exception):
    """Answered as an error with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakeKube:
    """The server; objects by path.

    Attributes:
        objects: by path.
        react: called with (path, object) after each change of an object, and may change it.
        before: called with (method, path) before each request, and may raise RefusedError.
        calls: (method, path) of all requests; of a watch the method is WATCH.
        oldest: resourceVersion before which a watch gets 410.
        watching: streams that are open now.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.react: Callable[[str, Object], None] = lambda _path, _object: None
        self.look: Callable[[str], None] = lambda _path: None
        self.before: Callable[[str, str], None] = lambda _method, _path: None
        self.calls: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self.oldest = self.watching = 0
        self._events: list[tuple[int, str, str, Object]] = []
        self._cuts = 0
        self._changed = threading.Condition(self.lock)
        self._serial = 0
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                if "watch=1" in self.path:
                    fake._watch(self)
                    return
                status, document = fake._answer(self.command, self.path, body)
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815  the names are http.server's

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def kubeconfig(self, folder: Path) -> Path:
        """A file to reach it with."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": "t"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": "llm"}}],
            "current-context": "fake",
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(document))
        return path

    def cut(self) -> None:
        """End all streams."""
        with self._changed:
            self._cuts += 1
            self._changed.notify_all()

    def close(self) -> None:
        self.cut()
        self._server.shutdown()
        self._server.server_close()

    def put(self, path: str, item: Object) -> Object:
        """Store an object, as somebody else would."""
        with self.lock:
            before = self.objects.get(path)
            item = copy.deepcopy(item)
            meta = item.setdefault("metadata", {})
            meta.setdefault("name", path.rpartition("/")[2])
            self._serial += 1
            meta["resourceVersion"] = str(self._serial)
            changed = before is None or before.get("spec") != item.get("spec")
            meta["generation"] = (before["metadata"]["generation"] if before else 0) + changed
            self.objects[path] = item
            self.react(path, item)
            self._event("ADDED" if before is None else "MODIFIED", path, item)
            return item

    def remove(self, path: str) -> None:
        """Delete an object, as somebody else would."""
        with self.lock:
            item = self.objects.pop(path)
            self._serial += 1
            item["metadata"]["resourceVersion"] = str(self._serial)
            self._event("DELETED", path, item)

    def _event(self, kind: str, path: str, item: Object) -> None:
        self._events.append((self._serial, path, kind, copy.deepcopy(item)))
        self._changed.notify_all()

    def _watch(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Stream what changes, one JSON document a line, until it is cut or its time is over."""
        parts = urlsplit(handler.path)
        path = unquote(parts.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.calls.append(("WATCH", path))
        status = 200
        try:
            self.before("WATCH", path)
        except RefusedError as error:
            status = error.status
        name = query.get("fieldSelector", "").removeprefix("metadata.name=")
        labels = dict(item.split("=") for item in query.get("labelSelector", "").split(",") if "=" in item)

        def fits(key: str, item: Object) -> bool:
            there = key == f"{path}/{name}" if name else key.startswith(f"{path}/")
            return there and labels.items() <= item["metadata"].get("labels", {}).items()

        def send(kind: str, item: Object) -> None:
            handler.wfile.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")

        with self._changed:
            cuts, heard = self._cuts, self._serial
            if "resourceVersion" in query:
                heard = int(query["resourceVersion"])
                status = 410 if heard < self.oldest else status
            handler.send_response(status)
            handler.send_header("content-type", "application/json")
            handler.end_headers()
            if status != 200:
                return
            self.watching += 1
            try:
                if "resourceVersion" not in query:
                    for key, item in self.objects.items():
                        if fits(key, item):
                            send("ADDED", item)
                while cuts == self._cuts:
                    for number, key, kind, item in self._events:
                        if number > heard and fits(key, item):
                            send(kind, item)
                    heard = self._serial
                    if not self._changed.wait(float(query["timeoutSeconds"])):
                        return
            except OSError:
                return  # nobody listens any more
            finally:
                self.watching -= 1

    def _answer(self, method: str, target: str, body: Any) -> tuple[int, Object]:
        parts = urlsplit(target)
        path = unquote(parts.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.calls.append((method, path))
        try:
            self.before(method, path)
            with self.lock:
                self.look(path)
                return 200, copy.deepcopy(self._do(method, path, query, body))
        except RefusedError as error:
            return error.status, {"kind": "Status", "message": str(error), "code": error.status}

    def _do(self, method: str, path: str, query: dict[str, str], body: Any) -> Object:
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise RefusedError(409, f"{path} already exists")
            return self.put(path, body)
        collection = path.rpartition("/")[2] in (
            *("pods", "deployments", "nodes", "events", "configmaps", "endpointslices"),
        )
        if method == "GET" and collection:
            wanted = dict(item.split("=") for item in query.get("labelSelector", "").split(",") if item)
            found = [item for key, item in self.objects.items() if key.startswith(path + "/")]
            items = [item for item in found if wanted.items() <= item["metadata"].get("labels", {}).items()]
            return {"kind": "List", "items": items, "metadata": {"resourceVersion": str(self._serial)}}
        current = self.objects.get(path)
        if current is None:
            raise RefusedError(404, f'{path.split("/")[-2]} "{path.split("/")[-1]}" not found')
        if method == "GET":
            return current
        if method == "DELETE":
            self.remove(path)
            return {"kind": "Status", "status": "Success"}
        if method == "PUT":
            version = body["metadata"].get("resourceVersion")
            if version not in (None, current["metadata"]["resourceVersion"]):
                raise RefusedError(409, "the object has been modified")
            if current.get("immutable") and body.get("data") != current.get("data"):
                raise RefusedError(422, "field is immutable when `immutable` is set")
            return self.put(path, body)
        return self.put(path, _patched(current, body))


def _patched(item: Object, patch: list[Object]) -> Object:
    made: Any = copy.deepcopy(item)
    for operation in patch:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        at = made
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at.get(part)
            if at is None:
                raise RefusedError(422, f"{operation['path']}: there is no {part}")
        if last == "-" and operation["op"] == "add":
            at.append(operation["value"])
            continue
        key: Any = int(last) if isinstance(at, list) else last
        if operation["op"] == "test":
            found = at.get(key) if isinstance(at, dict) else at[key]
            if found != operation["value"]:
                raise RefusedError(422, f"{operation['path']}: testing value failed")
        elif operation["op"] == "replace" or (operation["op"] == "add" and isinstance(at, dict)):
            at[key] = operation["value"]
        elif operation["op"] == "remove" and (key in at if isinstance(at, dict) else key < len(at)):
            del at[key]
        else:
            raise RefusedError(422, f"the fake does not know {operation['op']} at {operation['path']}")
    return dict(made)
