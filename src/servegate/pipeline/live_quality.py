"""Live quality with evals' suites: items asked of both slots while the canary runs, at a small rate, past the router.

One thread per check asks one item after the other, of both slots at the same time, so that a tick never waits and the
load stays at the plan's rate. The order of a suite's items follows from the rollout's name, and how far it has come
stands in the saved state alone: a controller that starts again goes on with the first item whose scores were not saved.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

from servegate.contract import canonical_json, sha256
from servegate.endpoint import Endpoint
from servegate.errors import ConfigError, ServegateError
from servegate.evals.ask import Client, client_version
from servegate.evals.paired import Scored, ask_both
from servegate.evals.sample import Sampler
from servegate.evals.suite import Suite, Task, load_suite
from servegate.report.format import clean
from servegate.rollout.checks import Quality
from servegate.rollout.live import Target
from servegate.rollout.model import CheckState, State
from servegate.rollout.plan import Plan
from servegate.rollout.seen import Asked

Ask = Callable[[Suite, Task, tuple[Target, Target]], tuple[Scored, Scored]]
"""(suite, item, (stable, candidate)) → what each made of it."""
Say = Callable[[str, str], None]


def checks_of(plan: Plan) -> list[Quality]:
    """The plan's checks on quality."""
    return [check for check in plan.checks if isinstance(check, Quality)]


def read_suites(plan: Plan) -> dict[str, Suite]:
    """The suites of the plan's checks on quality, by the checks' names.

    Raises:
        ConfigError: a suite cannot be read, has another number of items than the plan says, or has items that belong
            together where the plan speaks of a population.
        InfrastructureError: evals are not installed.
    """
    found = {}
    for check in checks_of(plan):
        client_version()
        try:
            suite = load_suite(Path(check.suite))
        except ConfigError as error:
            raise ConfigError(f"check {check.name}: suite: {error}") from error
        if len(suite.tasks) != check.items:
            raise ConfigError(
                f"check {check.name}: {check.suite} has {len(suite.tasks)} items, and `items` says {check.items}"
            )
        clustered = sum(task.item.cluster is not None for task in suite.tasks)
        if check.of == "population" and clustered:
            raise ConfigError(
                f"check {check.name}: {clustered} items of {check.suite} belong to a cluster, so they are no "
                f"independent draws from a population: say `of: suite`, or take a suite without clusters"
            )
        found[check.name] = suite
    return found


class LiveQuality:
    """Fills the port `rollout.live.Asking`.

    Args:
        say: (level, message) for people.
        ask: asks one item of both slots; raises nothing that is not a ServegateError.
        clock: seconds that never go back.
    """

    def __init__(
        self, plan: Plan, say: Say, ask: Ask | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._feeds: list[_Feed] = []
        try:
            suites = read_suites(plan)
        except ServegateError as error:
            # Whoever takes a rollout over must be able to roll it back, also where the suite is not at hand.
            say("warning", f"no items are asked: {error}")
            return
        self._feeds = [_Feed(check, suites[check.name], say, ask or asked_of_both, clock) for check in checks_of(plan)]

    def __call__(self, state: State, targets: tuple[Target, Target] | None) -> tuple[Asked, ...]:
        """See `rollout.live.Asking`."""
        return tuple(item for feed in self._feeds for item in feed.look(state, targets))


class _Feed:
    """One check's items: what is asked next, and what was answered and is not saved yet."""

    def __init__(self, check: Quality, suite: Suite, say: Say, ask: Ask, clock: Callable[[], float]) -> None:
        self.check, self.suite, self.say, self.ask, self.clock = check, suite, say, ask, clock
        self.digest = sha256(canonical_json([suite.sha256, suite.dataset_sha256]))
        self._rollout = ""
        self._sampler = Sampler.of(suite, "")
        self._waiting: list[Asked] = []
        self._told = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._targets: tuple[Target, Target] | None = None

    def look(self, state: State, targets: tuple[Target, Target] | None) -> list[Asked]:
        """What the state does not have yet; goes on asking, or stops."""
        saved = state.checks.get(self.check.name) or CheckState()
        if self._rollout != state.rollout:
            with self._lock:
                self._end()
            self._rollout, self._waiting, self._told = state.rollout, [], False
            self._sampler = Sampler.of(self.suite, state.rollout)
        with self._lock:
            self._waiting = [item for item in self._waiting if item.position >= saved.asked]
            if targets != self._targets or saved.suite not in (None, self.digest):
                self._end()
            if targets is not None and self._thread is None and saved.suite in (None, self.digest):
                self._begin(saved.asked, targets)
            waiting = list(self._waiting)
        if saved.asked >= self.check.items and not self._told:
            self._told = True
            self.say("info", f"check {self.check.name}: all {self.check.items} items of the suite have been asked")
        return waiting

    def _begin(self, saved: int, targets: tuple[Target, Target]) -> None:
        position = self._waiting[-1].position + 1 if self._waiting else saved
        self._stop, self._targets = threading.Event(), targets
        self._thread = threading.Thread(
            target=self._work, args=(position, targets, self._stop), name=f"quality-{self.check.name}", daemon=True
        )
        self._thread.start()

    def _end(self) -> None:
        """Ask no more. What is under way is dropped: the same item will be the next, unseen as it is."""
        self._stop.set()
        self._thread = self._targets = None

    def _work(self, position: int, targets: tuple[Target, Target], stop: threading.Event) -> None:
        for number, task in self._sampler.draw(position, self.check.items):
            began = self.clock()
            try:
                stable, candidate = self.ask(self.suite, task, targets)
            except Exception as error:  # noqa: BLE001  a thread that dies silently would look like a slow model
                stable = candidate = Scored(None, f"{type(error).__name__}: {clean(error, 200)}")
            asked = Asked(
                check=self.check.name,
                suite=self.digest,
                position=number,
                item=clean(task.item.id, 60),
                candidate=candidate.score,
                stable=stable.score,
                candidate_error=candidate.error,
                stable_error=stable.error,
            )
            with self._lock:
                if stop.is_set():
                    return
                self._waiting.append(asked)
            if stop.wait(max(0.0, 1 / self.check.rate - (self.clock() - began))):
                return


def asked_of_both(suite: Suite, task: Task, targets: tuple[Target, Target]) -> tuple[Scored, Scored]:
    """Ask stable and the candidate by their own addresses; call it outside of any event loop."""

    async def work() -> tuple[Scored, Scored]:
        config = suite.config
        clients = [
            Client(Endpoint(target.url), target.release.model.served_name, config.timeout, config.retries, 1)
            for target in targets
        ]
        async with clients[0] as stable, clients[1] as candidate:
            return await ask_both(suite, task, (stable, candidate))

    return asyncio.run(work())
