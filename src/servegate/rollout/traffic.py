"""Invented traffic as people write it, and what a plan does with it: the numbers of `rollout simulate`.

A file says how the service is used and how it answers on a normal day, and which regressions are to be tried. Every
regression is the normal day with one thing made worse on the candidate; "healthy" is the normal day itself.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from servegate.config import Config, load
from servegate.rollout.model import Phase
from servegate.rollout.plan import Plan
from servegate.rollout.simulate import Run, Scenario, Side, simulate
from servegate.stats.intervals import Interval, wilson
from servegate.units import Fraction, PositiveDuration, percent, seconds

HEALTHY = "healthy"
ROLLED_BACK = (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
Factor = Annotated[float, Field(gt=0, le=100)]


def _time(default: str, description: str) -> Any:
    return Field(seconds(default), description=description, json_schema_extra={"default": default})


def _share(default: str, description: str) -> Any:
    return Field(percent(default) / 100, description=description, json_schema_extra={"default": default})


class Law(Config):
    """A log-normal law."""

    median: PositiveDuration
    spread: Annotated[float, Field(gt=0, le=3)] = Field(0.3, description="standard deviation of the logarithm")


class Diurnal(Config):
    """How traffic changes over the day: a sine between the quiet and the busy hour."""

    busy_over_quiet: Annotated[float, Field(ge=1, le=100)] = Field(3.0, description="busiest over quietest rate")
    period: PositiveDuration = _time("24h", "length of a day")


class Shocks(Config):
    """Weather on the candidate alone: latency that is up or down for a while for no reason of the release's."""

    spread: Fraction = _share("15%", "standard deviation of the logarithm of latency")
    lasts: PositiveDuration = _time("10s", "time after which two thirds of a shock are gone")


class Burst(Config):
    """A time of trouble that comes to one slot, at any moment of the rollout."""

    lasts: PositiveDuration = _time("5s", "how long")
    errors: Fraction = _share("100%", "fraction of its requests that fail meanwhile")


class Regression(Config):
    """What is worse on the candidate."""

    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,60}$")]
    errors: Fraction | None = Field(None, description="fraction of its requests that fail")
    ttft: Factor | None = Field(None, description="factor on time to first token")
    itl: Factor | None = Field(None, description="factor on time between tokens")
    dies_after: PositiveDuration | None = Field(None, description="since its first traffic")
    starts_after: PositiveDuration | None = Field(None, description="since its first traffic; before it is healthy")
    pods: Fraction = _share("100%", "fraction of its replicas that are concerned")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if all(value is None for value in (self.errors, self.ttft, self.itl, self.dies_after)):
            raise ValueError("nothing is worse: say errors, ttft, itl or dies_after")
        return self


_USUAL = tuple(
    Regression.model_validate(item)
    for item in (
        {"name": "errors 1 %", "errors": "1%"},
        {"name": "errors 3 %", "errors": "3%"},
        {"name": "errors 20 %", "errors": "20%"},
        {"name": "first token × 1.5", "ttft": 1.5},
        {"name": "first token × 3", "ttft": 3.0},
        {"name": "between tokens × 1.3", "itl": 1.3},
        {"name": "half of the pods fail", "errors": "100%", "pods": "50%"},
        {"name": "dies after a minute", "dies_after": "1min"},
    )
)


