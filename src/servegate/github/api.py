"""GitHub's REST API, as far as one comment on a pull request needs it.

Requests that GitHub asks to repeat later are repeated as it documents: `retry-after`, else `x-ratelimit-reset` when
nothing remains, else a minute. https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from servegate import __version__
from servegate.errors import InfrastructureError
from servegate.report.format import clean, duration

_NEXT = re.compile(r'<([^<>]+)>\s*;\s*rel="next"')
_PAGES = 100
_TRIES = 4


class RefusedError(InfrastructureError):
    """GitHub's answer is no, with an HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @property
    def denied(self) -> bool:
        """The token may not do this, or may not even see it."""
        return self.status in (401, 403, 404)


class UnclearError(InfrastructureError):
    """No answer came: the request may have been carried out or not."""


class Client:
    """Asks GitHub; waits when told to, for no longer than its patience."""

    def __init__(
        self,
        api: str,
        graphql: str,
        token: str,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        patience: float = 120.0,
    ) -> None:
        """Prepare, without asking anything.

        Args:
            api, graphql: addresses.
            token: sent with each request, printed never.
            clock: seconds since the Unix epoch.
            patience: seconds all waiting together may take.
        """
        self._api, self._graphql, self._clock, self._sleep, self._patience = api, graphql, clock, sleep, patience
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "User-Agent": f"servegate/{__version__}",
        }
        self._pool = _pool(api)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The resource at `path`."""
        return self._ask("GET", self._address(path, query))[0]

    def pages(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
        """All items of a list, page by page.

        Raises:
            InfrastructureError: the list has no end, or leads away from the API.
        """
        address = self._address(path, {**(query or {}), "per_page": "100"})
        for _ in range(_PAGES):
            items, headers = self._ask("GET", address)
            if not isinstance(items, list):
                raise InfrastructureError(f"GitHub answered {path} with something that is no list")
            yield from (item for item in items if isinstance(item, dict))
            found = _NEXT.search(headers.get("link", ""))
            if found is None:
                return
            address = found[1]
            if urlsplit(address)[:2] != urlsplit(self._api)[:2]:
                raise InfrastructureError(f"GitHub's list at {path} goes on at another address; not followed")
        raise InfrastructureError(f"GitHub's list at {path} has more than {_PAGES} pages")

    def send(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create or change the resource at `path` and return it.

        Raises:
            UnclearError: no answer; look whether it happened before sending it again.
        """
        found, _ = self._ask(method, self._address(path), body)
        return found if isinstance(found, dict) else {}

    def viewer(self) -> int:
        """Number of the account the token acts for; also for a job's own token, which REST does not tell.

        Raises:
            InfrastructureError: GitHub does not say.
        """
        found, _ = self._ask("POST", self._graphql, {"query": "query { viewer { databaseId } }"}, repeatable=True)
        try:
            number = found["data"]["viewer"]["databaseId"]
        except (KeyError, TypeError):
            number = None
        if not isinstance(number, int):
            raise InfrastructureError("GitHub does not say whom the token belongs to")
        return number

    def _address(self, path: str, query: Mapping[str, str] | None = None) -> str:
        return f"{self._api}{path}" + (f"?{urlencode(query)}" if query else "")

    def _ask(
        self, method: str, address: str, body: Mapping[str, Any] | None = None, *, repeatable: bool = False
    ) -> tuple[Any, Mapping[str, str]]:
        """Ask until there is an answer that is one."""
        what = f"{method} {urlsplit(address).path}"
        repeatable = repeatable or method == "GET"
        for attempt in range(_TRIES):
            answer = self._once(method, address, body)
            if answer is not None and answer.status < 300:
                return _json(answer, what), _lower(answer)
            wait = None if answer is None else _asked_to_wait(answer, self._clock())
            if wait is None:
                if answer is not None and answer.status < 500:
                    raise _refusal(answer, what)
                if not repeatable or attempt == _TRIES - 1:
                    status = "no answer" if answer is None else f"status {answer.status}"
                    raise UnclearError(f"GitHub: {what}: {status}")
                wait = 2.0**attempt
            if wait > self._patience or attempt == _TRIES - 1:
                raise InfrastructureError(f"GitHub: {what}: its rate limit asks to wait {duration(wait)}")
            self._patience -= wait
            self._sleep(wait)
        raise AssertionError("unreachable")

    def _once(self, method: str, address: str, body: Mapping[str, Any] | None) -> urllib3.BaseHTTPResponse | None:
        try:
            return self._pool.request(
                method,
                address,
                body=None if body is None else json.dumps(body).encode(),
                headers=self._headers if body is None else {**self._headers, "Content-Type": "application/json"},
                timeout=urllib3.Timeout(connect=10, read=30),
                # A renamed repository redirects; everything else is decided here. To another host goes no token.
                retries=urllib3.Retry(
                    total=3, connect=0, read=0, status=0, other=0, redirect=3, respect_retry_after_header=False
                ),
            )
        except urllib3.exceptions.HTTPError:  # no answer: the caller tries again, and tells
            return None


def _pool(api: str) -> urllib3.PoolManager:
    """Through the proxy of the environment, where one is named for this address."""
    parts = urlsplit(api)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy)
    return urllib3.PoolManager()


def _asked_to_wait(answer: urllib3.BaseHTTPResponse, now: float) -> float | None:
    """Seconds GitHub asks for; None where it does not."""
    if answer.status not in (403, 429):
        return None
    headers = _lower(answer)
    after, reset = headers.get("retry-after", ""), headers.get("x-ratelimit-reset", "")
    if after.isdecimal():
        return float(after)
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal():
        return max(1.0, float(reset) - now + 1)  # their clock counts whole seconds
    return 60.0 if answer.status == 429 or b"rate limit" in answer.data.lower() else None


def _refusal(answer: urllib3.BaseHTTPResponse, what: str) -> RefusedError:
    try:
        said = json.loads(answer.data)["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        said = ""
    return RefusedError(
        f"GitHub: {what}: status {answer.status}" + (f": {clean(said, 200)}" if said else ""), answer.status
    )


def _json(answer: urllib3.BaseHTTPResponse, what: str) -> Any:
    try:
        return json.loads(answer.data) if answer.data else None
    except (ValueError, RecursionError) as error:
        raise InfrastructureError(f"GitHub: {what}: the answer is not JSON") from error


def _lower(answer: urllib3.BaseHTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}
