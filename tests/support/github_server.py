"""A stand-in for the few endpoints of GitHub that are needed, over real HTTP.

Every request and every answer is checked against an excerpt of GitHub's own OpenAPI description, so that the stand-in
cannot drift from what it stands for.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema

TOKEN = "ghs_secret"
BOT = {"id": 41898282, "login": "github-actions[bot]"}
STRANGER = {"id": 7, "login": "mallory"}

Answer = tuple[int, dict[str, str], Any]


@dataclass
class GitHub:
    """What the server knows and what it was asked.

    Attributes:
        comments: of pull request 7, oldest first.
        pulls: open pull requests.
        faults: answers given instead of the real one, in order; None: the real one, but the connection ends first.
        seen: (method, path with query) of every request.
        problems: where a request or an answer is not what the description says.
    """

    excerpt: dict[str, Any]
    comments: list[dict[str, Any]] = field(default_factory=list)
    pulls: list[dict[str, Any]] = field(default_factory=list)
    viewer: dict[str, Any] = field(default_factory=lambda: dict(BOT))
    faults: list[tuple[str, Answer | None]] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    address: str = ""

    def write(self, author: dict[str, Any], body: str | None) -> dict[str, Any]:
        """A comment as somebody wrote it."""
        number = 100 + len(self.comments)
        comment = {
            "id": number,
            "user": author,
            "body": body,
            "html_url": f"https://github.example/o/r/pull/7#{number}",
        }
        if body is None:
            del comment["body"]  # optional in the description
        self.comments.append(comment)
        return comment

    def bodies(self, author: dict[str, Any]) -> list[str]:
        """Texts of one author's comments."""
        return [comment["body"] for comment in self.comments if comment["user"] == author]

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer | None:
        """The answer to one request; None: end the connection."""
        self.seen.append((method, target))
        parts = urlsplit(target)
        fault = self.faults[0] if self.faults and self.faults[0][0] in (method, "*") else None
        if fault is not None:
            self.faults.pop(0)
            if fault[1] is not None:
                return fault[1]
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {}, {"message": "Bad credentials"}
        if parts.path == "/graphql":
            query = json.loads(body)["query"]
            return 200, {}, {"data": {"viewer": {"databaseId": self.viewer["id"]}}} if "databaseId" in query else {}
        for operation in self.excerpt["operations"]:
            pattern = re.sub(r"\{\w+\}", r"([^/]+)", operation["path"])
            found = re.fullmatch(pattern, parts.path)
            if operation["method"] == method and found:
                given = dict(parse_qsl(parts.query))
                self._check(set(given) <= set(operation["query"]), f"{method} {target}: unknown parameter")
                data = json.loads(body) if body else None
                if "request" in operation:
                    self._valid(data, operation["request"], target)
                status, more, found_ = self._do(operation["operation"], found.groups(), given, data)
                if status < 300:
                    self._check(status == operation["status"], f"{method} {target}: {status}")
                    self._valid(found_, operation["response"], target)
                return None if fault is not None else (status, more, found_)
        self.problems.append(f"{method} {target} is no known operation")
        return 404, {}, {"message": "Not Found"}

    def _do(self, operation: str, parts: tuple[str, ...], query: dict[str, str], data: Any) -> Answer:
        match operation:
            case "issues/list-comments":
                page, size = int(query.get("page", "1")), int(query.get("per_page", "30"))
                rows = self.comments[(page - 1) * size : page * size]
                path = f"{self.address}/repos/o/r/issues/7/comments?per_page={size}&page={page + 1}"
                more = (
                    {"Link": f'<{path}>; rel="next", <{path}>; rel="last"'} if page * size < len(self.comments) else {}
                )
                return 200, more, rows
            case "issues/create-comment":
                return 201, {}, self.write(self.viewer, data["body"])
            case "issues/update-comment":
                for comment in self.comments:
                    if comment["id"] == int(parts[2]):
                        comment["body"] = data["body"]
                        return 200, {}, comment
                return 404, {}, {"message": "Not Found"}
            case "pulls/get":
                return next(
                    ((200, {}, pull) for pull in self.pulls if pull["number"] == int(parts[2])),
                    (404, {}, {"message": "Not Found"}),
                )
            case _:
                owner = query.get("head", ":").partition(":")[0]
                return 200, {}, [pull for pull in self.pulls if pull["owner"] == owner]

    def _check(self, right: bool, problem: str) -> None:
        if not right:
            self.problems.append(problem)

    def _valid(self, data: Any, schema: dict[str, Any], target: str) -> None:
        self.problems += [
            f"{target}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(data)
        ]


def pull(number: int, sha: str, owner: str = "o") -> dict[str, Any]:
    """An open pull request."""
    return {"number": number, "state": "open", "head": {"sha": sha}, "owner": owner}


def _handler(github: GitHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # head and body in one packet: two wait for each other

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = github.answer(self.command, self.path, headers, body)
            if answer is None:
                self.close_connection = True
                self.connection.close()
                return
            status, more, data = answer
            shown = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            for name, value in {**more, "Content-Length": str(len(shown))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(shown)

        do_GET = do_POST = do_PATCH = _serve  # noqa: N815  the names http.server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
            """Nothing: the tests look at `seen`."""

    return Handler


@contextmanager
def serve() -> Iterator[GitHub]:
    """Run the stand-in on a free port of this machine."""
    path = Path(__file__).parent.parent / "unit" / "github" / "openapi-excerpt.json"
    github = GitHub(json.loads(path.read_text()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(github))
    github.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield github
        assert github.problems == []
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
