"""Two real vLLM servers, as the demo starts them: do they answer, measure, obey their release and go away."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from servegate.demo.vllm_cpu import Engine, command, ensure
from servegate.process import Child, free_ports

REPOSITORY = Path(__file__).parents[2]
TEMPLATES = REPOSITORY / "examples" / "vllm"

# The first test may have to install everything.
pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Server:
    child: Child
    port: int

    @contextmanager
    def open(self, method: str, path: str, body: dict[str, Any] | None = None) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with closing(connection):
            connection.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
            with connection.getresponse() as response:
                yield response

    def get(self, path: str) -> str:
        with self.open("GET", path) as response:
            assert response.status == 200
            return response.read().decode()

    def chat(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.open("POST", "/v1/chat/completions", body) as response:
            return response.status, json.load(response)

    def wait_ready(self) -> None:
        for _ in range(6000):
            self.child.check()
            try:
                with self.open("GET", "/health") as response:
                    if response.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        pytest.fail(f"not ready: {self.child.log}")


def question(text: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "smollm2",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 16,
    } | more


def group(leader: int) -> list[str]:
    """Names of the processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, _, pgrp = rest.split()[:3]
        if int(pgrp) == leader and state != "Z":
            found.append(name)
    return found


def empties(leader: int) -> bool:
    """Whether nothing is left of a group soon: the kernel takes a moment to end what was killed."""
    for _ in range(50):
        if not group(leader):
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def engine() -> Engine:
    return ensure(print)


@pytest.fixture(scope="module")
def servers(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """One with the good chat template, one with the verbose one, started at once."""
    logs = tmp_path_factory.mktemp("engine")
    started = []
    try:
        for name, port in zip(("chat-template", "chat-template-verbose"), free_ports(2), strict=True):
            args = ["--chat-template", str(TEMPLATES / f"{name}.jinja")]
            argv, env = command(engine, host="127.0.0.1", port=port, args=args)
            started.append(Server(Child(name, argv, logs / f"{name}.log", env), port))
        for server in started:
            server.wait_ready()
        yield started[0], started[1]
    finally:
        for server in started:
            server.child.stop(grace=15)


def test_a_second_set_up_finds_the_first(engine: Engine) -> None:
    lines: list[str] = []
    assert ensure(lines.append) == engine
    assert lines == []


def test_it_is_the_version_that_the_fixture_was_taken_from(servers: tuple[Server, Server], engine: Engine) -> None:
    assert json.loads(servers[0].get("/version")) == {"version": engine.version} == {"version": "0.32.0"}


def test_streams_an_answer(servers: tuple[Server, Server]) -> None:
    body = question("What is the capital of France?", stream=True, stream_options={"include_usage": True})
    with servers[0].open("POST", "/v1/chat/completions", body) as response:
        assert response.status == 200
        assert str(response.getheader("content-type")).startswith("text/event-stream")
        events = [line[6:].strip() for line in response if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    words = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "Paris" in "".join(words)
    assert sum(word != "" for word in words) > 3
    assert chunks[-1]["usage"]["completion_tokens"] > 3


def test_a_bad_request_is_refused(servers: tuple[Server, Server]) -> None:
    status, _ = servers[0].chat(question("Hi", max_tokens=-1))
    assert status == 400


def test_arguments_of_the_release_decide(servers: tuple[Server, Server]) -> None:
    """The same question costs far more prompt tokens under the verbose template, none of them from the cache."""
    prompts, hits = [], []
    for server in servers:
        for _ in range(2):  # the second could come from the prefix cache
            status, answer = server.chat(question("How are you?"))
            assert status == 200
        prompts.append(answer["usage"]["prompt_tokens"])
        found = re.search(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)$", server.get("/metrics"), re.MULTILINE)
        assert found is not None
        hits.append(float(found[1]))
    assert prompts[0] < 64 < 250 < prompts[1]
    assert hits[0] > 0 == hits[1]


def test_exposes_the_metrics_the_simulator_stands_in_for(servers: tuple[Server, Server]) -> None:
    fixture = (REPOSITORY / "tests" / "fixtures" / "vllm-0.32.0-metrics.txt").read_text("utf-8")
    expected = set(re.findall(r"^# TYPE (\S+) (\S+)$", fixture, re.MULTILINE))
    found = set(re.findall(r"^# TYPE (\S+) (\S+)$", servers[0].get("/metrics"), re.MULTILINE))
    assert len(expected) > 20
    assert expected - found == set()


def test_a_stopped_server_finishes_its_answer_and_leaves_no_process_and_the_other_alone(
    servers: tuple[Server, Server],
) -> None:
    stays, goes = servers
    story = question("Tell me a story.", max_tokens=24, stream=True, ignore_eos=True)
    stop = threading.Thread(target=goes.child.stop, kwargs={"grace": 60})
    with goes.open("POST", "/v1/chat/completions", story) as stream:
        assert stream.readline().startswith(b"data: ")
        assert len(group(goes.child.pid)) > 1
        stop.start()
        rest = stream.read()
    stop.join()
    assert b'"finish_reason":"length"' in rest
    assert rest.rstrip().endswith(b"data: [DONE]")
    assert goes.child.returncode == 0
    assert empties(goes.child.pid)
    assert stays.chat(question("Hello?"))[0] == 200
    stays.child.stop(grace=60)
    assert stays.child.returncode == 0
    assert empties(stays.child.pid)
