"""Events of an experiment: from a file to which lines are added, or from two Prometheus counters."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from servegate.config import load
from servegate.errors import ConfigError, InfrastructureError, ServegateError
from servegate.rollout.experiment import Arm, Arms, ExperimentSeen, collect, judge
from servegate.rollout.model import State
from servegate.rollout.plan import Plan
from servegate.rollout.plan_experiment import CounterEvents, CsvEvents, Experiment

MAX_BYTES = 1024 * 1024 * 1024
MAX_FIELD = 1000
COLUMNS = ("user", "slot", "event", "value")
LOOK_EVERY = 30.0
"""Seconds between two readings."""


def read_csv(plan: Experiment, path: Path, since: float = 0.0) -> Arms:
    """Sums of a file of events. A last line that is not complete yet is left for the next reading.

    Args:
        since: seconds since the epoch; lines of before do not count, where there is a column `at`.

    Raises:
        ConfigError: a column is missing, or a line is wrong (with its number).
        InfrastructureError: the file cannot be read, or is too large.
    """
    events: dict[str, tuple[str | None, dict[str, tuple[float, int]]]] = {}
    wanted = {"exposure", plan.primary.event, *(item.event for item in plan.guardrails)}
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InfrastructureError(f"{path}: larger than {MAX_BYTES // 2**20} MiB; sum it up per user first")
        with path.open("r", encoding="utf-8", newline="") as stream:
            lines = (line for line in stream if line.endswith("\n"))
            rows = csv.reader(lines)
            header = tuple(next(rows, ()))
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise ConfigError(f"{path}:1: no column {missing[0]!r}; expected {','.join(COLUMNS)}")
            columns = [header.index(name) for name in COLUMNS]
            dated = header.index("at") if "at" in header else None
            for row in rows:
                user, slot, event, value, at = _row(path, rows.line_num, row, columns, dated)
                if event not in wanted or (at is not None and at < since):
                    continue
                known, values = events.setdefault(user, (slot, {}))
                if known != slot:
                    events[user] = None, values
                total, count = values.get(event, (0.0, 0))
                values[event] = total + value, count + 1
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: not a CSV file in UTF-8: {error}") from error
    return collect(plan, events)


def _row(
    path: Path, number: int, row: list[str], columns: list[int], dated: int | None
) -> tuple[str, str, str, float, float | None]:
    try:
        user, slot, event, text = (row[index] for index in columns)
        value = float(text) if text else 1.0
        at = None if dated is None else float(row[dated])
        if not user or not slot or max(map(len, row)) > MAX_FIELD or not math.isfinite(value):
            raise ValueError
    except (IndexError, ValueError) as error:
        raise ConfigError(f"{path}:{number}: not an event: {','.join(row)[:100]!r}") from error
    return user, slot, event, value, at


def read_counters(plan: Experiment, events: CounterEvents, window: float, at: float) -> Arms:
    """Sums of two counters per slot over the last `window` seconds.

    Raises:
        ConfigError: the file that names the Prometheus is wrong.
        InfrastructureError: it does not answer, or not with one row per slot.
    """
    from servegate.rollout.sources.prometheus_api import PrometheusApi
    from servegate.rollout.sources.prometheus_config import PrometheusConfig

    api = PrometheusApi(load(Path(events.prometheus), PrometheusConfig))
    try:
        found = {}
        for name, query in (("trials", events.trials), ("successes", events.successes)):
            rows = api.instant(query.replace("{window}", f"{max(1, round(window))}s"), at)
            found[name] = {str(row["metric"].get("slot", "")): float(row["value"][1]) for row in rows}
            if "" in found[name]:
                raise InfrastructureError(f"the query for {name} gave a row without the label slot")
    finally:
        api.close()
    arms = {}
    for slot, trials in found["trials"].items():
        n = max(0, round(trials))
        successes = min(float(n), max(0.0, found["successes"].get(slot, 0.0)))
        name = plan.primary.name
        arms[slot] = Arm(users=n, sums={name: successes}, squares={name: successes}, counts={name: n})
    return Arms(arms=arms)


class Looking:
    """Looks at an experiment in a thread of its own, and has the last look ready at once.

    Args:
        say: (level, message) for people, when the events cannot be read; once until they can.
    """

    def __init__(self, plan: Plan, say: Callable[[str, str], None], clock: Callable[[], float] = time.time) -> None:
        self.plan, self.say, self.clock = plan, say, clock
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="experiment")
        self._future: Future[ExperimentSeen] | None = None
        self._seen: ExperimentSeen | None = None
        self._asked = -math.inf
        self._told = ""

    def __call__(self, state: State) -> ExperimentSeen | None:
        """What the experiment said at the last look; None before the first."""
        if self.plan.experiment is None or state.first_traffic is None or state.phase.finished:
            return None
        if self._future is not None and self._future.done():
            self._take(self._future)
            self._future = None
        now = self.clock()
        if self._future is None and now - self._asked >= min(LOOK_EVERY, 2 * self.plan.tick):
            self._asked = now
            self._future = self._pool.submit(look, self.plan, state, now)
        return self._seen

    def close(self) -> None:
        """Stop looking."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _take(self, future: Future[ExperimentSeen]) -> None:
        try:
            self._seen, self._told = future.result(), ""
        except ServegateError as error:
            if str(error) != self._told:
                self._told = str(error)
                self.say("warning", f"events of the experiment: {error}")


def look(plan: Plan, state: State, now: float) -> ExperimentSeen:
    """Read the events and judge them."""
    experiment = plan.experiment
    assert experiment is not None
    began = state.first_traffic if state.first_traffic is not None else now
    if isinstance(experiment.events, CsvEvents):
        arms = read_csv(experiment, Path(experiment.events.csv), began)
    else:
        arms = read_counters(experiment, experiment.events, now - began, now)
    return judge(experiment, arms, state.stable, state.candidate, plan.steps[0].weight / 100)
