"""One question over the OpenAI API: an answer, or why there is none.

The client is OpenAI's own, as most of the users' applications have it; its retries cover what is the infrastructure's
fault (no connection, 408, 409, 429, 5xx) and never ask again for an answer that was given. What comes back is read
as bytes and checked here: a proxy's login page with status 200 is no answer, and a body without end is cut off.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from servegate.endpoint import Endpoint
from servegate.errors import InfrastructureError
from servegate.report.format import clean

if TYPE_CHECKING:
    import openai

LARGEST_BODY = 4 * 1024 * 1024
# The request itself was refused: the endpoint works, another question may fare better.
_REFUSED = frozenset({400, 413, 422})


@dataclass(frozen=True)
class Answer:
    """What a model said. Latency in seconds; None when it includes a retry and so is not the answer's own."""

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    latency: float | None


@dataclass(frozen=True)
class Failure:
    """No answer. `endpoint_at_fault`: the next question will probably get none either."""

    error: str
    endpoint_at_fault: bool


def client_version() -> str:
    """Name and version of the client. Raises InfrastructureError when it is not installed."""
    try:
        import openai
    except ImportError as error:
        raise InfrastructureError("evals need the openai client: pip install 'servegate[evals]'") from error
    return f"openai {openai.__version__}"


class Client:
    """Asks one endpoint. Use it as an asynchronous context manager.

    Args:
        endpoint: what to ask.
        model: name in the request.
        timeout: seconds for one answer, with its retries.
        retries: how often the client tries again.
        concurrency: connections that are kept.
    """

    def __init__(self, endpoint: Endpoint, model: str, timeout: float, retries: int, concurrency: int) -> None:
        import openai

        self._openai = openai
        self._model = model
        self._timeout = timeout
        self._client = openai.AsyncOpenAI(
            base_url=f"{endpoint.url}/v1",
            api_key=endpoint.api_key or "none",
            timeout=timeout,
            max_retries=retries,
            default_headers={"Accept-Encoding": "identity"},
            http_client=_bounded_client(timeout, concurrency),
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(
        self, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> Answer | Failure:
        """Ask once. Everything that can go wrong on the way is a Failure, not an exception.

        Args:
            messages: the conversation.
            parameters: temperature, max_tokens, seed.
            extra: fields of the body that the client's signature does not know.
        """
        body: dict[str, Any] = {"model": self._model, "messages": list(messages), **parameters}
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                raw = await self._client.chat.completions.with_raw_response.create(
                    **body, extra_body=dict(extra) or None
                )
            latency = time.monotonic() - started
            # The body was read within the timeout; this is only handed over.
            return read_answer(raw.content, latency if raw.retries_taken == 0 else None)
        except (self._openai.APITimeoutError, TimeoutError):
            return Failure(f"timeout: no answer within {self._timeout:g} s", True)
        except self._openai.APIConnectionError as error:
            return Failure(f"connect: {clean(_cause(error), 200)}", True)
        except self._openai.APIStatusError as error:
            status = error.status_code
            return Failure(f"http_{status}: {clean(error.message, 200)}", status not in _REFUSED)
        except self._openai.OpenAIError as error:
            return Failure(f"bad_answer: {clean(error, 200)}", True)
        except ValueError as error:
            return Failure(f"bad_answer: {clean(error, 200)}", True)


def read_answer(body: bytes, latency: float | None) -> Answer:
    """Read a chat completion. Raises ValueError when it is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        kind = "HTML" if body.lstrip()[:1] == b"<" else "something"
        raise ValueError(f"{kind} that is not JSON") from error
    choices = document.get("choices") if isinstance(document, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict):
        raise ValueError("JSON that is not a chat completion")
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise ValueError("a chat completion whose content is not text")
    finish = first.get("finish_reason")
    usage = document.get("usage")
    return Answer(
        # Half a surrogate pair can be written in JSON but is no text, and could not be written down.
        text=(content or "").encode("utf-8", "replace").decode("utf-8"),
        finish_reason=clean(finish, 50) if isinstance(finish, str) else None,
        prompt_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        latency=latency,
    )


def _count(usage: Any, key: str) -> int | None:
    value = usage.get(key) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _cause(error: BaseException) -> str:
    """The innermost reason: the client's own says no more than "Connection error."."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _bounded_client(timeout: float, concurrency: int) -> openai.DefaultAsyncHttpxClient:
    """The client's transport, with a bound on bodies. Raises nothing; bodies too large raise OpenAIError in `ask`."""
    import httpx2
    import openai

    class Bounded(httpx2.AsyncBaseTransport):
        def __init__(self) -> None:
            self.inner = httpx2.AsyncHTTPTransport(
                limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
            )

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await self.inner.handle_async_request(request)
            if response.headers.get("content-encoding", "identity") != "identity":
                await response.aclose()
                raise openai.OpenAIError("a compressed answer, which was not asked for")
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Bounded(response.stream)
            return response

        async def aclose(self) -> None:
            await self.inner.aclose()

    class _Bounded(httpx2.AsyncByteStream):
        def __init__(self, stream: httpx2.AsyncByteStream) -> None:
            self.stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for piece in self.stream:
                size += len(piece)
                if size > LARGEST_BODY:
                    raise openai.OpenAIError(f"an answer of more than {LARGEST_BODY} bytes")
                yield piece

        async def aclose(self) -> None:
            await self.stream.aclose()

    return openai.DefaultAsyncHttpxClient(transport=Bounded(), timeout=timeout, follow_redirects=False)
