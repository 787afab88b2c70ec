"""Alertmanager's webhooks: who may send them, what becomes of them, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from decide_bench import plan

from servegate.endpoint import request
from servegate.errors import ConfigError, InfrastructureError
from servegate.rollout.alerts import MAX_BODY, Alert, listening, rule_for
from servegate.rollout.plan_safety import AlertRule
from servegate.rollout.stores.sqlite import SqliteStore

TOKEN = "a-token-of-sixteen"
RULES = [
    {"labels": {"alertname": "HighErrorRate", "severity": "page"}, "then": "rollback"},
    {"labels": {"severity": "page"}, "then": "freeze"},
]


def alert(status: str = "firing", start: str = "2026-11-25T10:00:00.5Z", **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": labels,
        "annotations": {"summary": "7 % fail"},
        "startsAt": start,
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "c0ffee",
    }


def webhook(*alerts: dict[str, Any], **other: Any) -> bytes:
    return json.dumps({"version": "4", "groupKey": "{}", "receiver": "x", "alerts": alerts, **other}).encode()


class Receiver:
    def __init__(self, url: str, store: SqliteStore) -> None:
        self.url, self.store = url, store
        self.told: list[str] = []

    def post(self, body: bytes, token: str | None = TOKEN, url: str | None = None) -> tuple[int, str]:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        status, answer = request("POST", url or self.url, body=body, headers=headers)
        return status, json.loads(answer)["message"]

    def left(self) -> list[tuple[str, str | None]]:
        return [(intent.kind, intent.target) for intent in self.store.intents()]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    store = SqliteStore(tmp_path / "rollout.db")
    made = Receiver("", store)
    with listening(
        plan(alerts=RULES), store, "127.0.0.1:0", TOKEN, lambda _, message: made.told.append(message), lambda: 7.0
    ) as url:
        made.url = url
        yield made
    store.close()


def test_a_firing_alert_becomes_the_intent_its_rule_names(receiver: Receiver) -> None:
    body = webhook(alert(alertname="HighErrorRate", severity="page"), alert(alertname="Other", severity="info"))
    assert receiver.post(body) == (200, "1 of 2 alerts will be acted on")
    (intent,) = receiver.store.intents()
    assert (intent.kind, intent.by, intent.at) == ("alert-rollback", "alertmanager", 7.0)
    assert intent.reason == "HighErrorRate: 7 % fail"
    assert intent.target == "c0ffee@1795600800.5"


def test_the_same_again_is_left_once_while_it_waits(receiver: Receiver) -> None:
    body = webhook(alert(severity="page"))
    assert receiver.post(body)[1].startswith("1 of 1")
    assert receiver.post(body)[1].startswith("0 of 1")
    assert receiver.left() == [("alert-freeze", "c0ffee@1795600800.5")]


def test_a_resolved_alert_ends_a_freeze_only(receiver: Receiver) -> None:
    receiver.post(webhook(alert("resolved", alertname="HighErrorRate", severity="page")))
    assert receiver.left() == []
    receiver.post(webhook(alert("resolved", severity="page")))
    assert receiver.left() == [("alert-resolved", "c0ffee@1795600800.5")]


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", "ünïcode"])
def test_without_the_token_nothing_is_accepted(receiver: Receiver, token: str | None) -> None:
    assert receiver.post(webhook(alert(severity="page")), token)[0] == 401
    assert receiver.left() == []
    assert "without the right token" in receiver.told[0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not a webhook"),
        (b"[]", "not a webhook"),
        (b"{", "not a webhook"),
        (webhook(version="3"), "version"),
        (webhook({"status": "firing"}), "labels"),
        (webhook({**alert(), "fingerprint": "a b@c"}), "fingerprint"),
        (webhook({**alert(), "startsAt": "soon"}), "startsAt"),
    ],
)
def test_what_is_no_webhook_is_refused_with_the_reason(receiver: Receiver, body: bytes, words: str) -> None:
    status, message = receiver.post(body)
    assert status == 400
    assert words in message
    assert receiver.left() == []


def test_other_paths_and_endless_bodies(receiver: Receiver) -> None:
    assert receiver.post(webhook(), url=receiver.url + "/else")[0] == 404
    assert request("GET", receiver.url)[0] == 404
    assert request("GET", receiver.url.replace("/alerts", "/-/healthy"))[0] == 200
    assert receiver.post(b" " * (MAX_BODY + 1))[0] == 413


def test_what_cannot_be_kept_is_to_be_sent_again(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise InfrastructureError("no space left")

    monkeypatch.setattr(receiver.store, "submit", full)
    assert receiver.post(webhook(alert(severity="page")))[0] == 503


def test_the_first_rule_that_fits_counts() -> None:
    rules = [AlertRule.model_validate(rule) for rule in RULES]
    both = Alert.model_validate(alert(alertname="HighErrorRate", severity="page", more="labels"))
    found = rule_for(rules, both)
    assert found is not None
    assert found.then == "rollback"
    assert rule_for(rules, Alert.model_validate(alert(alertname="HighErrorRate"))) is None


@pytest.mark.parametrize(
    ("changes", "address", "token", "words"),
    [
        ({}, "127.0.0.1:0", TOKEN, "has no `alerts`"),
        ({"alerts": RULES}, "127.0.0.1:0", "short", "at least 16"),
        ({"alerts": RULES}, "here", TOKEN, "not host:port"),
        ({"alerts": RULES}, "127.0.0.1:99999", TOKEN, "not host:port"),
    ],
)
def test_what_would_do_nothing_or_harm_is_refused(
    tmp_path: Path, changes: Any, address: str, token: str, words: str
) -> None:
    store = SqliteStore(tmp_path / "rollout.db")
    with (
        pytest.raises(ConfigError, match=words),
        listening(plan(**changes), store, address, token, lambda *_: None),
    ):
        pass
    store.close()


def test_a_port_that_is_taken_is_named(receiver: Receiver) -> None:
    address = receiver.url.removeprefix("http://").removesuffix("/alerts")
    with (
        pytest.raises(InfrastructureError, match=address),
        listening(plan(alerts=RULES), receiver.store, address, TOKEN, lambda *_: None),
    ):
        pass
