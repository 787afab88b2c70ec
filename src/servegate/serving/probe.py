"""Questions to the engine in the same container: how many requests are in flight, and is it healthy?"""

from __future__ import annotations

import http.client
import re
import ssl
from dataclasses import dataclass

_IN_FLIGHT = re.compile(rb"^vllm:num_requests_(?:running|waiting)\{[^}\n]*\}\s+([0-9.eE+]+)\s*$", re.MULTILINE)
_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """What it said: requests running or waiting (None: it did not say), and whether anybody listens."""

    in_flight: int | None
    listening: bool


def in_flight(port: int, tls: bool, timeout: float = 2.0) -> Answer:
    """Requests in flight, from the engine's own metrics."""
    try:
        status, body = get(port, tls, "/metrics", timeout)
    except ConnectionRefusedError:
        return Answer(None, listening=False)
    except (OSError, http.client.HTTPException):  # somebody is there, too busy to say
        return Answer(None, listening=True)
    found = _IN_FLIGHT.findall(body) if status == 200 else []
    return Answer(round(sum(float(value) for value in found)) if found else None, listening=True)


def get(port: int, tls: bool, path: str, timeout: float) -> tuple[int, bytes]:
    """GET from the engine: status and body.

    Raises:
        OSError, http.client.HTTPException: no answer.
    """
    if tls:
        # The certificate is for the service's name, not for the loopback address; nothing secret is sent.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=timeout, context=context
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(_MAX_BYTES)
    finally:
        connection.close()
