"""Questions to a Prometheus (or Thanos, Mimir, VictoriaMetrics): bounded in size, never past a login page.

The client is prometheus-api-client. Its session gets what a controller needs and a notebook does not: a limit on the
body, one clear sentence instead of a stack of exceptions, secrets read anew for every request, and the difference
between the server's clock and ours.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests
import urllib3

from servegate.errors import InfrastructureError
from servegate.rollout.clocks import skew
from servegate.rollout.sources.prometheus_config import PrometheusConfig

MAX_BODY = 64 * 1024 * 1024
Matrix = list[dict[str, Any]]
"""Rows as the API gives them: {"metric": labels, "values": [[seconds, "value"], …]}."""


class PrometheusApi:
    """One Prometheus.

    Args:
        config: where it is and how to get in.
        max_body: bytes an answer may have.
        clock: seconds since the epoch, to tell the server's clock from ours.
    """

    def __init__(
        self, config: PrometheusConfig, *, max_body: int = MAX_BODY, clock: Callable[[], float] = time.time
    ) -> None:
        from prometheus_api_client import PrometheusConnect
        from urllib3.util.retry import Retry

        self.config, self.max_body, self.clock = config, max_body, clock
        self.skew: float | None = None
        """Seconds by which the server's clock was ahead of ours at the last answer; None when it does not say."""
        session = requests.Session()
        if config.ca_file is not None:
            session.verify = str(config.ca_file)
        session.hooks["response"].append(self._received)
        self._session = session
        self._connect = PrometheusConnect(
            config.url, auth=self._authorised, session=session, timeout=config.timeout, retry=Retry(0)
        )

    def instant(self, query: str, at: float) -> Matrix:
        """Evaluate at one time (seconds since the epoch).

        Raises:
            InfrastructureError: no answer, not in time, or not one of Prometheus.
        """
        # Thanos would otherwise answer with a part of the data and say so where nobody looks.
        parameters = {"time": f"{at:.3f}", "partial_response": "false"}
        return self._asked(lambda: self._connect.custom_query(query, params=parameters))

    def values(self, label: str, match: str | None = None) -> list[str]:
        """Values of a label, of all series or of those that match.

        Raises:
            InfrastructureError: as above.
        """
        parameters = {} if match is None else {"match[]": match}
        return [str(value) for value in self._asked(lambda: self._connect.get_label_values(label, params=parameters))]

    def described(self, target: Mapping[str, str], metric: str) -> list[dict[str, Any]]:
        """Targets that export `metric`, also those that have no series of it yet. Thanos and others do not know.

        Raises:
            InfrastructureError: as above.
        """
        return self._asked(lambda: self._connect.get_target_metadata(dict(target), metric))

    def close(self) -> None:
        """Give the connections back."""
        self._session.close()

    def _asked(self, question: Callable[[], Any]) -> list[Any]:
        try:
            answer = question()
        except requests.exceptions.JSONDecodeError as error:
            raise InfrastructureError("the answer is not JSON") from error
        except (KeyError, TypeError) as error:
            raise InfrastructureError("the answer is not one of Prometheus' API") from error
        except requests.exceptions.SSLError as error:
            raise InfrastructureError(f"TLS: {_innermost(error)}") from error
        except requests.exceptions.Timeout as error:
            raise InfrastructureError(f"no answer in {self.config.timeout:g} s") from error
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            # A limit that runs out while a connection is tried again comes wrapped in the error of trying.
            late = "timed out" in str(error)
            raise InfrastructureError(
                f"no answer in {self.config.timeout:g} s" if late else _innermost(error)
            ) from error
        except OSError as error:
            raise InfrastructureError(str(error)[:200]) from error
        if not isinstance(answer, list):
            raise InfrastructureError("the answer is not one of Prometheus' API")
        return answer

    def _authorised(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the secret into a request. Also without one: otherwise `requests` would look for some in ~/.netrc."""
        config = self.config
        if config.bearer_token_file is not None:
            request.headers["Authorization"] = f"Bearer {_secret(config.bearer_token_file)}"
        elif config.basic is not None:
            user, password = config.basic.username, _secret(config.basic.password_file)
            request = requests.auth.HTTPBasicAuth(user.encode(), password.encode())(request)
        return request

    def _received(self, response: requests.Response, **_: Any) -> requests.Response:
        """Look at an answer before its body is trusted; what is left of it is in memory afterwards."""
        with response:
            if response.is_redirect:
                where = response.headers.get("location", "")[:120]
                raise InfrastructureError(f"HTTP {response.status_code} to {where!r}: is this a login page's address?")
            body = self._body(response)
        self.skew = skew(response.headers.get("date"), self.clock())
        if response.status_code != 200:
            hint = "; see bearer_token_file and basic" if response.status_code in (401, 403) else ""
            raise InfrastructureError(f"HTTP {response.status_code}{_said(body)}{hint}")
        if body.lstrip()[:1] == b"<":
            raise InfrastructureError("the answer is HTML: a login page, or the address of something else")
        response.raw = io.BytesIO(body)
        return response

    def _body(self, response: requests.Response) -> bytes:
        deadline = time.monotonic() + self.config.timeout
        parts, size = [], 0
        for part in response.raw.stream(65536, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > self.max_body:
                raise InfrastructureError(f"the answer is larger than {self.max_body} bytes")
            if time.monotonic() > deadline:
                raise InfrastructureError(f"no complete answer in {self.config.timeout:g} s")
        return b"".join(parts)


def _secret(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise InfrastructureError(f"{path}: cannot be read: {why}") from error


def _said(body: bytes) -> str:
    """What Prometheus says of an error."""
    try:
        said = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):  # it said nothing; its status stands in the message
        return ""
    return f": {str(said)[:200]}"


def _innermost(error: BaseException) -> str:
    """The part of a chain of exceptions that a person can use."""
    text = str(error)
    for known, said in (("refused", "connection refused"), ("Name or service", "no such host")):
        if known in text:
            return said
    if "certificate verify failed" in text:
        return "the certificate is not trusted" + text[text.find(":", text.find("certificate verify failed")) :][:120]
    return text[:200] or type(error).__name__
