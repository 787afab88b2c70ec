"""A real server process over HTTP: shapes of answers, streams, errors, and clients that misbehave."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from servegate.simulator import tokens

if TYPE_CHECKING:
    from simulator_process import Simulator

REFUND = [{"role": "user", "content": "환불은 얼마나 걸리나요?"}]


def events(simulator: Simulator, path: str, body: dict[str, Any]) -> tuple[int, list[Any]]:
    """Status and the data of each event; the last must be [DONE]."""
    status, raw = simulator.request("POST", path, {"stream": True, **body})
    assert raw.endswith(b"data: [DONE]\n\n")
    parts = raw.split(b"\n\n")
    assert parts.pop() == b""
    assert all(part.startswith(b"data: ") for part in parts)
    return status, [json.loads(part[6:]) for part in parts[:-1]]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.02)


def test_a_chat_answer(simulator: Simulator) -> None:
    answer = simulator.ask("환불은 얼마나 걸리나요?")
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == "tiny"
    choice = answer["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "환불은 상품 회수 후 영업일 기준 5일 안에 처리됩니다."
    assert choice["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_streamed_chat_has_vllms_order_of_events(simulator: Simulator) -> None:
    whole = simulator.ask("환불은 얼마나 걸리나요?")
    status, chunks = events(
        simulator, "/v1/chat/completions", {"messages": REFUND, "stream_options": {"include_usage": True}}
    )
    assert status == 200
    first, *deltas, last, usage = chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in [first, *deltas])
    assert all(chunk["choices"][0]["delta"]["content"] for chunk in deltas)
    assert (last["choices"][0]["finish_reason"], last["choices"][0]["delta"]) == ("stop", {"content": ""})
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in [*deltas, last])
    assert text == whole["choices"][0]["message"]["content"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)


def test_without_include_usage_there_is_none(simulator: Simulator) -> None:
    _status, chunks = events(simulator, "/v1/chat/completions", {"messages": REFUND})
    assert all(chunk["choices"] for chunk in chunks)
    assert all("usage" not in chunk for chunk in chunks)


def test_continuous_usage_counts_tokens_as_they_come(simulator: Simulator) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    _status, chunks = events(simulator, "/v1/chat/completions", {"messages": REFUND, "stream_options": options})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == counts[-2] > 5


def test_text_completions_whole_and_streamed(simulator: Simulator) -> None:
    body = {"prompt": "How long is the warranty?", "temperature": 0, "max_tokens": 50}
    status, raw = simulator.request("POST", "/v1/completions", body)
    answer = json.loads(raw)
    assert (status, answer["object"]) == (200, "text_completion")
    assert answer["choices"][0]["text"] == "Electronics come with a warranty of 2 years."
    _status, chunks = events(simulator, "/v1/completions", body)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == answer["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


EMOJI = {
    "id": "emoji",
    "lang": "ko",
    "topic": "t",
    "ask": ["emoji"],
    "short": "👍🏽",
    "answer": "가격은 👍🏽 👩\u200d👩\u200d👧 뷁é漢字 입니다.",
    "data": {"sign": "👍🏽"},
    "wrong": ["👎"],
}


def test_streams_carry_whole_characters_in_every_event(launch: Callable[..., Simulator], tmp_path: Path) -> None:
    """Bytes, not text: an event that ended inside a character would not decode."""
    file = tmp_path / "emoji.jsonl"
    file.write_text(json.dumps(EMOJI, ensure_ascii=False), encoding="utf-8")
    simulator = launch("--input-ms", "0", "--decode-step-ms", "1", "--knowledge", str(file))
    body = {"messages": [{"role": "user", "content": "emoji?"}], "stream": True}
    _status, raw = simulator.request("POST", "/v1/chat/completions", body)
    chunks = [json.loads(event[6:].decode("utf-8", "strict")) for event in raw.split(b"\n\n")[:-2]]
    pieces = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    assert "".join(pieces) == EMOJI["answer"]
    assert len(pieces) > 8


def test_limits_and_stops(simulator: Simulator) -> None:
    short = simulator.ask("How long is the warranty?", max_tokens=3)
    assert short["usage"]["completion_tokens"] == 3
    assert short["choices"][0]["finish_reason"] == "length"
    stopped = simulator.ask("How long is the warranty?", stop=[" warranty"])
    assert stopped["choices"][0]["message"]["content"] == "Electronics come with a"
    assert (stopped["choices"][0]["finish_reason"], stopped["choices"][0]["stop_reason"]) == ("stop", " warranty")
    long = simulator.ask("Hello", ignore_eos=True, max_tokens=150)
    assert long["usage"]["completion_tokens"] == 150


def test_structured_output_whole_and_streamed(simulator: Simulator) -> None:
    schema = {"type": "object", "properties": {"warranty_years": {"type": "integer"}}, "required": ["warranty_years"]}
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": schema}}
    answer = simulator.ask("How long is the warranty?", response_format=form)
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"warranty_years": 2}
    body = {"messages": [{"role": "user", "content": "How long is the warranty?"}]}
    _status, chunks = events(
        simulator, "/v1/chat/completions", {**body, "structured_outputs": {"choice": ["2 years", "9"]}}
    )
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "2 years"


def test_unknown_answers_differ_without_a_seed_and_agree_with_one(simulator: Simulator) -> None:
    def say(**more: Any) -> str:
        content: str = simulator.ask("Tell me about mountains.", **more)["choices"][0]["message"]["content"]
        return content

    assert say(temperature=1, seed=5) == say(temperature=1, seed=5)
    assert say() == say()
    assert len({say(temperature=1) for _ in range(5)}) > 1


def test_the_other_endpoints(simulator: Simulator) -> None:
    models = json.loads(simulator.request("GET", "/v1/models")[1])
    assert [(model["id"], model["max_model_len"]) for model in models["data"]] == [("tiny", 2048)]
    assert simulator.request("GET", "/health") == (200, b"")
    assert simulator.request("GET", "/ping")[0] == simulator.request("POST", "/ping")[0] == 200
    assert json.loads(simulator.request("GET", "/version")[1]) == {"version": "0.32.0"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("POST", "/v1/chat/completions", {"model": "x", "messages": REFUND}, 404, "NotFoundError"),
        (
            "POST",
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "가 " * 3000}]},
            400,
            "BadRequestError",
        ),
        ("POST", "/v1/chat/completions", b"{oops", 400, "BadRequestError"),
        ("POST", "/v1/chat/completions", b"\xff\xfe", 400, "BadRequestError"),
        ("POST", "/v1/chat/completions", b'{"a":' * 50_000, 400, "BadRequestError"),
        ("POST", "/v1/chat/completions", b'{"messages":[{"role":"user","content":"\\udc00"}]}', 400, "BadRequestError"),
        ("POST", "/v1/chat/completions", {"messages": REFUND, "max_tokens": 0}, 400, "BadRequestError"),
        ("POST", "/v1/completions", {"prompt": "x", "temperature": "hot"}, 400, "BadRequestError"),
        ("GET", "/v1/nothing", None, 404, "NotFoundError"),
        ("GET", "/v1/completions", None, 405, "BadRequestError"),
        ("POST", "/v1/completions", b" " * (5 * 1024 * 1024), 413, "BadRequestError"),
    ],
)
def test_errors_have_the_protocols_shape(
    simulator: Simulator, method: str, path: str, body: Any, status: int, kind: str
) -> None:
    found, raw = simulator.request(method, path, body)
    error = json.loads(raw)["error"]
    assert (found, error["code"], error["type"]) == (status, status, kind)
    assert error["message"]
    assert "param" in error


def test_a_body_that_is_not_said_to_be_json_is_refused(simulator: Simulator) -> None:
    status, raw = simulator.request("POST", "/v1/completions", {"prompt": "x"}, content_type="text/plain")
    assert status == 400
    assert "application/json" in json.loads(raw)["error"]["message"]


def open_stream(simulator: Simulator, **more: Any) -> socket.socket:
    """A streamed request on a bare socket that reads nothing by itself."""
    body = json.dumps({"messages": REFUND, "stream": True, "ignore_eos": True, **more}).encode()
    sock = socket.create_connection(("127.0.0.1", simulator.port), timeout=20)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return sock


def test_the_status_comes_before_the_first_token(launch: Callable[..., Simulator]) -> None:
    simulator = launch("--input-ms", "600000")
    with open_stream(simulator, max_tokens=10) as sock:
        head = sock.recv(4096)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"text/event-stream" in head
    assert head.endswith(b"\r\n\r\n")


def test_a_client_that_hangs_up_frees_memory_and_leaves_no_trace(launch: Callable[..., Simulator]) -> None:
    simulator = launch("--input-ms", "0", "--decode-step-ms", "5")
    with open_stream(simulator, max_tokens=4000) as sock:
        assert b"200 OK" in sock.recv(4096)
        assert sock.recv(4096)  # a token
        assert simulator.control()["engine"]["kv_blocks_used"] > 0
    wait_until(lambda: simulator.control()["requests"]["in_flight"] == 0)
    state = simulator.control()
    assert state["engine"]["kv_blocks_used"] == 0
    assert state["requests"]["disconnected"] == 1
    metrics = simulator.metrics()
    series = {name: value for name, value in metrics.items() if name.startswith("vllm:request_success_total")}
    assert set(series.values()) == {0.0}
    assert metrics['http_requests_total{handler="/v1/chat/completions",method="POST",status="2xx"}'] == 1
    counts = [value for name, value in metrics.items() if "_count" in name and ("first_token" in name or "e2e" in name)]
    assert sorted(counts) == [0, 1]  # one first token, no end


def test_a_waiting_client_that_hangs_up_is_forgotten(launch: Callable[..., Simulator]) -> None:
    simulator = launch("--input-ms", "0", "--decode-step-ms", "20", "--max-num-seqs", "1")
    with open_stream(simulator, max_tokens=500) as first:
        assert first.recv(4096)
        wait_until(lambda: simulator.control()["engine"]["running"] == 1)
        with open_stream(simulator, max_tokens=500):
            wait_until(lambda: simulator.control()["engine"]["waiting"] == 1)
        wait_until(lambda: simulator.control()["engine"]["waiting"] == 0)
        assert simulator.control()["requests"]["in_flight"] == 1


# With so long a name every event weighs 8 kB: a stream is more than the kernel's buffers hold.
HEAVY = (
    "--input-ms",
    "0",
    "--decode-step-ms",
    "0.5",
    "--decode-step-ms-per-request",
    "0",
    "--served-model-name",
    "m" * 8000,
)


def test_a_client_that_does_not_read_holds_up_nobody_and_costs_little(launch: Callable[..., Simulator]) -> None:
    simulator = launch(*HEAVY)
    before = simulator.metrics()["process_resident_memory_bytes"]
    stuck = [open_stream(simulator, max_tokens=1000) for _ in range(8)]
    try:
        assert simulator.ask("How long is the warranty?")["choices"][0]["finish_reason"] == "stop"
        wait_until(lambda: simulator.control()["engine"]["running"] == 0)
        assert simulator.control()["requests"]["in_flight"] == 8  # the engine is done with them, the clients are not
        assert simulator.control()["engine"]["kv_blocks_used"] == 0
        grown = simulator.metrics()["process_resident_memory_bytes"] - before
        assert grown < 16_000_000  # unread, the eight streams weigh 64 MB
        assert simulator.ask("How long is the warranty?")["choices"][0]["finish_reason"] == "stop"
    finally:
        for sock in stuck:
            sock.close()
    wait_until(lambda: simulator.control()["requests"]["in_flight"] == 0)


def test_a_slow_reader_gets_everything_in_the_end(launch: Callable[..., Simulator]) -> None:
    simulator = launch(*HEAVY)
    with open_stream(simulator, max_tokens=1000, messages=[{"role": "user", "content": "Hello"}]) as sock:
        wait_until(lambda: simulator.control()["engine"]["running"] == 1)
        wait_until(lambda: simulator.control()["engine"]["running"] == 0)
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            part = sock.recv(1 << 20)
            assert part
            data += part
    position, parts = data.index(b"\r\n\r\n") + 4, []
    while size := int(data[position : (end := data.index(b"\r\n", position))], 16):
        parts.append(data[end + 2 : end + 2 + size])
        position = end + size + 4
    body = b"".join(parts)
    chunks = [json.loads(event[6:]) for event in body.split(b"\n\n")[:-2]]
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert len(chunks) < 1000  # what had piled up came together
    assert len(tokens.split(text)) == 1000
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_more_requests_than_allowed_are_refused_and_counted(launch: Callable[..., Simulator]) -> None:
    simulator = launch("--input-ms", "0", "--decode-step-ms", "20", "--max-num-queued-reqs", "3")
    streams = [open_stream(simulator, max_tokens=200) for _ in range(3)]
    try:
        wait_until(lambda: simulator.control()["requests"]["in_flight"] == 3)
        status, raw = simulator.request("POST", "/v1/chat/completions", {"messages": REFUND})
        assert status == 503
        assert json.loads(raw)["error"]["type"] == "ServiceUnavailableError"
        metrics = simulator.metrics()
        assert metrics['vllm:admission_rejections_total{model_name="tiny",reason="max_num_queued_reqs"}'] == 1
        assert metrics['http_requests_total{handler="/v1/chat/completions",method="POST",status="5xx"}'] == 1
    finally:
        for sock in streams:
            sock.close()


def test_preemption_under_memory_pressure_reaches_the_metrics(launch: Callable[..., Simulator]) -> None:
    simulator = launch(
        "--input-ms", "0", "--decode-step-ms", "0.5", "--num-gpu-blocks-override", "30", "--max-model-len", "400"
    )  # fmt: skip
    streams = [open_stream(simulator, max_tokens=300) for _ in range(3)]
    try:
        for sock in streams:
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                data += sock.recv(65536)
            assert b'"finish_reason":"length"' in data
    finally:
        for sock in streams:
            sock.close()
    metrics = simulator.metrics()
    assert metrics['vllm:num_preemptions_total{engine="0",model_name="tiny"}'] > 0
    assert metrics['vllm:generation_tokens_total{engine="0",model_name="tiny"}'] == 900
    assert metrics['vllm:kv_cache_usage_perc{engine="0",model_name="tiny"}'] == 0


def test_nothing_that_was_sent_made_the_server_stumble(simulator: Simulator) -> None:
    """The server of this module has had all the nonsense above; it must not have been an internal error to it."""
    assert simulator.process.poll() is None
    assert not [name for name in simulator.metrics() if 'status="5xx"' in name]
