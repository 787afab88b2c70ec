"""The thing under test: a URL that speaks the OpenAI API, and what it says about itself.

Asked once before anything is measured, so that a wrong address, a wrong model or a login page ends with one clear
message instead of a thousand failed requests.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field

from servegate.contract import Contract
from servegate.errors import ConfigError, InfrastructureError

if TYPE_CHECKING:  # a gate reads facts about endpoints and asks none: it does not wait for this import
    import urllib3

MAX_BODY = 8 * 1024 * 1024


class EndpointFacts(Contract):
    """What an endpoint says of itself."""

    url: str
    model: str | None = None
    version: str | None = Field(None, description="of the engine, from /version")
    max_model_len: Annotated[int, Field(ge=0, description="tokens")] | None = None


@dataclass(frozen=True)
class Endpoint:
    """Address of an OpenAI-compatible server.

    Args:
        url: base URL without `/v1`, such as http://127.0.0.1:8000.
        model: name to put into requests; None: the only one the server has.
        api_key: sent as bearer token; never printed.
    """

    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            valid = False
        if not valid:
            raise ConfigError(f"{self.url!r} is not the URL of an endpoint; expected such as http://127.0.0.1:8000")
        object.__setattr__(self, "url", self.url.rstrip("/").removesuffix("/v1"))

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def get(self, path: str, timeout: float = 5.0) -> tuple[int, bytes]:
        """GET a path under the URL; (status, body).

        Raises:
            InfrastructureError: no connection, no answer in time, or a body without end.
        """
        return request("GET", self.url + path, headers=self.headers, timeout=timeout)

    def get_json(self, path: str, timeout: float = 5.0) -> Any:
        """GET a JSON document.

        Raises:
            InfrastructureError: no answer, a status other than 200, or something that is not JSON.
        """
        status, body = self.get(path, timeout)
        if status != 200:
            raise InfrastructureError(f"{self.url}{path} answered HTTP {status}")
        try:
            return json.loads(body)
        except ValueError as error:
            kind = "HTML" if body.lstrip()[:1] == b"<" else "something else"
            raise InfrastructureError(
                f"{self.url}{path} answered {kind} where JSON was expected: is this the right address?"
            ) from error

    def describe(self, timeout: float = 5.0) -> EndpointFacts:
        """Ask `/v1/models` and `/version`.

        Returns:
            Facts, with the model that will be used.

        Raises:
            InfrastructureError: nobody there, not an OpenAI-compatible server, or it serves other models.
        """
        listing = self.get_json("/v1/models", timeout)
        data = listing.get("data") if isinstance(listing, dict) else None
        models = (
            [item for item in data if isinstance(item, dict) and isinstance(item.get("id"), str)]
            if isinstance(data, list)
            else []
        )
        if not models:
            raise InfrastructureError(f"{self.url}/v1/models lists no model: is this an OpenAI-compatible server?")
        names = [str(item["id"]) for item in models]
        if self.model is None and len(names) > 1:
            raise ConfigError(f"{self.url} serves several models; name one of {', '.join(names[:10])}")
        name = self.model or names[0]
        if name not in names:
            raise InfrastructureError(f"{self.url} does not serve model {name!r}; it serves {', '.join(names[:10])}")
        length = next(item for item in models if item["id"] == name).get("max_model_len")
        try:
            version = self.get_json("/version", timeout)
        except InfrastructureError:  # not every server has it
            version = None
        return EndpointFacts(
            url=self.url,
            model=name,
            version=str(version["version"])[:100] if isinstance(version, dict) and "version" in version else None,
            max_model_len=length if isinstance(length, int) and not isinstance(length, bool) and length >= 0 else None,
        )


def request(
    method: str, url: str, *, body: bytes | None = None, headers: dict[str, str] | None = None, timeout: float = 5.0
) -> tuple[int, bytes]:
    """One HTTP request without retries; (status, body).

    Raises:
        InfrastructureError: no connection, no answer in time, a broken answer, or a body over 8 MiB.
    """
    import urllib3

    try:
        response = urllib3.request(
            method,
            url,
            body=body,
            headers=headers,
            timeout=timeout,
            retries=False,
            redirect=False,
            preload_content=False,
        )
        try:
            content = _read(response, time.monotonic() + timeout)
        finally:
            response.close()
    except urllib3.exceptions.HTTPError as error:
        raise InfrastructureError(f"{url}: {_reason(error)}") from error
    if len(content) > MAX_BODY:
        raise InfrastructureError(f"{url}: the answer is larger than {MAX_BODY} bytes")
    return response.status, content


def _read(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """The body, at most one byte over the limit; the socket's timeout bounds a silence, the deadline bounds a drip."""
    import urllib3

    content = bytearray()
    while len(content) <= MAX_BODY and (part := response.read1(MAX_BODY + 1 - len(content))):
        content += part
        if time.monotonic() > deadline:
            raise urllib3.exceptions.TimeoutError("no complete answer in time")
    return bytes(content)


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    import urllib3

    if isinstance(error, urllib3.exceptions.NewConnectionError):  # before its parent, a time-out
        return f"cannot connect: {str(error).rsplit(': ', 1)[-1]}"
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.ReadTimeoutError):
        return "no answer in time"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "the connection was closed before the answer was complete"
    return str(error)
