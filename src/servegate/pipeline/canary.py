"""A canary with its ports filled in: what the rollout room may not know, it gets from here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from servegate import smoke
from servegate.endpoint import Endpoint
from servegate.release import Release
from servegate.report.records import CanaryTick
from servegate.report.verdict import Verdict
from servegate.rollout.controller import Controller
from servegate.rollout.model import State
from servegate.rollout.plan import Plan
from servegate.rollout.ports import Router, Source, Store, Workload


class Ports(Protocol):
    """Where the rollout happens."""

    @property
    def router(self) -> Router:
        """Moves traffic."""

    @property
    def source(self) -> Source:
        """Reads counters."""

    @property
    def workload(self) -> Workload:
        """Runs releases."""

    @property
    def store(self) -> Store:
        """Remembers."""


def roll_out(
    plan: Plan,
    ports: Ports,
    release: Release,
    stable: Release,
    verdict: Verdict,
    *,
    timeline: Path,
    on_tick: Callable[[CanaryTick], None],
    on_notice: Callable[[str, str], None],
) -> State:
    """Roll a release out under a plan; returns when it is promoted or rolled back.

    Args:
        stable: what serves now.
        verdict: the gate's; traffic moves only when it passes and is on this very release.
        timeline: JSON Lines file of ticks.
        on_notice: (level, message) for people.

    Raises:
        ConfigError: another rollout is under way.
        InfrastructureError: the machine cannot go on.
    """

    def holds(url: str, expected: Release) -> tuple[bool, str]:
        report = smoke.run(Endpoint(url, expected.model.served_name))
        problems = [finding.message for finding in report.findings if finding.severity == "error"]
        return not problems, "; ".join(problems) or "smoke passed"

    controller = Controller(
        plan,
        ports.router,
        ports.source,
        ports.workload,
        ports.store,
        smoke=holds,
        verdict=lambda digest: verdict if verdict.release == digest else None,
        timeline=timeline,
        on_tick=on_tick,
        on_notice=on_notice,
    )
    controller.start(release, stable)
    return controller.run()
