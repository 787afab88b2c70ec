"""Server-sent events: the standard's rules hold wherever the network cuts the bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.loadtest.sse import MAX_EVENT, Event, EventStream, EventTooLargeError


def parse(*chunks: bytes) -> list[Event]:
    stream = EventStream()
    return [event for chunk in chunks for event in stream.feed(chunk)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: a\n\n", [("a", "message", "")]),
        ("data:a\n\n", [("a", "message", "")]),
        ("data:  a\n\n", [(" a", "message", "")]),
        ("data: a\ndata: b\n\n", [("a\nb", "message", "")]),
        ("data\n\n", [("", "message", "")]),
        ("data\ndata\n\n", [("\n", "message", "")]),
        ("data:\n\n", [("", "message", "")]),
        (": comment\n\n", []),
        (":\n\ndata: x\n\n", [("x", "message", "")]),
        ("event: error\ndata: x\n\ndata: y\n\n", [("x", "error", ""), ("y", "message", "")]),
        ("event: lost\n\ndata: x\n\n", [("x", "message", "")]),
        (
            "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
            [("a", "message", "1"), ("b", "message", "1"), ("c", "message", "")],
        ),
        ("id: a\0b\ndata: x\n\n", [("x", "message", "")]),
        ("retry: 100\nfoo: bar\ndatax: no\ndata: x\n\n", [("x", "message", "")]),
        ("data: x", []),
        ("data: x\n", []),
        ("data: a\r\n\r\ndata: b\r\rdata: c\n\n", [("a", "message", ""), ("b", "message", ""), ("c", "message", "")]),
        ("data: a\r\ndata: b\r\n\r\n", [("a\nb", "message", "")]),
        ("data: a\r\n\n", [("a", "message", "")]),
        ("\ufeffdata: x\n\n", [("x", "message", "")]),
        ("data: x\n\n\ufeffdata: y\n\n", [("x", "message", "")]),
        ("data: 배송은 사흘 걸립니다 🚚\n\n", [("배송은 사흘 걸립니다 🚚", "message", "")]),
        ("data: a:b: c\n\n", [("a:b: c", "message", "")]),
        ("\n\n\ndata: x\n\n", [("x", "message", "")]),
        ("data: a\n\ndata: b\n\n", [("a", "message", ""), ("b", "message", "")]),
    ],
)
def test_rules_of_the_standard_hold_at_every_cut(text: str, expected: list[tuple[str, str, str]]) -> None:
    raw = text.encode()
    wanted = [Event(data.encode(), kind.encode(), ident.encode()) for data, kind, ident in expected]
    assert parse(raw) == wanted
    assert parse(*(raw[i : i + 1] for i in range(len(raw)))) == wanted
    for cut in range(len(raw) + 1):
        assert parse(raw[:cut], raw[cut:]) == wanted, f"cut at {cut}"


LINES = st.lists(
    st.sampled_from(
        [
            "data: 한국어",
            "data:",
            "data",
            ": c",
            "event: e",
            "id: 7",
            "",
            "",
            "retry: 1",
            "data: {}",
            "x",
            "\ufeffdata: b",
        ]
    ),
    max_size=20,
)


@given(lines=LINES, ends=st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=20, max_size=20), data=st.data())
def test_any_cutting_gives_the_same_events(lines: list[str], ends: list[str], data: st.DataObject) -> None:
    raw = "".join(line + end for line, end in zip(lines, ends, strict=False)).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert parse(*pieces) == parse(*(raw[i : i + 1] for i in range(len(raw))))


@given(st.binary(max_size=200), st.integers(0, 200))
def test_arbitrary_bytes_never_break_it(raw: bytes, cut: int) -> None:
    assert parse(raw[:cut], raw[cut:]) == parse(raw)


@pytest.mark.parametrize("piece", [b"x" * 4096, b"data: " + b"x" * 4096 + b"\n"])
def test_an_event_cannot_grow_without_bound(piece: bytes) -> None:
    stream = EventStream()
    with pytest.raises(EventTooLargeError):
        for _ in range(MAX_EVENT // 4096 + 2):
            stream.feed(piece)
