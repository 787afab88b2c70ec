"""The Locust user: one user that carries a whole profile of streamed chat completions.

Locust's own users wait for their answers (a closed loop), time a stream at its headers, and cut streams into blocks.
So one user holds an absolute schedule and opens a greenlet per request; Locust starts and stops it, and shows its
table, which gets one event per request in milliseconds. The numbers that are judged come from the records.

Importing this module imports Locust, which patches the standard library: it belongs into a process of its own.

    locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:8000 --traffic loadtest/profiles/release.yaml \\
        --model NAME --records records.jsonl
"""

from __future__ import annotations

import gc
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import gevent
from locust import User, events, task
from locust.exception import StopUser

from servegate.errors import ConfigError, InfrastructureError
from servegate.loadtest.answer import Outcome
from servegate.loadtest.client import PATH, StreamClient
from servegate.loadtest.profile import load_profile
from servegate.loadtest.sender import Sender

API_KEY = "SERVEGATE_API_KEY"


class RequestFailedError(Exception):
    """Shown in Locust's table of errors: the kind alone, so that equal failures are counted together."""


class ChatUser(User):
    """Sends the profile once, or until it is stopped."""

    fixed_count = 1
    sender: ClassVar[Sender]

    @task
    def traffic(self) -> None:
        """Send the whole schedule, then end the run; answers still open are waited for when Locust quits."""
        self.sender.dispatch()
        if not Stop.asked:
            gevent.spawn(self.environment.runner.quit)
        raise StopUser


class Stop:
    """Whether Locust was told to quit (a signal, its own time limit): then it needs not be told again."""

    asked: ClassVar[bool] = False


def _options(parser: Any) -> None:
    group = parser.add_argument_group("servegate")
    group.add_argument("--traffic", metavar="PROFILE", help="Profile to send", default="")
    group.add_argument("--model", help="Model name in the requests", default="")
    group.add_argument("--records", metavar="FILE", help="New file that takes one record a line", default="")
    group.add_argument("--status", metavar="FILE", help="File that tells the state; default: beside the records")


def _prepare(environment: Any, **_: Any) -> None:
    options = environment.parsed_options
    try:
        for name in ("host", "traffic", "model", "records"):
            if not getattr(options, name):
                raise ConfigError(f"--{name} is required")
        loaded = load_profile(Path(options.traffic))
        records = Path(options.records)
        profile = loaded.profile
        key = os.environ.pop(API_KEY, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        client = StreamClient(options.host, headers, profile.max_in_flight, profile.timeout)

        def told(outcome: Outcome) -> None:
            environment.events.request.fire(
                request_type="POST",
                name=PATH,
                response_time=(outcome.done - outcome.sent) * 1000,
                response_length=outcome.body_bytes,
                exception=RequestFailedError(outcome.error) if outcome.error else None,
                context={},
            )

        ChatUser.sender = Sender(
            loaded,
            options.model,
            client,
            records,
            Path(options.status) if options.status else records.with_name("client.json"),
            f"locust {version('locust')}, geventhttpclient {version('geventhttpclient')}",
            told,
        )
    except (ConfigError, InfrastructureError) as error:
        sys.stderr.write(f"servegate: {error}\n")
        sys.exit(error.exit_code)
    # What is loaded now stays: a full collection in the middle of a run would delay every stream at once.
    gc.collect()
    gc.freeze()


def _finish(environment: Any, **_: Any) -> None:
    Stop.asked = True
    sender = ChatUser.sender
    sender.stop()
    sender.finish()
    if sender.failed:
        sys.stderr.write(f"servegate: {sender.failed}\n")
    environment.process_exit_code = InfrastructureError.exit_code if sender.failed else 0


_hooks: Any = events  # Locust does not annotate them
_hooks.init_command_line_parser.add_listener(_options)
_hooks.init.add_listener(_prepare)
_hooks.quitting.add_listener(_finish)
