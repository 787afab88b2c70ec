"""Reading answers from bytes, however they were cut, and however wrong they are."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.smoke.chat import BadReplyError, bursts, events, read_stream, read_whole
from servegate.smoke.wire import Piece, Response

KOREAN = "배송은 영업일 기준 3일이 걸립니다."


def chunk(text: str = "", finish: str | None = None) -> bytes:
    document = {"model": "m", "choices": [{"delta": {"content": text}, "finish_reason": finish}]}
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 5}}\n\n'
DONE = b"data: [DONE]\n\n"
GOOD = b"".join(map(chunk, KOREAN)) + chunk("", "stop") + USAGE + DONE


def stream(*pieces: bytes, kind: str = "text/event-stream; charset=utf-8", status: int = 200) -> Response:
    return Response(status, kind, tuple(Piece(float(at), data) for at, data in enumerate(pieces)))


@given(st.lists(st.integers(0, len(GOOD)), max_size=40).map(lambda cuts: sorted({0, *cuts, len(GOOD)})))
def test_however_the_bytes_are_cut_the_answer_is_the_same(cuts: list[int]) -> None:
    reply = read_stream(stream(*(GOOD[start:end] for start, end in pairwise(cuts))))
    assert (reply.text, reply.finish_reason, reply.output_tokens, reply.model) == (KOREAN, "stop", 5, "m")
    assert len(reply.arrivals) == len(KOREAN)
    assert list(reply.arrivals) == sorted(reply.arrivals)


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n"]), min_size=1), st.integers(1, 7))
def test_any_line_ends_and_comments(ends: list[bytes], size: int) -> None:
    lines = [b"\xef\xbb\xbf: a comment", b"event: x", b"data: 1", b"data:2", b"", b"id: 7", b"data: \xed\x95\x9c", b""]
    raw = b"".join(line + ends[index % len(ends)] for index, line in enumerate(lines))
    # A line that ends in CR may go on with LF, so something must follow it.
    raw += b": the end\n"
    pieces = [Piece(0, raw[start : start + size]) for start in range(0, len(raw), size)]
    # An empty line after CR: the LF of the next end would join it. Only unmixed ends are unambiguous.
    if len(set(ends)) == 1:
        assert [data for _, data in events(pieces)] == [b"1\n2", "한".encode()]
    else:
        assert [data for _, data in events(pieces)] == [data for _, data in events([Piece(0, raw)])]


def test_a_line_without_end_that_comes_byte_by_byte_is_read_in_time() -> None:
    pieces = tuple(Piece(0, b"x") for _ in range(300_000))
    assert list(events((*pieces, Piece(1, b"\ndata: y\n\n")))) == [(1, b"y")]


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (stream(b'{"error": {"message": "no\x1b"}}'.replace(b"\x1b", b"\\u001b"), status=500), "HTTP 500 (no"),
        (stream(b"<html>", kind="text/html"), "it sent text/html where text/event-stream was expected"),
        (stream(b"x", kind=""), "it sent something without a type"),
        (
            stream(b'{"choices": [{"message": {"content": "x"}}]}', kind="application/json"),
            "it sent the whole answer at once",
        ),
        (stream(b"data: {oops}\n\n" + DONE), "an event of the stream is not JSON: {oops}"),
        (stream(b"data: <html>\n\n" + DONE), "an event of the stream is HTML"),
        (stream(b"data: 7\n\n" + DONE), "an event of the stream is no object"),
        (stream(b"data: \xed\x95\n\n" + DONE), "an event of the stream is not UTF-8: byte 0xed at 0"),
        (stream(b'data: {"error": {"message": "engine died"}}\n\n'), "carried an error: engine died"),
        (stream(chunk("a") + chunk("b")), "ended after 2 chunks of text without [DONE]"),
        (stream(), "ended before any text without [DONE]"),
        (stream(DONE + chunk("a")), "goes on after [DONE]"),
    ],
)
def test_a_stream_that_is_none_says_why(response: Response, sentence: str) -> None:
    with pytest.raises(BadReplyError) as caught:
        read_stream(response)
    assert sentence in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"<html>log in</html>", "the answer is HTML: <html>log in</html>"),
        (b"", "the answer is not JSON"),
        (b"\xff", "the answer is not UTF-8"),
        (b"[" * 100_000, "the answer is not JSON"),
        (b"[]", "not a chat completion"),
        (b'{"choices": {}}', "not a chat completion"),
    ],
)
def test_a_whole_answer_that_is_none_says_why(body: bytes, sentence: str) -> None:
    with pytest.raises(BadReplyError, match=sentence):
        read_whole(stream(body, kind="application/json"))


def test_odd_but_readable_answers() -> None:
    body = {
        "choices": [{"message": {"content": None, "reasoning": "hm"}, "finish_reason": 3}],
        "usage": {"completion_tokens": True},
    }
    reply = read_whole(stream(json.dumps(body).encode()))
    assert (reply.text, reply.finish_reason, reply.output_tokens) == ("hm", None, None)


def test_bursts() -> None:
    assert bursts([], 0.1) == 0
    assert bursts([1.0, 1.01, 1.02, 2.0, 2.05, 3.0], 0.1) == 3
