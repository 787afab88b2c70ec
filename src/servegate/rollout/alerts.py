"""Alertmanager's webhooks, turned into intents: the plan says what an alert does, `decide` whether it still may.

Alertmanager sends a group of alerts again and again until it is resolved. So an alert is named by its fingerprint and
its start, and one that has been acted on does nothing more. A request that could not be kept is
answered with 503: Alertmanager tries again.
"""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from servegate.errors import ConfigError, InfrastructureError
from servegate.rollout.plan import Plan
from servegate.rollout.plan_safety import AlertRule
from servegate.rollout.ports import Store

MAX_BODY = 1024 * 1024
READ_TIMEOUT = 10.0
LEAST_TOKEN = 16
"""Characters; a shorter token is refused."""


class _Sent(BaseModel):
    """Fields of the payload that are used; Alertmanager may add others."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Alert(_Sent):
    """One alert of a webhook."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str] = Field(default_factory=dict)
    starts_at: datetime = Field(alias="startsAt")
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-zA-Z_-]{1,128}$")]

    @property
    def key(self) -> str:
        """One firing of one alert: `fingerprint@start`."""
        return f"{self.fingerprint}@{self.starts_at.timestamp()}"

    @property
    def sentence(self) -> str:
        """Its name and what it says."""
        said = self.annotations.get("summary") or self.annotations.get("description") or ""
        name = self.labels.get("alertname", self.fingerprint)
        return f"{name}{': ' + said if said else ''}"[:500]


class Webhook(_Sent):
    """Alertmanager's payload, version 4 (prometheus.io, configuration: webhook_config)."""

    version: Literal["4"]
    alerts: Annotated[list[Alert], Field(max_length=1000)]


def rule_for(rules: Sequence[AlertRule], alert: Alert) -> AlertRule | None:
    """The first rule all of whose labels the alert has."""
    return next((rule for rule in rules if rule.labels.items() <= alert.labels.items()), None)


def submit(store: Store, rules: Sequence[AlertRule], webhook: Webhook, now: float) -> int:
    """Leave an intent for every alert that a rule names; how many. Raises InfrastructureError when one was not kept."""
    waiting = {(intent.kind, intent.target) for intent in store.intents()}
    left = 0
    for alert in webhook.alerts:
        rule = rule_for(rules, alert)
        if rule is None or (alert.status == "resolved" and rule.then != "freeze"):
            continue
        kind = "alert-resolved" if alert.status == "resolved" else f"alert-{rule.then}"
        if (kind, alert.key) not in waiting:
            store.submit(kind, "alertmanager", now, alert.sentence, alert.key)
            left += 1
    return left


@contextmanager
def listening(
    plan: Plan,
    store: Store,
    address: str,
    token: str,
    say: Callable[[str, str], None],
    clock: Callable[[], float] = time.time,
) -> Iterator[str]:
    """Accept webhooks at `http://address/alerts` until the context ends; yields that URL.

    Args:
        address: `host:port`; port 0 takes a free one.
        token: what Alertmanager sends as bearer token.
        say: (level, message) for people.

    Raises:
        ConfigError: the plan names no alert, or the address or the token is none.
        InfrastructureError: the port is taken.
    """
    if not plan.alerts:
        raise ConfigError(f"plan {plan.name} has no `alerts`, so webhooks would do nothing")
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(f"the token for webhooks must have at least {LEAST_TOKEN} printable ASCII characters")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{address!r} is not host:port, such as 127.0.0.1:9099")
    try:
        server = _Server((host.strip("[]"), int(port)), _Handler)
    except OSError as error:
        raise InfrastructureError(f"{address}: cannot be listened on: {error.strerror or error}") from error
    server.accept = lambda webhook: submit(store, plan.alerts, webhook, clock())
    server.token, server.say = token, say
    thread = threading.Thread(target=server.serve_forever, name="alerts", daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}/alerts"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    accept: Callable[[Webhook], int]
    say: Callable[[str, str], None]
    token: str


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = READ_TIMEOUT
    server_version = "servegate"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path == "/-/healthy":
            self._answer(200, "healthy")
        else:
            self._answer(404, "POST /alerts is what there is")

    def do_POST(self) -> None:
        given = self.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.server.token}".encode()):
            self.server.say("warning", f"a webhook from {self.client_address[0]} without the right token was refused")
            self._answer(401, "the bearer token is not the right one")
            return
        if self.path != "/alerts":
            self._answer(404, "POST /alerts is what there is")
            return
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            self._answer(413, f"a body of at most {MAX_BODY} bytes with its length is needed")
            return
        try:
            webhook = Webhook.model_validate_json(self.rfile.read(int(length)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            self._answer(400, f"not a webhook of Alertmanager, version 4: {where}: {first['msg']}")
            return
        try:
            left = self.server.accept(webhook)
        except InfrastructureError as error:
            self.server.say("warning", f"a webhook could not be kept: {error}")
            self._answer(503, "could not be kept; try again")
            return
        self._answer(200, f"{left} of {len(webhook.alerts)} alerts will be acted on")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is the base class's
        """Nothing: what matters is told by `say`."""

    def _answer(self, status: int, message: str) -> None:
        content = (json.dumps({"message": message}) + "\n").encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
