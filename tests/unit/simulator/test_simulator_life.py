"""How a server comes up and goes down: ports, signals, draining, and exit codes."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from simulator_process import Simulator

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "ignore_eos": True}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.02)


def open_request(server: Simulator, max_tokens: int, stream: bool = True) -> socket.socket:
    body = json.dumps({**HELLO, "stream": stream, "max_tokens": max_tokens}).encode()
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    wait_until(lambda: server.control()["engine"]["running"] > 0)
    return sock


def read_all(sock: socket.socket) -> bytes:
    data = b""
    try:
        while part := sock.recv(65536):
            data += part
            if data.endswith(b"0\r\n\r\n"):
                break
    except ConnectionError:
        pass
    return data


def test_sigterm_without_a_timeout_aborts_what_is_in_flight(launch: Callable[..., Simulator]) -> None:
    server = launch("--decode-step-ms", "20")
    with open_request(server, 2000) as sock:
        server.process.send_signal(signal.SIGTERM)
        data = read_all(sock)
    assert b"[DONE]" not in data
    assert server.process.wait(30) == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_drain_finishes_what_is_in_flight_and_refuses_what_comes(
    launch: Callable[..., Simulator], stream: bool
) -> None:
    server = launch("--decode-step-ms", "20", "--shutdown-timeout", "30")
    with open_request(server, 60, stream) as sock:
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: bool(server.control()["draining"]))
        status, raw = server.request("POST", CHAT, HELLO)
        assert status == 500
        assert json.loads(raw)["error"]["message"] == "cannot schedule new futures after shutdown"
        assert server.request("GET", "/health")[0] == 200  # as the real one: nothing tells a prober
        assert server.metrics()[f'http_requests_total{{handler="{CHAT}",method="POST",status="5xx"}}'] == 1
        data = read_all(sock)
    assert b"[DONE]" in data if stream else b'"finish_reason":"length"' in data
    assert server.process.wait(30) == 0


def test_a_drain_that_takes_too_long_is_cut_short(launch: Callable[..., Simulator]) -> None:
    server = launch("--decode-step-ms", "20", "--shutdown-timeout", "300ms")
    with open_request(server, 2000) as sock:
        server.process.send_signal(signal.SIGTERM)
        assert b"[DONE]" not in read_all(sock)
    assert server.process.wait(30) == 0


def test_a_second_signal_ends_the_drain(launch: Callable[..., Simulator]) -> None:
    server = launch("--decode-step-ms", "20", "--shutdown-timeout", "1h")
    with open_request(server, 2000):
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: bool(server.control()["draining"]))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_an_idle_server_stops_at_once_on_either_signal(launch: Callable[..., Simulator]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        server = launch("--shutdown-timeout", "1h")
        server.process.send_signal(number)
        assert server.process.wait(30) == 0


def test_while_it_loads_connections_are_refused() -> None:
    command = [sys.executable, "-m", "servegate.simulator", "--port", "0", "--control-port", "0"]
    process = subprocess.Popen([*command, "--fault", "slow_start:seconds=1"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        control = re.search(r":(\d+)/faults", process.stderr.readline())
        assert control
        assert "loading for 1 s" in process.stderr.readline()
        assert "ready at" in process.stderr.readline()
        with socket.create_connection(("127.0.0.1", int(control.group(1))), timeout=5) as sock:
            sock.sendall(b"GET /faults HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            body = read_all(sock).partition(b"\r\n\r\n")[2]
        fault = json.loads(body)["faults"][0]
        assert fault["kind"] == "slow_start"
        assert fault["first_effect_at"] is not None
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_a_port_that_opens_late_is_closed_before() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "servegate.simulator", "--port", str(port), "--fault", "slow_start:seconds=1h"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "loading" in process.stderr.readline()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate(timeout=10)


COMMANDS = [
    [sys.executable, "-m", "servegate.simulator"],
    [sys.executable, "-c", "from servegate.cli import main; main()", "simulator"],
]


def run(*command: Any) -> tuple[int, str, str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=["module", "servegate"])
def test_what_keeps_it_from_starting_is_one_message(command: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _out, said = run(*command, "--port", port)
        assert (code, said) == (4, f"servegate simulator: cannot listen on 127.0.0.1:{port}: address already in use\n")
    code, _out, said = run(*command, "--max-num-sequences", 3)
    assert code == 2
    assert said.startswith("servegate simulator: unknown argument --max-num-sequences; did you mean --max-num-seqs?\n")
    file = tmp_path / "facts.yaml"
    file.write_text("version: 1\nfacts:\n  - id: a\n    lang: en\n")
    code, _out, said = run(*command, "--knowledge", file, "--port", 0)
    assert code == 2
    assert said == (
        f"servegate simulator: {file}:3: `topic` must be a text that is not empty (quote yes, no and numbers)\n"
    )
    code, _out, said = run(*command, "--host", "no.such.host.invalid")
    assert (code, said) == (2, "servegate simulator: --host 'no.such.host.invalid' is not an address of this machine\n")
    code, out, said = run(*command, "--help")
    assert (code, said) == (0, "")
    assert "--num-gpu-blocks-override" in out


def test_the_module_starts_without_the_rest_of_servegate() -> None:
    """A child process must be up in a moment: no command line library, no numpy, none of the other rooms."""
    code = (
        "import sys, servegate.simulator.app, servegate.simulator.server, servegate.simulator.control\n"
        "own = [m for m in sys.modules if m.startswith('servegate') and not m.startswith('servegate.simulator')]\n"
        "heavy = [m for m in ('click', 'typer', 'numpy', 'pydantic', 'rich', 'locust') if m in sys.modules]\n"
        "print(own, heavy)"
    )
    assert run(sys.executable, "-c", code)[1].strip() == "['servegate'] []"
