"""Faults in a real server: each shows where it should, and nowhere else, and can be ended."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from simulator_process import Simulator

WARRANTY = {"messages": [{"role": "user", "content": "How long is the warranty?"}], "temperature": 0}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def shared(launch: Callable[..., Simulator]) -> Simulator:
    return launch("--input-ms", "1", "--decode-step-ms", "1", "--seed", "3")


@pytest.fixture
def server(shared: Simulator) -> Iterator[Simulator]:
    """A server without faults, before and after."""
    yield shared
    assert shared.request("DELETE", "/faults", port=shared.control_port)[0] == 200


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.02)


def finished(server: Simulator, reason: str) -> float:
    name = f'vllm:request_success_total{{engine="0",model_name="tiny",finished_reason="{reason}"}}'
    return server.metrics()[name]


def only_fault(server: Simulator) -> dict[str, Any]:
    (fault,) = server.control()["faults"]
    found: dict[str, Any] = fault
    return found


def stream(server: Simulator, **more: Any) -> list[dict[str, Any]]:
    status, raw = server.request("POST", CHAT, {**WARRANTY, "stream": True, **more})
    assert status == 200
    assert raw.endswith(b"data: [DONE]\n\n")
    return [json.loads(event[6:]) for event in raw.split(b"\n\n")[:-2]]


def test_errors_come_and_go(server: Simulator) -> None:
    before = time.time()
    server.faults("errors:rate=1")
    assert only_fault(server)["first_effect_at"] is None
    status, raw = server.request("POST", CHAT, WARRANTY)
    assert (status, json.loads(raw)["error"]["type"]) == (500, "InternalServerError")
    fault = only_fault(server)
    assert before <= fault["first_effect_at"] <= time.time()
    assert (fault["affected_requests"], fault["state"]) == (1, "active")
    assert server.request("GET", "/health")[0] == 200
    assert server.request("DELETE", f"/faults/{fault['id']}", port=server.control_port)[0] == 200
    assert server.request("POST", CHAT, WARRANTY)[0] == 200
    assert server.control()["past"][-1]["affected_requests"] == 1


def test_an_error_rate_spares_the_others(server: Simulator) -> None:
    server.faults("errors:rate=0.3")
    statuses = [server.request("POST", CHAT, {**WARRANTY, "max_tokens": 1})[0] for _ in range(60)]
    failed = statuses.count(500)
    assert 8 <= failed <= 30  # binomial(60, 0.3), and the seed makes it the same every time
    assert only_fault(server)["affected_requests"] == failed


def test_an_error_in_the_stream_is_a_200_and_a_finished_reason(server: Simulator) -> None:
    errors, wrong_status = finished(server, "error"), "http_requests_total{handler="
    server.faults("stream_errors:rate=1,after_tokens=3")
    chunks = stream(server)
    assert chunks[-1]["error"]["code"] == 500
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks[:-1]) == "Electronics come"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:-1])
    assert finished(server, "error") == errors + 1
    assert server.control()["engine"]["kv_blocks_used"] == 0
    before = {name: value for name, value in server.metrics().items() if name.startswith(wrong_status)}
    stream(server)
    after = {name: value for name, value in server.metrics().items() if name.startswith(wrong_status)}
    changed = [name for name in after if after[name] != before.get(name)]
    assert ['status="2xx"' in name for name in changed] == [True]
    assert server.request("POST", CHAT, WARRANTY)[0] == 500  # not streamed, it can still be told


def test_a_cut_connection_is_no_end_of_anything(server: Simulator) -> None:
    ends = {reason: finished(server, reason) for reason in ("stop", "error", "abort")}
    server.faults("stream_errors:rate=1,after_tokens=3,mode=cut")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        server.request("POST", CHAT, {**WARRANTY, "stream": True})
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        server.request("POST", CHAT, WARRANTY)
    assert {reason: finished(server, reason) for reason in ends} == ends
    wait_until(lambda: server.control()["requests"]["in_flight"] == 0)


def test_a_stall_is_a_long_gap_between_tokens(server: Simulator) -> None:
    gap = 'vllm:inter_token_latency_seconds_bucket{engine="0",model_name="tiny",le='
    before = server.metrics()
    server.faults("stall:seconds=0.6,after_tokens=2")
    chunks = stream(server)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    after = server.metrics()
    longer = [
        page[f'{gap}"+Inf"}}'] - page[f'{gap}"0.5"}}'] for page in (before, after)
    ]  # intervals of more than half a second
    assert longer[1] == longer[0] + 1
    assert only_fault(server)["affected_requests"] == 1


@pytest.mark.parametrize(("what", "slow"), [("ttft", "time_to_first_token"), ("itl", "inter_token_latency")])
def test_latency_is_multiplied_where_it_was_asked_for(server: Simulator, what: str, slow: str) -> None:
    name = f'vllm:{slow}_seconds_sum{{engine="0",model_name="tiny"}}'
    before = server.metrics()[name]
    server.faults(f"latency:factor=100,what={what}")
    stream(server, max_tokens=3)
    # 1 ms of input and 1 ms a step, times 100; two intervals after the first token
    assert server.metrics()[name] - before > (0.1 if what == "ttft" else 0.15)
    assert only_fault(server)["affected_requests"] == 1


def test_wrong_answers_are_the_same_ones_each_time(server: Simulator) -> None:
    questions = [
        "How long is the warranty?",
        "반품은 며칠 안에 해야 하나요?",
        "Can I pay with PayPal?",
        "점심시간은 언제예요?",
    ]

    def answers() -> list[str]:
        return [server.ask(question)["choices"][0]["message"]["content"] for question in questions]

    right = answers()
    server.faults("wrong:rate=1")
    wrong = answers()
    assert all(one != other for one, other in zip(right, wrong, strict=True))
    assert answers() == wrong
    server.faults("wrong:rate=0.5")
    assert answers() == answers()
    assert only_fault(server)["affected_requests"] == 2 * sum(
        one != other for one, other in zip(right, answers(), strict=True)
    )


def test_a_leak_shrinks_memory_for_good(launch: Callable[..., Simulator]) -> None:
    server = launch("--input-ms", "1", "--decode-step-ms", "1", "--num-gpu-blocks-override", "600")
    server.faults("leak:blocks_per_request=1.5")
    for _ in range(4):
        server.ask("How long is the warranty?")
    assert server.control()["engine"]["kv_blocks_leaked"] == 6
    assert server.metrics()['vllm:kv_cache_usage_perc{engine="0",model_name="tiny"}'] == pytest.approx(0.01)
    assert only_fault(server)["affected_requests"] == 4
    server.faults("leak:blocks_per_second=100")
    wait_until(lambda: server.control()["engine"]["kv_blocks_leaked"] > 20)
    server.faults()
    leaked = server.control()["engine"]["kv_blocks_leaked"]
    server.ask("How long is the warranty?")
    assert server.control()["engine"]["kv_blocks_leaked"] == leaked


def test_a_hung_server_accepts_and_never_answers_until_it_may(server: Simulator) -> None:
    server.faults("hang")
    socks = []
    for path in ("/health", "/metrics", "/v1/models"):
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=0.3)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with pytest.raises(TimeoutError):
            sock.recv(1)
        socks.append(sock)
    assert only_fault(server)["affected_requests"] == 3
    server.faults()
    for sock in socks:
        sock.settimeout(10)
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        sock.close()


def test_a_hang_freezes_streams_in_flight(server: Simulator) -> None:
    body = json.dumps({**WARRANTY, "stream": True, "ignore_eos": True, "max_tokens": 8000}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: server.control()["engine"]["running"] == 1)
        server.faults("hang")
        sock.settimeout(0.4)
        with pytest.raises(TimeoutError):
            while sock.recv(1 << 16):
                pass
        assert server.control()["engine"]["running"] == 1
    wait_until(lambda: server.control()["requests"]["in_flight"] == 0)


def test_a_crash_ends_the_process_without_a_word(launch: Callable[..., Simulator]) -> None:
    server = launch("--fault", "crash:exit_code=7,after=300ms")
    assert server.process.wait(30) == 7


def test_faults_at_the_start_wait_for_their_time(launch: Callable[..., Simulator]) -> None:
    server = launch("--fault", "errors:rate=1,after=1h", "--fault", "wrong:rate=0.1")
    assert [(fault["kind"], fault["state"]) for fault in server.control()["faults"]] == [
        ("errors", "pending"),
        ("wrong", "active"),
    ]
    assert server.request("POST", CHAT, WARRANTY)[0] == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"faults": ["erors:rate=1"]}, "did you mean 'errors'"),
        ({"faults": [3]}, "expected"),
        ({"fault": []}, "expected"),
        (b"{", "not JSON"),
        (["slow_start:seconds=3"], "only be set when the server is started"),
        (["wrong:rate=1"] * 200, "no more than 100"),
        ([{"kind": "errors", "rate": [1]}], "not a rate"),
        (b"x" * 100_000, "Too Large"),
    ],
)
def test_wrong_orders_are_refused_and_change_nothing(server: Simulator, body: Any, message: str) -> None:
    server.faults("wrong:rate=0.2")
    status, raw = server.request("PUT", "/faults", body, port=server.control_port)
    assert 400 <= status < 500
    assert message in json.loads(raw)["error"]
    assert only_fault(server)["spec"] == "wrong:rate=0.2"


def test_a_fault_that_is_not_there_cannot_be_ended(server: Simulator) -> None:
    assert server.request("DELETE", "/faults/errors-99", port=server.control_port)[0] == 404


def test_the_control_port_is_for_this_machine_only(launch: Callable[..., Simulator]) -> None:
    server = launch("--host", "0.0.0.0")
    with socket.create_connection(("127.0.0.2", server.port), timeout=5):
        pass  # the service itself is open to all
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.control_port), timeout=5)
