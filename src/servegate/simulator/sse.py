"""Server-sent events in vLLM's shape, with everything that does not change rendered once per stream."""

from __future__ import annotations

from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"


class ChunkWriter:
    """Renders the events of one streamed response."""

    def __init__(self, *, chat: bool, response_id: str, model: str, created: int, prompt_tokens: int | None) -> None:
        kind = "chat.completion.chunk" if chat else "text_completion"
        head = {"id": response_id, "object": kind, "created": created, "model": model}
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":'
        self._chat = chat
        self._prompt_tokens = prompt_tokens
        self._before = self._head + (b'[{"index":0,"delta":{"content":' if chat else b'[{"index":0,"text":')
        self._between = b'},"logprobs":null,"finish_reason":' if chat else b',"logprobs":null,"finish_reason":'
        self._plain_end = self._between + (b"null}]" if chat else b'null,"stop_reason":null}]')

    def role(self) -> bytes:
        """The first event of a chat: who speaks, and nothing yet."""
        delta = b'[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        return self._head + delta + self._end(0)

    def delta(self, text: str, generated: int) -> bytes:
        """More text."""
        return self._before + orjson.dumps(text) + self._plain_end + self._end(generated)

    def finish(self, text: str, reason: str, stop_reason: str | None, generated: int) -> bytes:
        """The last text, which may be empty, and why it ends."""
        tail = orjson.dumps(reason) + b',"stop_reason":' + orjson.dumps(stop_reason) + b"}]"
        return self._before + orjson.dumps(text) + self._between + tail + self._end(generated)

    def usage(self, counts: dict[str, Any]) -> bytes:
        """The event after the last choice, if the client asked for it."""
        return self._head + b'[],"usage":' + orjson.dumps(counts) + b"}\n\n"

    def _end(self, generated: int) -> bytes:
        if self._prompt_tokens is None:
            return b"}\n\n"
        return b',"usage":' + orjson.dumps(usage(self._prompt_tokens, generated)) + b"}\n\n"


def error_event(body: bytes) -> bytes:
    """An error in the middle of a stream, when the status has long been 200."""
    return b"data: " + body + b"\n\n"


def usage(prompt_tokens: int, generated: int) -> dict[str, Any]:
    """Token counts as the protocol names them."""
    total = prompt_tokens + generated
    return {"prompt_tokens": prompt_tokens, "total_tokens": total, "completion_tokens": generated}