class Traffic(Config):
    """A service and its users."""

    version: Literal[1] = 1
    requests_per_second: Annotated[float, Field(gt=0, le=100_000)] | None = Field(
        None, description="on both slots together; default: what the plan expects"
    )
    diurnal: Diurnal | None = Field(None, description="none: the rate is the same all day")
    ttft: Law = Law.model_validate({"median": "72ms", "spread": 0.2})
    itl: Law = Law.model_validate({"median": "12ms", "spread": 0.3})
    e2e_latency: PositiveDuration = _time("1500ms", "until a good answer is complete")
    errors: Fraction = _share("0%", "fraction of requests that fail on a normal day")
    shocks: Shocks | None = None
    burst: Burst | None = None
    gpus_per_replica: Annotated[float, Field(gt=0, le=1024)] = 1.0
    regressions: tuple[Regression, ...] = Field(_USUAL, max_length=50)

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [HEALTHY, *(regression.name for regression in self.regressions)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two regressions are called {twice!r}")
        return self


def load_traffic(path: Path) -> Traffic:
    """Read such a file.

    Raises:
        ConfigError: with every problem found, one line each.
    """
    return load(path, Traffic)


def scenarios(traffic: Traffic, plan: Plan) -> list[Scenario]:
    """The healthy release first, then every regression."""
    side = Side(
        error_rate=traffic.errors,
        ttft_median=traffic.ttft.median,
        ttft_sigma=traffic.ttft.spread,
        itl_median=traffic.itl.median,
        itl_sigma=traffic.itl.spread,
        e2e_latency=traffic.e2e_latency,
    )
    candidate = side
    if traffic.shocks is not None:
        rho = float(np.exp(-1 / traffic.shocks.lasts))
        candidate = replace(candidate, shock_sd=traffic.shocks.spread, shock_rho=rho)
    if traffic.burst is not None:
        burst = traffic.burst
        candidate = replace(candidate, burst_at=0.0, burst_seconds=burst.lasts, burst_error_rate=burst.errors)
    healthy = Scenario(
        HEALTHY,
        side,
        candidate,
        requests_per_second=traffic.requests_per_second or plan.expect.requests_per_second,
        burst_anywhere=None if traffic.burst is None else sum(step.min_time for step in plan.steps),
        busy_over_quiet=traffic.diurnal.busy_over_quiet if traffic.diurnal else 1.0,
        day=traffic.diurnal.period if traffic.diurnal else 86400.0,
    )
    return [healthy, *(_broken(healthy, regression) for regression in traffic.regressions)]


def _broken(healthy: Scenario, regression: Regression) -> Scenario:
    side = healthy.candidate
    concerned = regression.pods
    worse = replace(
        side,
        error_rate=side.error_rate if regression.errors is None
        else max(side.error_rate, side.error_rate + concerned * (regression.errors - side.error_rate)),
        slow_share=concerned,
        slow_ttft=regression.ttft or 1.0,
        slow_itl=regression.itl or 1.0,
        dies_at=regression.dies_after,
    )  # fmt: skip
    return replace(
        healthy,
        name=regression.name,
        candidate=worse,
        broken=True,
        onset=regression.starts_after or 0.0,
        before=side if regression.starts_after else None,
    )


@dataclass(frozen=True)
class Row:
    """What became of one scenario over many runs. Times in seconds since the candidate's first traffic.

    Args:
        rolled_back, rolled_back_interval: share of runs, with its 95 % interval.
        promoted: share of runs that were promoted without anybody's help.
        detect_median, detect_p95: from first traffic (or the onset) to the decision to roll back; None: never.
        exposed_median, failed_median: the candidate's requests until then, and those that failed.
        seconds_median: of the whole rollout.
        gpu_hours_median: of the candidate, while it ran beside stable.
        causes: what rolled it back, most frequent first.
    """

    name: str
    broken: bool
    runs: int
    rolled_back: float
    rolled_back_interval: tuple[float, float]
    promoted: float
    detect_median: float | None
    detect_p95: float | None
    exposed_median: float | None
    failed_median: float | None
    seconds_median: float
    gpu_hours_median: float
    causes: dict[str, int]
    detected: tuple[float, ...]


def measure(
    plan: Plan,
    traffic: Traffic,
    runs: int,
    *,
    seed: int = 0,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[Row]:
    """Simulate every scenario `runs` times. The same seed gives the same rows, whatever `jobs`.

    Args:
        jobs: processes; None: one per core.
        progress: (runs done, of all).
    """
    cases = scenarios(traffic, plan)
    rows = []
    with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:
        done = 0
        for scenario in cases:
            found = []
            for run in pool.map(partial(simulate, plan, scenario), range(seed, seed + runs), chunksize=4):
                found.append(run)
                done += 1
                progress(done, runs * len(cases))
            rows.append(_row(plan, traffic, scenario, found))
    return rows


def _row(plan: Plan, traffic: Traffic, scenario: Scenario, runs: Sequence[Run]) -> Row:
    back = [run for run in runs if run.phase in ROLLED_BACK and run.decided is not None]
    since = sorted(max(0.0, (run.decided or 0.0) - scenario.onset) for run in back)
    share: Interval = wilson(len(back), len(runs))
    gpus = plan.replicas * traffic.gpus_per_replica

    def median(values: Iterator[float]) -> float | None:
        found = list(values)
        return float(np.median(found)) if found else None

    return Row(
        name=scenario.name,
        broken=scenario.broken,
        runs=len(runs),
        rolled_back=len(back) / len(runs),
        rolled_back_interval=(share.low, share.high),
        promoted=sum(run.phase is Phase.PROMOTED for run in runs) / len(runs),
        detect_median=median(iter(since)),
        detect_p95=float(np.quantile(since, 0.95)) if since else None,
        exposed_median=median(run.requests for run in back),
        failed_median=median(run.failures for run in back),
        seconds_median=median(run.seconds for run in runs) or 0.0,
        gpu_hours_median=(median(run.seconds for run in runs) or 0.0) / 3600 * gpus,
        causes=dict(Counter(run.cause for run in back).most_common()),
        detected=tuple(since),
    )
