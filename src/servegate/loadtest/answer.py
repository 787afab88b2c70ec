"""What one streamed answer amounts to: fed with bytes and times, it knows tokens, gaps, and whether it is whole.

Kept free of sockets and clocks so that every way an answer can go wrong is a unit test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from servegate.loadtest.sse import EventStream, EventTooLargeError

# Reasons an engine gives for ending an answer that is not one.
_BROKEN_ENDINGS = ("abort", "error")


class Answer:
    """One chat completion as it streams in.

    Args:
        max_tokens: of the request; a server that sends far more chunks than that is cut off.

    Attributes:
        times: monotonic seconds of every chunk with non-empty content or reasoning.
        error: kind of failure seen in the stream so far, with `detail` for people.
        finish_reason, prompt_tokens, output_tokens: as the server said.
        ended: `[DONE]` was seen.
    """

    def __init__(self, max_tokens: int) -> None:
        self._stream = EventStream()
        self._max_chunks = 10 * max_tokens + 1000
        self._events = 0
        self.times: list[float] = []
        self.error: str | None = None
        self.detail = ""
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.ended = False

    def feed(self, data: bytes, now: float) -> bool:
        """Take bytes of the body that arrived at `now` (monotonic seconds); whether more is wanted."""
        try:
            events = self._stream.feed(data)
        except EventTooLargeError as error:
            return self._fail("protocol", str(error))
        for event in events:
            if self.ended or self.error:
                break
            self._events += 1
            if self._events > self._max_chunks:
                self._fail("protocol", f"more than {self._max_chunks} events for one answer")
            elif event.type == b"error":
                self._fail("stream_error", _shown(event.data))
            elif event.data == b"[DONE]":
                self.ended = True
            else:
                self._chunk(event.data, now)
        return not self.error

    @property
    def whole(self) -> bool:
        """All that matters to a user has arrived, even if the connection was not ended properly after it."""
        return self.ended and not self.error and self.finish_reason not in (None, *_BROKEN_ENDINGS)

    def close(self) -> None:
        """The body ended: an answer without a reason for its end is not whole."""
        if self.error:
            return
        if self.finish_reason in _BROKEN_ENDINGS:
            self._fail("stream_error", f"the engine ended the answer with finish_reason {self.finish_reason}")
        elif self.finish_reason is None:
            self._fail("truncated", "the stream ended without a finish_reason")

    def _chunk(self, data: bytes, now: float) -> None:
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            self._fail("protocol", f"not JSON: {_shown(data)}")
            return
        if not isinstance(chunk, dict):
            self._fail("protocol", f"not a chunk: {_shown(data)}")
            return
        if chunk.get("error"):
            self._fail("stream_error", _shown(data))
            return
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)
            self.output_tokens = _count(usage.get("completion_tokens"), self.output_tokens)
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            self._fail("protocol", f"a chunk without choices: {_shown(data)}")
            return
        for choice in choices:
            if not isinstance(choice, dict):
                self._fail("protocol", f"not a choice: {_shown(data)}")
                return
            delta = choice.get("delta")
            if isinstance(delta, dict) and (
                delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
            ):
                self.times.append(now)
            reason = choice.get("finish_reason")
            if isinstance(reason, str):
                self.finish_reason = reason[:100]

    def _fail(self, kind: str, detail: str) -> bool:
        self.error, self.detail = kind, detail
        return False


@dataclass
class Outcome:
    """What became of one request. Times are monotonic seconds (`time.perf_counter`)."""

    sent: float
    done: float
    answer: Answer
    status: int | None = None
    slot: str | None = None
    error: str | None = None
    detail: str = ""
    body_bytes: int = 0


def _count(value: Any, otherwise: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else otherwise


def _shown(data: bytes) -> str:
    text = data[:200].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "�" for char in text)
