"""The checks, in order: what must hold before anybody measures quality or sends traffic.

Each is a function that returns one sentence about what it saw or raises `FailedError` with one. They ask in Korean,
because that is where streams break: a server or proxy that cuts text inside a character shows it here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from servegate.endpoint import EndpointFacts
from servegate.errors import InfrastructureError
from servegate.report.format import plural
from servegate.smoke.chat import BadReplyError, Reply, bursts, read_stream, read_whole, refusal
from servegate.smoke.wire import NobodyThereError, Response, Wire, WiredEndpoint

QUESTION = "배송은 보통 며칠 걸리나요? 자세히 설명해 주세요."
MAX_TOKENS = 48
CUT_AT = 2
ATTEMPTS = 3
GAP = 0.0005
"""Seconds. Chunks of a proxy's buffer are read well under 0.1 ms apart; no engine makes tokens that fast."""


class FailedError(Exception):
    """A check failed; the message is one sentence."""


@dataclass
class Subject:
    """What the checks look at, and what earlier ones learned.

    Args:
        wire: asks the endpoint.
        expect_model: name that must be served; None: the only one there is.
        expect_version: engine version that must run; None: any.
    """

    wire: Wire
    expect_model: str | None
    expect_version: str | None
    facts: EndpointFacts | None = None
    plain: Reply | None = None
    asked: dict[str, Any] = field(default_factory=dict)

    def chat(self, **more: Any) -> Response:
        """Send the question."""
        body = {
            "model": self.facts.model if self.facts else self.expect_model,
            "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0,
            "seed": 1,
            "max_tokens": MAX_TOKENS,
            **more,
        }
        return self.wire.send("POST", "/v1/chat/completions", json.dumps(body).encode())


def up(subject: Subject) -> str:
    """Somebody is there and says it is healthy."""
    response = subject.wire.send("GET", "/health")
    if response.status == 404:
        # Not every OpenAI-compatible server has /health; listing models is the next best sign of life.
        response = subject.wire.send("GET", "/v1/models")
        if response.status == 200:
            return "there is no /health, but /v1/models answers"
    if response.status != 200:
        raise FailedError(f"/health answers {refusal(response)}")
    return "/health answers 200"


def release(subject: Subject) -> str:
    """It serves the model, and runs the engine, that it should."""
    endpoint = subject.wire.endpoint
    wired = WiredEndpoint(endpoint.url, subject.expect_model, endpoint.api_key, wire=subject.wire)
    facts = wired.describe()
    expected = subject.expect_version
    if expected is not None and facts.version != expected:
        found = f"runs engine version {facts.version}" if facts.version else "does not say its engine version"
        raise FailedError(f"{endpoint.url} {found}; expected is {expected}")
    subject.facts = facts
    return f"serves {facts.model}" + (f" on engine version {facts.version}" if facts.version else "")


def answers(subject: Subject) -> str:
    """It answers a question whole, with a finish reason and usage."""
    reply = read_whole(subject.chat())
    _complete(reply)
    served = subject.facts.model if subject.facts else None
    if reply.model is not None and served is not None and reply.model != served:
        raise FailedError(f"asked for model {served}, it answers as {reply.model}")
    subject.plain = reply
    return f"answered {reply.output_tokens} tokens, finish_reason {reply.finish_reason}"


def streams(subject: Subject) -> str:
    """It streams piece by piece, to a proper end, with no character broken on the way."""
    seen = 0
    for _ in range(ATTEMPTS):
        reply = read_stream(subject.chat(stream=True, stream_options={"include_usage": True}))
        _complete(reply)
        whole = subject.plain.text if subject.plain else ""
        if "\ufffd" in reply.text and "\ufffd" not in whole:
            raise FailedError("the streamed answer has broken characters (U+FFFD), the whole one has none")
        chunks = len(reply.arrivals)
        seen = max(seen, bursts(reply.arrivals, GAP))
        # A busy client may find several chunks waiting, so the bar is low; a buffering proxy makes one burst of all.
        if seen >= max(2, chunks // 8):
            return f"streamed {chunks} chunks in {seen} bursts, [DONE], finish_reason {reply.finish_reason}, usage"
    if chunks < 2:
        raise FailedError("asked to stream, it sent the whole answer in one chunk")
    raise FailedError(f"{chunks} chunks arrived in {plural(seen, 'burst')}: something on the way buffers the stream")


def stops(subject: Subject) -> str:
    """It stops where it is told: at max_tokens, and at a stop sequence."""
    cut = read_whole(subject.chat(max_tokens=CUT_AT))
    if cut.output_tokens is None:
        raise FailedError("the answer has no usage")
    if cut.output_tokens > CUT_AT:
        raise FailedError(f"asked for at most {CUT_AT} tokens, it answered {cut.output_tokens}")
    if cut.finish_reason != "length" and cut.output_tokens == CUT_AT:
        raise FailedError(f"cut off at max_tokens, the finish_reason is {cut.finish_reason} instead of length")
    mark = stop_mark(subject.plain.text if subject.plain else "")
    stopped = read_whole(subject.chat(stop=[mark]))
    if mark in stopped.text:
        raise FailedError(f"asked to stop at {mark!r}, it went on")
    if stopped.finish_reason != "stop":
        raise FailedError(f"asked to stop at {mark!r}, the finish_reason is {stopped.finish_reason} instead of stop")
    return f"stops at max_tokens {CUT_AT} (length) and at a stop sequence (stop)"


def rejects(subject: Subject) -> str:
    """It refuses nonsense with 4xx, and survives it."""
    path = "/v1/chat/completions"
    malformed = subject.wire.send("POST", path, b'{"model": "x", "messages": [')
    if not 400 <= malformed.status < 500:
        raise FailedError(f"a malformed body is answered with HTTP {malformed.status} instead of 4xx")
    unknown = subject.chat(model="servegate-no-such-model")
    if not 400 <= unknown.status < 500:
        raise FailedError(f"a model that is not there is answered with HTTP {unknown.status} instead of 4xx")
    try:
        up(subject)
    except (FailedError, InfrastructureError) as error:
        raise FailedError(f"after two bad requests it is not healthy any more: {error}") from error
    return f"a malformed body gets {malformed.status}, an unknown model {unknown.status}"


CHECKS: tuple[tuple[str, Callable[[Subject], str]], ...] = (
    ("up", up),
    ("release", release),
    ("answers", answers),
    ("streams", streams),
    ("stops", stops),
    ("rejects", rejects),
)
NEEDED = frozenset({"up", "release"})
"""Checks without which the others would only fail for the same reason."""


def examine(check: Callable[[Subject], str], subject: Subject, first: bool) -> tuple[bool, str]:
    """Run one check: whether it holds, and its sentence.

    Raises:
        NobodyThereError: there is no connection at the first check; later that is a failure.
        ConfigError: the endpoint serves several models and none was named.
    """
    try:
        return True, check(subject)
    except NobodyThereError as error:
        if first:
            raise
        return False, str(error)
    except (FailedError, BadReplyError, InfrastructureError) as error:
        return False, str(error)


def stop_mark(text: str) -> str:
    """Something to stop at that the answer surely has: a blank within it, else its middle character."""
    text = text.strip()
    return " " if " " in text or not text else text[len(text) // 2]


def _complete(reply: Reply) -> None:
    if not reply.text.strip():
        raise FailedError(f"the answer is empty (finish_reason {reply.finish_reason})")
    if reply.finish_reason is None:
        raise FailedError("the answer has no finish_reason")
    if reply.output_tokens is None:
        raise FailedError("the answer has no usage")
