"""Messages to people by webhook, in a thread of their own: nobody who does not answer holds a rollout up.

What is to be told stands in the state before it is sent, and leaves the state once it was delivered. A controller that
is killed in between is followed by one that sends it again under the same Idempotency-Key: at least once, told apart.
What a rollout could not deliver before its end goes on in the state of the next one, under the name it had.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from servegate.endpoint import request
from servegate.errors import InfrastructureError
from servegate.rollout.model import Message, State
from servegate.rollout.plan_people import Notification

LEVELS = ("info", "warning", "critical")
TIMEOUT = 5.0
BACKOFF = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds until the next try; the last one for all that follow."""

Send = Callable[[str, bytes, dict[str, str]], int]
"""(URL, body, headers) → HTTP status. Raises InfrastructureError."""


def post(url: str, body: bytes, headers: dict[str, str]) -> int:
    """One POST; its status."""
    status, _ = request("POST", url, body=body, headers=headers, timeout=TIMEOUT)
    return status


class Notifier:
    """Delivers what states want told.

    Args:
        targets: who is told.
        say: (level, message) for people at the controller, when somebody cannot be reached.
        env: where secrets are.
        send: posts; replaced in tests.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        targets: Sequence[Notification],
        say: Callable[[str, str], None],
        *,
        env: Mapping[str, str] | None = None,
        send: Send = post,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.targets, self.say, self.send, self.clock = tuple(targets), say, send, clock
        self.env = os.environ if env is None else env
        self._queue: queue.Queue[tuple[Message, State] | None] = queue.Queue()
        self._open: dict[tuple[str, int], set[int]] = {}
        self._retry: dict[tuple[str, int], tuple[int, float]] = {}
        self._busy: set[tuple[str, int]] = set()
        self._done: set[tuple[str, int]] = set()
        self._ids: dict[tuple[str, int], int] = {}
        self._told: set[int] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def offer(self, state: State) -> None:
        """Send what the state wants told and is due; returns at once."""
        self._ids = {_key(state, message): message.id for message in state.outbox}
        if not state.outbox:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="notify", daemon=True)
            self._thread.start()
        with self._lock:
            for message in state.outbox:
                key = _key(state, message)
                if key in self._busy or key in self._done or self.clock() < self._retry.get(key, (0, 0.0))[1]:
                    continue
                self._busy.add(key)
                self._queue.put((message, state))

    def delivered(self) -> tuple[int, ...]:
        """Ids of the messages last offered that everybody has who wants them."""
        with self._lock:
            return tuple(sorted(number for key, number in self._ids.items() if key in self._done))

    def close(self) -> None:
        """End the thread when it has done what it is at; what is not delivered stays in the state."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join(TIMEOUT + 1)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            message, state = item
            key = _key(state, message)
            left = self._open.setdefault(key, self._wanted(message))
            for index in sorted(left):
                if self._deliver(index, message, state):
                    left.discard(index)
            with self._lock:
                self._busy.discard(key)
                if left:
                    tries = self._retry.get(key, (0, 0.0))[0]
                    self._retry[key] = (tries + 1, self.clock() + BACKOFF[min(tries, len(BACKOFF) - 1)])
                else:
                    self._done.add(key)
                    self._open.pop(key, None)

    def _wanted(self, message: Message) -> set[int]:
        return {
            index
            for index, target in enumerate(self.targets)
            if LEVELS.index(message.level) >= LEVELS.index(target.level)
        }

    def _deliver(self, index: int, message: Message, state: State) -> bool:
        target = self.targets[index]
        try:
            url = target.url if target.url is not None else self._secret(target.url_env or "")
            body = json.dumps(payload(target, message, state), ensure_ascii=False).encode()
            rollout, number = _key(state, message)
            headers = {"Content-Type": "application/json", "Idempotency-Key": f"{rollout}/{number}"}
            if target.secret_env is not None:
                digest = hmac.new(self._secret(target.secret_env).encode(), body, hashlib.sha256).hexdigest()
                headers["X-Servegate-Signature"] = f"sha256={digest}"
            status = self.send(url, body, headers)
        except InfrastructureError as error:
            self._tell(index, str(error) if target.url is not None else "no answer")
            return False
        if 200 <= status < 300:
            self._told.discard(index)
            return True
        self._tell(index, f"HTTP {status}")
        return False

    def _secret(self, name: str) -> str:
        value = self.env.get(name, "")
        if not value:
            raise InfrastructureError(f"environment variable {name} is not set")
        return value

    def _tell(self, index: int, problem: str) -> None:
        """Once until it works again; a URL that is a secret is not printed."""
        if index not in self._told:
            self._told.add(index)
            target = self.targets[index]
            self.say("warning", f"notification to {target.url or '$' + (target.url_env or '')} failed: {problem}")


def _key(state: State, message: Message) -> tuple[str, int]:
    """The rollout a message is about, and its number there: the name it is sent by, whoever sends it."""
    origin = message.origin
    return (state.rollout, message.id) if origin is None else (origin.rollout, origin.id)


def payload(target: Notification, message: Message, state: State) -> dict[str, Any]:
    """What is posted."""
    rollout, number = _key(state, message)
    text = f"servegate {rollout}: {message.level}: {message.text}"
    origin = message.origin
    if target.format == "slack":
        return {"text": text}
    return {
        "schema_version": 1,
        "id": f"{rollout}/{number}",
        "rollout": rollout,
        "plan": state.plan_name if origin is None else origin.plan_name,
        "releases": {slot: item.name for slot, item in state.slots.items()} if origin is None else origin.releases,
        "phase": message.phase.value,
        "weights": message.weights,
        "level": message.level,
        "message": message.text,
        "at": message.at,
        "text": text,
    }
