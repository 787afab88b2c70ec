"""Reading what a chat endpoint says, whole and streamed, from bytes. Pure; every problem is one sentence.

Streams follow the WHATWG HTML standard, §9.2 "Server-sent events". Bytes are split at line ends and each event is
decoded as a whole: a Korean syllable is three bytes, and where a server cuts its packets is its own affair.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from servegate.report.format import clean
from servegate.smoke.wire import Piece, Response

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Reply:
    """An answer. `arrivals`: when each chunk with text came, in seconds; empty when it was not streamed."""

    text: str
    finish_reason: str | None
    output_tokens: int | None
    model: str | None
    arrivals: tuple[float, ...] = ()


class BadReplyError(ValueError):
    """What came is no answer; the message is one sentence."""


def read_whole(response: Response) -> Reply:
    """Read an answer that was not streamed. Raises BadReplyError."""
    _expect_ok(response)
    document = _json(response.body, "the answer")
    choice = _choice(document)
    if choice is None:
        raise BadReplyError("the answer is JSON, but not a chat completion")
    message = choice.get("message")
    return Reply(
        text=_text(message if isinstance(message, dict) else {}),
        finish_reason=_string(choice.get("finish_reason")),
        output_tokens=_tokens(document),
        model=_string(document.get("model")),
    )


def read_stream(response: Response) -> Reply:
    """Read a streamed answer. Raises BadReplyError, also when the stream has no proper end."""
    _expect_ok(response)
    if "text/event-stream" not in response.content_type.lower():
        if _choice(_try_json(response.body)) is not None:
            raise BadReplyError("asked to stream, it sent the whole answer at once")
        kind = clean(response.content_type, 60) or "something without a type"
        raise BadReplyError(f"asked to stream, it sent {kind} where text/event-stream was expected")
    texts: list[str] = []
    arrivals: list[float] = []
    finish = tokens = model = None
    done = False
    for at, data in events(response.pieces):
        if done:
            raise BadReplyError("the stream goes on after [DONE]")
        if data == b"[DONE]":
            done = True
            continue
        document = _json(data, "an event of the stream")
        if not isinstance(document, dict):
            raise BadReplyError("an event of the stream is no object")
        if "error" in document:
            raise BadReplyError(f"the stream carried an error: {_message(document)}")
        tokens = _tokens(document) if tokens is None else tokens
        model = _string(document.get("model")) or model
        choice = _choice(document)
        if choice is None:
            continue
        delta = choice.get("delta")
        text = _text(delta if isinstance(delta, dict) else {})
        if text:
            texts.append(text)
            arrivals.append(at)
        finish = _string(choice.get("finish_reason")) or finish
    if not done:
        what = f"after {len(texts)} chunks of text" if texts else "before any text"
        raise BadReplyError(f"the stream ended {what} without [DONE]")
    return Reply("".join(texts), finish, tokens, model, tuple(arrivals))


def events(pieces: Iterable[Piece]) -> Iterator[tuple[float, bytes]]:
    """Data of each event, and when it was complete. An event that the end cuts off is dropped, as the standard says."""
    rest = b""
    held_back: list[bytes] = []
    data: list[bytes] = []
    first = True
    for piece in pieces:
        held_back.append(piece.data)
        if not first and b"\n" not in piece.data and b"\r" not in piece.data and not rest.endswith(b"\r"):
            continue  # a line that comes byte by byte must not cost its length each time
        rest += b"".join(held_back)
        held_back = []
        if first:
            if len(rest) < len(_BOM) and _BOM.startswith(rest):
                continue
            first, rest = False, rest.removeprefix(_BOM)
        # A CR at the very end may be the first half of CRLF: it waits for the next piece.
        held = b"\r" if rest.endswith(b"\r") else b""
        whole = rest[: len(rest) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = whole.split(b"\n")
        rest += held
        for line in lines:
            if not line:
                if data:
                    yield piece.at, b"\n".join(data)
                data = []
            elif line == b"data" or line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))


def bursts(arrivals: Iterable[float], gap: float) -> int:
    """How many groups the arrivals form when those less than `gap` seconds apart belong together."""
    count, last = 0, float("-inf")
    for at in arrivals:
        count += at - last >= gap
        last = at
    return count


def refusal(response: Response) -> str:
    """What a response that is not 200 says, for a sentence."""
    document = _try_json(response.body)
    said = _message(document) if isinstance(document, dict) else ""
    return f"HTTP {response.status}" + (f" ({said})" if said else "")


def _expect_ok(response: Response) -> None:
    if response.status != 200:
        raise BadReplyError(f"the answer is {refusal(response)}")


def _json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadReplyError(f"{what} is not UTF-8: byte 0x{data[error.start]:02x} at {error.start}") from error
    except (ValueError, RecursionError) as error:
        kind = "HTML" if data.lstrip()[:1] == b"<" else "not JSON"
        raise BadReplyError(f"{what} is {kind}: {clean(data[:60].decode('utf-8', 'replace'))}") from error


def _try_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):  # whoever asks says what the answer is instead
        return None


def _choice(document: Any) -> dict[str, Any] | None:
    choices = document.get("choices") if isinstance(document, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


def _text(message: dict[str, Any]) -> str:
    """Content, and what a reasoning model says before it: either shows that tokens come."""
    parts = (message.get("reasoning"), message.get("reasoning_content"), message.get("content"))
    return "".join(part for part in parts if isinstance(part, str))


def _tokens(document: dict[str, Any]) -> int | None:
    usage = document.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _message(document: dict[str, Any]) -> str:
    error = document.get("error")
    said = error.get("message") if isinstance(error, dict) else error or document.get("message")
    return clean(said, 120) if isinstance(said, str) else ""


def _string(value: Any) -> str | None:
    return clean(value, 200) if isinstance(value, str) else None
