"""An answer is whole, or it is known how it broke."""

from __future__ import annotations

import json
from typing import Any

import pytest

from servegate.loadtest.answer import Answer


def chunk(content: Any = None, finish: str | None = None, **delta: Any) -> bytes:
    body = {"choices": [{"index": 0, "delta": {"content": content, **delta}, "finish_reason": finish}]}
    return sse(json.dumps(body, ensure_ascii=False))


def sse(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


USAGE = sse('{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}')
DONE = sse("[DONE]")


def fed(*pieces: bytes, max_tokens: int = 10) -> Answer:
    answer = Answer(max_tokens)
    for number, piece in enumerate(pieces):
        if not answer.feed(piece, float(number)):
            break
    answer.close()
    return answer


def test_a_whole_answer_with_usage() -> None:
    answer = fed(chunk(""), chunk("안"), chunk("녕", "stop"), USAGE, DONE)
    assert (answer.error, answer.times, answer.finish_reason) == (None, [1.0, 2.0], "stop")
    assert (answer.prompt_tokens, answer.output_tokens, answer.ended, answer.whole) == (9, 3, True, True)


def test_the_first_token_is_the_first_content_not_the_first_chunk() -> None:
    assert fed(chunk("", role="assistant"), chunk(None), chunk("a"), chunk("b", "stop"), DONE).times == [2.0, 3.0]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_output_too(field: str) -> None:
    assert fed(chunk(None, **{field: "hm"}), chunk("a", "stop"), DONE).times == [0.0, 1.0]


def test_chunks_of_one_read_share_its_time() -> None:
    assert fed(chunk("a") + chunk("b", "length") + DONE).times == [0.0, 0.0]


def test_a_clean_end_without_done_is_whole_enough() -> None:
    answer = fed(chunk("a", "stop"))
    assert (answer.error, answer.whole) == (None, False)


def test_an_answer_without_content_is_whole() -> None:
    assert fed(chunk("", "stop"), DONE).error is None


@pytest.mark.parametrize(
    ("pieces", "kind", "said"),
    [
        ([chunk("a")], "truncated", "finish_reason"),
        ([], "truncated", "finish_reason"),
        ([chunk("a"), DONE], "truncated", "finish_reason"),
        ([chunk("a", "abort"), DONE], "stream_error", "abort"),
        ([chunk("a"), sse('{"error":{"message":"out of memory","code":500}}')], "stream_error", "out of memory"),
        ([chunk("a"), b"event: error\ndata: overloaded\n\n"], "stream_error", "overloaded"),
        ([sse("<html>")], "protocol", "<html>"),
        ([sse("[1]")], "protocol", "not a chunk"),
        ([sse("{}")], "protocol", "without choices"),
        ([sse('{"choices":[1]}')], "protocol", "not a choice"),
        ([sse('{"choices":[{"delta":{"content":"\\ud800"}}]}')], "protocol", "not JSON"),
        ([b"data: \xff\xfe\n\n"], "protocol", "not JSON"),
        ([b"x" * 2_000_000], "protocol", "more than"),
        ([chunk("a") * 1101], "protocol", "more than 1100 events"),
    ],
)
def test_how_it_broke(pieces: list[bytes], kind: str, said: str) -> None:
    answer = fed(*pieces)
    assert answer.error == kind
    assert said in answer.detail
    assert answer.detail.isprintable()
    assert not answer.whole


@pytest.mark.parametrize(
    "usage", ['{"completion_tokens":-1}', '{"completion_tokens":true}', '{"completion_tokens":"9"}', "7"]
)
def test_nonsense_in_usage_is_no_count(usage: str) -> None:
    assert fed(chunk("a", "stop"), sse(f'{{"choices":[],"usage":{usage}}}'), DONE).output_tokens is None


def test_what_follows_done_is_ignored() -> None:
    assert fed(chunk("a", "stop"), DONE + chunk("b")).times == [0.0]
