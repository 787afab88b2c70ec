"""The container of a drill: passes everything on, except what the release's fault strikes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import urllib3

from servegate.metrics.names import read
from servegate.process import free_ports
from servegate.simulator.proxy import counted, main

if TYPE_CHECKING:
    from simulator_process import Simulator

ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "stream": True}
USER = {"X-Forwarded-For": "192.0.2.7"}


def release(folder: Path, **env: str) -> Path:
    path = folder / "release.json"
    path.write_text(json.dumps({"name": "v1", "env": env}))
    return path


@contextmanager
def proxy(engine: Simulator, document: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "servegate.simulator.proxy", "--port", str(port), "--release", str(document)]
    child = subprocess.Popen(
        [*command, "--engine", f"http://127.0.0.1:{engine.port}"], stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    try:
        assert "in front of" in child.stderr.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        assert child.wait(30) == 0
        child.stderr.close()


def ask(url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    answer = urllib3.request("POST", f"{url}/v1/chat/completions", json=ASKED, headers=headers, retries=False)
    return answer.status, answer.data


def test_without_a_fault_every_byte_is_passed_on(simulator: Simulator, tmp_path: Path) -> None:
    with proxy(simulator, release(tmp_path)) as url:
        status, said = ask(url, USER)
        assert status == 200
        assert said.endswith(b"data: [DONE]\n\n")
        models = urllib3.request("GET", f"{url}/v1/models?x=1", retries=False)
        assert models.json() == json.loads(simulator.request("GET", "/v1/models")[1])
        assert urllib3.request("GET", f"{url}/nowhere", retries=False).status == 404


def test_a_fault_hurts_users_alone_and_is_counted_among_the_engines_answers(
    simulator: Simulator, tmp_path: Path
) -> None:
    with proxy(simulator, release(tmp_path, SERVEGATE_FAULT="errors:rate=1")) as url:
        before = read(urllib3.request("GET", f"{url}/metrics", retries=False).data.decode()).counters
        assert [ask(url, USER)[0] for _ in range(3)] == [500] * 3
        assert ask(url, {})[0] == 200  # a smoke test comes past the gateway
        after = read(urllib3.request("GET", f"{url}/metrics", retries=False).data.decode()).counters
    assert after["http_5xx"] - before.get("http_5xx", 0.0) == 3
    assert after["http_requests"] - before["http_requests"] == 4


def test_an_engine_that_is_gone(launch: Callable[..., Simulator], tmp_path: Path) -> None:
    engine = launch()
    with proxy(engine, release(tmp_path)) as url:
        engine.process.kill()
        engine.process.wait(30)
        assert ask(url, USER)[0] == 502
        assert urllib3.request("GET", f"{url}/metrics", retries=False).status == 502


@pytest.mark.parametrize(
    ("fault", "said"),
    [("hang", "only 'errors'"), ("errors", "needs rate"), ("eror:rate=1", "did you mean 'errors'")],
)
def test_a_fault_that_cannot_be_made_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, said: str
) -> None:
    path = release(tmp_path, SERVEGATE_FAULT=fault)
    assert main(["--port", "1", "--engine", "http://x", "--release", str(path)]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_errors_stand_beside_the_engines_own_in_one_family() -> None:
    page = (
        '# TYPE http_requests_total counter\nhttp_requests_total{handler="/v1/chat/completions",status="5xx"} 2.0\n'
        "# TYPE up gauge\nup 1\n"
    )
    assert counted(page, {}) == page
    lines = counted(page, {"/v1/chat/completions": 3}).splitlines()
    assert lines[2].endswith('status="5xx",answered_by="fault"} 3.0')
    assert read("\n".join(lines)).counters["http_5xx"] == 5
    assert read(counted("# TYPE up gauge\nup 1\n", {"/v1/completions": 1})).counters["http_5xx"] == 1
