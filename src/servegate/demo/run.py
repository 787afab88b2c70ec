"""The demo: two releases through the whole way, one after the other, under live traffic."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

from servegate.contract import write_atomic
from servegate.demo.desk import Desk
from servegate.demo.engine import DemoEngine, Place
from servegate.demo.machine import SLOTS, Machine, claimed, machine
from servegate.demo.summary import machine_facts, summary
from servegate.endpoint import Endpoint
from servegate.errors import ExitCode
from servegate.loadtest import Traffic, load_profile, traffic
from servegate.pipeline.canary import roll_out
from servegate.pipeline.files import find
from servegate.pipeline.qualify import Checks, qualify
from servegate.release import Release
from servegate.report.html import page
from servegate.report.live import CanaryView, PlanFacts
from servegate.report.records import CanaryTick, RequestRecord, read_records
from servegate.report.stages import Stages
from servegate.report.story import ReleaseStory, facts, headline
from servegate.report.verdict import Outcome
from servegate.rollout.canary_report import canary_report
from servegate.rollout.checks import Quality
from servegate.rollout.model import Phase
from servegate.rollout.plan import Plan, load_plan

INTRO = (
    "Users send streaming chat requests through Envoy all the time. Each release goes into the idle slot, is measured "
    "there by smoke, evals and load, judged by the gate, and then takes over traffic step by step, unless the live "
    "evidence speaks against it."
)


@dataclass(frozen=True)
class Result:
    """How a demo ended.

    Attributes:
        expected: the healthy release was promoted and the defective one rolled back.
    """

    expected: bool
    summary: Path
    page: Path

    @property
    def exit_code(self) -> ExitCode:
        """0 only when both releases ended as they should."""
        return ExitCode.PASS if self.expected else ExitCode.GATE_FAILED


def run(engine: DemoEngine, output: Path, stages: Stages) -> Result:
    """Run the demo.

    Args:
        output: folder for everything it writes.
        stages: where progress is shown.

    Raises:
        ConfigError: a file of the pipeline is wrong.
        InfrastructureError: something is missing or died; its log is named.
    """
    with claimed(output) as place:
        stages.start("set-up")
        engine.prepare(stages.update)
        stages.done("set-up", ok=True, summary=engine.name)
        began = time.monotonic()
        with machine(engine, place) as local:
            stories = _releases(engine, local, place, stages)
        records = tuple(read_records(place.root / "traffic" / "records.jsonl", RequestRecord))
        stories = [replace(story, records=records) for story in stories]
        document = summary(engine.name, stories, records, time.monotonic() - began)
        write_atomic(place.root / "summary.json", (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
        write_atomic(place.root / "report.html", page("servegate demo", stories, INTRO, machine_facts()).encode())
        for story in stories:
            stages.note(f"{story.name}: {headline(story, facts(story))}")
        outcomes = [story.outcome for story in stories]
        return Result(
            expected=outcomes == ["promoted", "rolled_back"],
            summary=place.root / "summary.json",
            page=place.root / "report.html",
        )


def _releases(engine: DemoEngine, local: Machine, place: Place, stages: Stages) -> list[ReleaseStory]:
    stable, healthy, defective = engine.releases()
    stages.start(f"stable {stable.name}")
    local.bring_up(SLOTS[0], stable, engine.start_timeout, stages.update)
    stages.done(f"stable {stable.name}", ok=True, summary=f"serves all traffic in {SLOTS[0]}")
    users = Endpoint(local.url, stable.model.served_name)
    with traffic(load_profile(find(engine.files.live)), users, place.root / "traffic") as live:
        stories, desk = [], Desk(place.root)
        for release in (healthy, defective):
            story = _release(
                engine, local, place, stages, live, desk, stable=stable, release=release, broken=release is defective
            )
            stories.append(story)
            if story.outcome == "promoted":
                stable = release
        live.stop()
    return stories


def _release(
    engine: DemoEngine,
    local: Machine,
    place: Place,
    stages: Stages,
    live: Traffic,
    desk: Desk,
    *,
    stable: Release,
    release: Release,
    broken: bool,
) -> ReleaseStory:
    """One release from its slot to its end."""
    weights = local.envoy.router.read()
    serving = max(weights, key=lambda slot: weights[slot])
    idle = next(slot for slot in SLOTS if slot != serving)
    output = place.root / release.name
    plan = _placed(load_plan(find(engine.files.plan)))
    files = engine.files
    checks = Checks(find(files.suite), find(files.load), find(files.policy), items=files.items)

    stages.start(f"release {release.name}")
    local.bring_up(idle, release, engine.start_timeout, stages.update)
    stages.done(f"release {release.name}", ok=True, summary=f"{release.id} in {idle}")
    found = qualify(release, local.endpoint(idle, release), checks, output, stages, decided_by="servegate demo")
    story = ReleaseStory(
        name=release.name, outcome="refused", release=release, stable=stable.name,
        reports=found.reports, eval_records=found.eval_records, verdict=found.verdict,
    )  # fmt: skip
    if found.verdict.outcome is not Outcome.PASS:
        return replace(story, reason=f"the gate said {found.verdict.outcome}")

    release.write(output / "release.json")
    verdicts = desk.sign(found.verdict, release, output / "verdict.bundle.json")
    ticks: list[CanaryTick] = []
    with CanaryView(_shown(plan, {serving: stable.name, idle: release.name}, release), stages.console) as view:

        def watch(tick: CanaryTick) -> None:
            ticks.append(tick)
            view(tick)
            live.check()
            local.envoy.check()
            if broken and tick.weights.get(idle, 0) > 0:
                engine.breaks(idle)

        state = roll_out(
            plan,
            local,
            release,
            stable,
            verdicts.find(release),
            timeline=output / "timeline.jsonl",
            on_tick=watch,
            on_notice=lambda level, message: None if level == "info" else stages.note(f"{level}: {message}"),
        )
    canary = canary_report(output / "audit.jsonl", output / "report.json")
    canary.write(output / "report.json")
    return replace(
        story,
        reports=(*found.reports, canary),
        outcome="promoted" if state.phase is Phase.PROMOTED else "rolled_back",
        reason=state.reason,
        ticks=tuple(ticks),
        defect=engine.defect() if broken else None,
    )


def _placed(plan: Plan) -> Plan:
    """The plan with its suites where they are: the demo runs in any folder."""
    checks = [
        check.model_copy(update={"suite": str(find(check.suite))}) if isinstance(check, Quality) else check
        for check in plan.checks
    ]
    return plan.model_copy(update={"checks": tuple(checks)})


def _shown(plan: Plan, releases: dict[str, str], release: Release) -> PlanFacts:
    """What the live view must know of the plan."""
    return PlanFacts(
        steps=tuple(step.weight for step in plan.steps),
        releases=releases,
        step_seconds=tuple(step.min_time for step in plan.steps),
        name=release.label(),
    )
