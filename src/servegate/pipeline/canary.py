"""A canary with its ports filled in: what the rollout room may not know, it gets from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from servegate import smoke
from servegate.config import validate
from servegate.endpoint import Endpoint
from servegate.errors import ConfigError, ExitCode
from servegate.pipeline import live_quality
from servegate.pipeline.events import Looking
from servegate.pipeline.live_quality import LiveQuality
from servegate.pipeline.outputs import comparing
from servegate.release import Release
from servegate.report.live import PlanFacts
from servegate.report.records import CanaryTick
from servegate.rollout.controller import Controller
from servegate.rollout.memory import Memory
from servegate.rollout.model import Phase, State
from servegate.rollout.plan import Plan
from servegate.rollout.ports import Router, Source, Store, Workload
from servegate.rollout.prepare import FindPast, FindVerdict

UNDECIDED = ("held", "inconclusive", "unwatched", "assignment")
"""Causes of a rollback that say nothing about the release."""


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
    verdict: FindVerdict,
    *,
    timeline: Path,
    on_tick: Callable[[CanaryTick], None],
    on_notice: Callable[[str, str], None],
) -> State:
    """Roll a release out under a plan; returns when it is promoted or rolled back.

    Args:
        stable: what serves now.
        verdict: finds the gate's verdict; traffic moves only when it passes and is on this very release.
        timeline: JSON Lines file of ticks.
        on_notice: (level, message) for people.

    Raises:
        ConfigError: another rollout is under way, or a suite that the plan names is not what it says.
        InfrastructureError: the machine cannot go on.
    """

    controller = controller_for(
        plan,
        ports,
        verdict=verdict,
        timeline=timeline,
        on_tick=on_tick,
        on_notice=on_notice,
    )
    live_quality.read_suites(plan)
    controller.start(release, stable)
    return controller.run()


def controller_for(
    plan: Plan,
    ports: Ports,
    *,
    verdict: FindVerdict,
    past: FindPast | None = None,
    timeline: Path | None = None,
    slots: tuple[str, str] = ("blue", "green"),
    site: Mapping[str, Any] | None = None,
    on_tick: Callable[[CanaryTick], None] = lambda _: None,
    on_notice: Callable[[str, str], None] = lambda _level, _message: None,
) -> Controller:
    """A controller whose smoke test, comparison of outputs and look at experiments are ours.

    Raises:
        ConfigError: a file that the plan names cannot be read.
    """
    outputs = plan.shadow.outputs if plan.shadow is not None else None
    return Controller(
        plan,
        ports.router,
        ports.source,
        ports.workload,
        ports.store,
        smoke=holds,
        verdict=verdict,
        past=past,
        compare=None if outputs is None else comparing(outputs),
        experiment=Looking(plan, on_notice) if plan.experiment is not None else lambda _: None,
        asking=LiveQuality(plan, on_notice) if live_quality.checks_of(plan) else None,
        slots=slots,
        timeline=timeline,
        trail=None if timeline is None else timeline.with_name("audit.jsonl"),
        site=site,
        on_tick=on_tick,
        on_notice=on_notice,
    )


def holds(url: str, expected: Release) -> tuple[bool, str]:
    """Whether a slot passes the smoke test, and why not."""
    report = smoke.run(Endpoint(url, expected.model.served_name))
    problems = [finding.message for finding in report.findings if finding.severity == "error"]
    return not problems, "; ".join(problems) or "smoke passed"


def remembered_plan(known: Memory) -> Plan:
    """The plan of the rollout that a store knows.

    Raises:
        ConfigError: there is none, or another version of servegate wrote it.
    """
    if known.plan is None:
        raise ConfigError("the store does not say by which plan; start the rollout again with its --plan")
    return validate(known.plan, Plan, "plan in the store")


def shown(plan: Plan, state: State) -> PlanFacts:
    """What a view must know of the plan."""
    return PlanFacts(
        steps=tuple(step.weight for step in plan.steps),
        releases={slot: item.name for slot, item in state.slots.items()},
        step_seconds=tuple(step.min_time for step in plan.steps),
        name=state.slots[state.candidate].name,
    )


def exit_code(state: State) -> ExitCode:
    """What a command says about where a rollout stands: 0 promoted, 1 rolled back, 3 undecided, 4 not proven."""
    if state.unproven:
        return ExitCode.INFRASTRUCTURE
    if state.phase in (Phase.PROMOTED, Phase.GUARDED, Phase.ENDED):
        return ExitCode.PASS
    if state.phase is Phase.ROLLED_BACK:
        return ExitCode.NO_VERDICT if state.cause in UNDECIDED else ExitCode.GATE_FAILED
    return ExitCode.NO_VERDICT
