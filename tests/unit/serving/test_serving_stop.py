"""When the engine is told to stop."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from servegate.process import free_ports
from servegate.serving import health
from servegate.serving.probe import Answer, in_flight
from servegate.serving.stop import Do, Stop


def test_requests_in_flight_and_late_ones_are_served_before_it_is_told() -> None:
    stop = Stop(since=100.0, drain=60.0, quiet=5.0)
    seen = [(100.0, 3), (101.0, 0), (104.0, 1), (105.0, 0), (109.5, 0)]
    assert [stop.step(now, count, listening=True) for now, count in seen] == [Do.WAIT] * 5
    assert stop.step(110.0, 0, listening=True) is Do.TERMINATE
    assert stop.step(120.0, None, listening=True) is Do.WAIT


def test_the_time_is_limited_and_then_it_is_killed() -> None:
    stop = Stop(since=0.0, drain=60.0, quiet=5.0)
    assert stop.step(59.9, 1, listening=True) is Do.WAIT
    assert stop.step(60.0, 1, listening=True) is Do.TERMINATE
    assert stop.step(69.9, None, listening=True) is Do.WAIT
    assert stop.step(70.0, None, listening=True) is Do.KILL


def test_an_engine_that_says_nothing_gets_the_whole_time() -> None:
    stop = Stop(since=0.0, drain=60.0, quiet=5.0)
    assert stop.step(30.0, None, listening=True) is Do.WAIT


def test_nobody_waits_for_an_engine_that_still_loads_or_for_a_second_signal() -> None:
    assert Stop(0.0, 60.0, 5.0).step(0.1, None, listening=False) is Do.TERMINATE
    stop = Stop(0.0, 60.0, 5.0)
    stop.hurry()
    assert stop.step(0.1, 3, listening=True) is Do.TERMINATE


class _Metrics(http.server.BaseHTTPRequestHandler):
    body, status = b"", 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[tuple[int, type[_Metrics]]]:
    handler = type("Handler", (_Metrics,), {})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port, handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_requests_in_flight_come_from_the_metrics_of_every_engine(engine: tuple[int, type[_Metrics]]) -> None:
    port, handler = engine
    handler.body = (Path(__file__).parents[2] / "fixtures" / "vllm-0.32.0-metrics.txt").read_bytes()
    assert in_flight(port, tls=False) == Answer(0, listening=True)
    handler.body = (
        b'vllm:num_requests_running{engine="0",model_name="m"} 2.0\n'
        b'vllm:num_requests_running{engine="1",model_name="m"} 1.0\n'
        b'vllm:num_requests_waiting{engine="0",model_name="m"} 4.0\n'
        b'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 4.0\n'
    )
    assert in_flight(port, tls=False) == Answer(7, listening=True)
    handler.body = b"nothing of the kind"
    assert in_flight(port, tls=False) == Answer(None, listening=True)
    handler.status = 500
    assert in_flight(port, tls=False) == Answer(None, listening=True)


def test_nobody_listens() -> None:
    assert in_flight(free_ports(1)[0], tls=False) == Answer(None, listening=False)


def test_health_finds_the_port_among_the_arguments_of_process_1(
    engine: tuple[int, type[_Metrics]], tmp_path: Path
) -> None:
    port, handler = engine
    file = tmp_path / "cmdline"
    file.write_bytes(b"\0".join([b"python3", b"-m", b"servegate.serving", b"m", b"--port", str(port).encode(), b""]))
    assert health.main(file) == 0
    handler.status = 503
    assert health.main(file) == 1
    file.write_bytes(b"\0".join([b"python3", b"m", b"--port", str(free_ports(1)[0]).encode(), b""]))
    assert health.main(file) == 1
