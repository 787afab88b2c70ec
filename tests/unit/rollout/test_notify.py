"""Messages to people: delivered at least once, told apart, and never in the way."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from decide_bench import Bench, plan
from rollout_world import BAD, GOOD, RULES, STABLE, Effects, Killed, World

from servegate.config import validate
from servegate.errors import InfrastructureError
from servegate.release import Release
from servegate.rollout.memory import HistoryLine, history
from servegate.rollout.model import Phase, State
from servegate.rollout.notify import Notifier
from servegate.rollout.plan import Plan
from servegate.rollout.plan_people import Notification

HOOK = {"url": "http://hooks.example/x"}


class Sent:
    """What was posted; answers as told."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers, self.posts = list(answers), []  # type: list[int | Exception], list[tuple[str, dict[str, Any]]]
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.came = threading.Semaphore(0)

    def __call__(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        self.posts.append((url, json.loads(body)))
        self.headers.append(headers)
        self.bodies.append(body)
        answer = self.answers.pop(0) if self.answers else 200
        self.came.release()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.came.acquire(timeout=10)


def told(text: str = "abort", **changes: Any) -> State:
    """A state with messages to deliver."""
    bench = Bench(plan(notify=[HOOK], **changes))
    bench.until(Phase.STEP, 0)
    bench.intent(text)
    return bench.state


def notifier(sent: Sent, *targets: dict[str, Any], env: dict[str, str] | None = None) -> tuple[Notifier, list[str]]:
    said: list[str] = []
    made = Notifier(
        [validate(target, Notification, "n") for target in targets or (HOOK,)],
        lambda level, message: said.append(f"{level}: {message}"),
        env=env or {},
        send=sent,
        clock=lambda: 0.0,
    )
    return made, said


def settled(made: Notifier, state: State) -> tuple[int, ...]:
    """Offer, and wait until the thread has nothing left to do."""
    made.offer(state)
    made.close()
    return made.delivered()


def test_a_message_says_what_where_and_why() -> None:
    sent, state = Sent(), told()
    made, _ = notifier(sent)
    assert settled(made, state) == (1, 2)
    url, body = sent.posts[-1]
    assert url == HOOK["url"]
    assert body["level"] == "critical"
    assert body["message"] == "rolling back: aborted by kim: because"
    assert body["phase"] == "ROLLING_BACK"
    assert body["releases"] == {"blue": "v1", "green": "v2"}
    assert sent.headers[-1]["Idempotency-Key"] == "r/2"


def test_only_what_is_grave_enough_in_the_format_wanted_and_signed() -> None:
    sent, state = Sent(), told()
    target = {"url_env": "HOOK_URL", "format": "slack", "level": "critical", "secret_env": "KEY"}
    made, said = notifier(sent, target, env={"HOOK_URL": "https://hooks.slack.example/s3cret", "KEY": "k"})
    assert settled(made, state) == (1, 2)
    ((url, body),) = sent.posts
    assert url.endswith("s3cret")
    assert set(body) == {"text"}
    expected = hmac.new(b"k", sent.bodies[0], hashlib.sha256).hexdigest()
    assert sent.headers[0]["X-Servegate-Signature"] == f"sha256={expected}"
    assert said == []


def test_a_failure_is_tried_again_later_and_told_once_without_secrets() -> None:
    sent, state = Sent(InfrastructureError("https://s3cret/: no answer"), 500), told()
    now = [0.0]
    made, said = notifier(sent, {"url_env": "HOOK_URL"}, env={"HOOK_URL": "https://s3cret/"})
    made.clock = lambda: now[0]
    assert settled(made, state) == ()
    assert settled(made, state) == ()  # not due yet
    assert len(sent.posts) == 2
    now[0] = 1.5
    assert settled(made, state) == (1, 2)
    assert said == ["warning: notification to $HOOK_URL failed: no answer"]


def test_one_that_fails_does_not_repeat_what_the_other_has() -> None:
    sent, state = Sent(200, 503, 200, 503), told()
    other = {"url": "http://other.example/"}
    made, _ = notifier(sent, HOOK, other)
    now = [0.0]
    made.clock = lambda: now[0]
    settled(made, state)
    now[0] = 10.0
    assert settled(made, state) == (1, 2)
    assert [url for url, _ in sent.posts].count(HOOK["url"]) == 2
    assert [url for url, _ in sent.posts].count(other["url"]) == 4


def test_a_variable_that_is_not_set_is_named() -> None:
    made, said = notifier(Sent(), {**HOOK, "secret_env": "KEY"})
    settled(made, told())
    assert said == ["warning: notification to http://hooks.example/x failed: environment variable KEY is not set"]


def test_messages_stay_in_the_state_until_delivered_and_not_for_ever() -> None:
    bench = Bench(plan(notify=[HOOK]))
    bench.until(Phase.STEP, 0)
    assert [message.id for message in bench.state.outbox] == [1]
    bench.tick()
    assert len(bench.state.outbox) == 1
    bench.tick(delivered=(1,))
    assert not bench.state.outbox
    bench.intent("pause")
    bench.intent("abort")
    assert bench.state.outbox
    bench.now += 4000
    bench.tick()
    assert all(bench.now - message.at < 3600 for message in bench.state.outbox)
    assert not Bench().state.outbox


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()


def run(world: World, sent: Callable[..., int], effects: Effects | None = None) -> State:
    controller = world.controller(effects, plan=validate({**RULES, "notify": [HOOK]}, Plan, "plan"))
    controller._notifier.send = sent
    controller.start(GOOD, STABLE)
    return controller.run()


def test_nobody_who_does_not_answer_holds_a_rollout_up(world: World) -> None:
    def refuse(*_: object) -> int:
        raise InfrastructureError("cannot connect")

    assert run(world, refuse).phase is Phase.PROMOTED
    assert sum("notification to" in notice for notice in world.notices) == 1


def test_what_a_killed_controller_had_not_delivered_is_sent_by_the_next(world: World) -> None:
    def silent(*_: object) -> int:
        raise InfrastructureError("timed out")

    # The second save is that of the first step, whose message is in it; nothing has been sent yet.
    saves = iter(range(100))

    def at(_: int, name: str, when: str) -> bool:
        return (name, when) == ("store.save", "after") and next(saves) >= 6

    with pytest.raises(Killed):
        run(world, silent, Effects(kill_at=at))
    world.now += 20
    sent = Sent()
    assert run(world, sent).phase is Phase.PROMOTED
    keys = [headers["Idempotency-Key"] for headers in sent.headers]
    assert len(keys) == len(set(keys))
    assert keys[0].endswith("/1")
    assert any("is promoted" in body["message"] for _, body in sent.posts)


class Receiver:
    """An HTTP server on a port of this machine that can be down: then connections are refused."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.got.append((self.headers["Idempotency-Key"], body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.server.server_bind()  # bound and not listening: the port is ours, and refuses
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def come_up(self) -> None:
        self.server.server_activate()
        self.thread.start()

    def close(self) -> None:
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join(60)
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def rollout(world: World, wanted: Release, effects: Effects | None = None, url: str | None = None) -> State:
    """A whole rollout by a controller of its own; its world's time waits for what is being sent."""
    rules = RULES if url is None else {**RULES, "notify": [{"url": url}]}
    controller = world.controller(effects, plan=validate(rules, Plan, "plan"))
    notifier = controller._notifier

    def sent() -> None:
        end = time.monotonic() + 60
        while notifier._busy and time.monotonic() < end:
            time.sleep(0.001)

    world.before_sleep = sent
    controller.start(wanted, None if wanted is BAD else STABLE)
    return controller.run()


def given_up(world: World) -> list[HistoryLine]:
    return [line for line in history(world.store) if "notification given up" in line.reason]


def test_what_could_not_be_delivered_comes_during_the_next_rollout_under_its_own_name(
    world: World, receiver: Receiver
) -> None:
    first = rollout(world, GOOD, url=receiver.url)
    assert first.phase is Phase.PROMOTED
    assert len(first.outbox) == first.messages > 2
    receiver.come_up()
    second = rollout(world, BAD, url=receiver.url)
    assert second.phase is Phase.PROMOTED
    assert not second.outbox
    keys = [key for key, _ in receiver.got]
    own = [f"{second.rollout}/{number}" for number in range(first.messages + 1, second.messages + 1)]
    assert keys == [*(f"{first.rollout}/{number}" for number in range(1, first.messages + 1)), *own]
    _, told = receiver.got[first.messages - 1]
    assert "(v2) is promoted" in told["message"]
    assert told["id"] == f"{first.rollout}/{first.messages}"
    assert (told["rollout"], told["releases"]) == (first.rollout, {"blue": "v1", "green": "v2"})
    assert told["text"].startswith(f"servegate {first.rollout}: info: ")
    assert receiver.got[-1][1]["releases"] == {"blue": "v3", "green": "v2"}
    assert given_up(world) == []


def test_a_message_that_waits_through_two_rollouts_keeps_the_name_of_its_own(world: World, receiver: Receiver) -> None:
    first = rollout(world, GOOD, url=receiver.url)
    world.failing = {BAD.name: 1.0}
    second = rollout(world, BAD, url=receiver.url)
    assert second.phase is Phase.ROLLED_BACK
    receiver.come_up()
    third = rollout(world, BAD, url=receiver.url)
    begun = list(dict.fromkeys(key.rpartition("/")[0] for key, _ in receiver.got))
    assert begun == [first.rollout, second.rollout, third.rollout]
    assert len({key for key, _ in receiver.got}) == len(receiver.got) == third.messages


def test_what_is_given_up_stands_in_the_history_once_whenever_the_controller_dies(
    world: World, receiver: Receiver
) -> None:
    first = rollout(world, GOOD, url=receiver.url)
    world.now += 4000
    for moment in ("before", "after"):
        appended: list[str] = []

        def at(_: int, name: str, when: str, moment: str = moment, appended: list[str] = appended) -> bool:
            appended += [name] * ((name, when) == ("store.append_history", moment))
            return len(appended) == 2

        with pytest.raises(Killed):
            rollout(world, BAD, Effects(kill_at=at), receiver.url)
        world.now += 20
    rollout(world, BAD, url=receiver.url)
    lines = given_up(world)
    assert [line.reason for line in lines] == [
        f"notification given up (not delivered in time): message {message.id}, {message.level}: {message.text}"
        for message in first.outbox
    ]
    assert {(line.rollout, line.release) for line in lines} == {(first.rollout, "v2")}


def test_a_plan_that_tells_nobody_gives_up_what_the_rollout_before_it_wanted_told(
    world: World, receiver: Receiver
) -> None:
    first = rollout(world, GOOD, url=receiver.url)
    receiver.come_up()
    second = rollout(world, BAD)
    assert not second.outbox
    assert not receiver.got
    assert len(given_up(world)) == first.messages
    assert given_up(world)[0].reason.startswith("notification given up (the plan of the next rollout tells nobody): ")
