"""From a running release to a verdict: smoke, evals, load, gate; in this order, and not at once, because load would
disturb what evals measure. A stage that shows the release cannot be measured ends the line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from servegate import evals, loadtest, smoke
from servegate.endpoint import Endpoint
from servegate.gates.evaluate import evaluate
from servegate.gates.files import load_answers, load_compared, load_policy
from servegate.pipeline.extend import until_decided
from servegate.release import Release
from servegate.report.model import Report, Subject
from servegate.report.records import EvalRecord, read_records
from servegate.report.verdict import Verdict


class Progress(Protocol):
    """What a person sees of the stages (report/stages.py fills it in)."""

    def start(self, stage: str) -> None:
        """A stage begins."""

    def update(self, text: str) -> None:
        """What it is doing."""

    def done(self, stage: str, ok: bool, summary: str = "") -> None:
        """It ended."""


@dataclass(frozen=True)
class Checks:
    """The files that say what a release must prove."""

    suite: Path
    profile: Path
    policy: Path
    items: int | None = None
    """Items of the suite to ask, drawn by its seed; None: all. A gate that asks for more may get more."""
    baselines: tuple[Path, ...] = ()
    """Report files of the release to compare with, or a folder of baselines."""


@dataclass(frozen=True)
class Qualification:
    """What was found."""

    reports: tuple[Report, ...]
    eval_records: tuple[EvalRecord, ...]
    verdict: Verdict


def qualify(
    release: Release,
    endpoint: Endpoint,
    checks: Checks,
    output: Path,
    progress: Progress,
    *,
    decided_by: str,
    clock: Callable[[], float] = time.time,
) -> Qualification:
    """Measure a release at an endpoint and judge it.

    Args:
        output: folder for the reports and `verdict.json`.
        clock: seconds since the epoch.

    Raises:
        ConfigError: suite, profile or policy is wrong (all are read before anything is measured).
        InfrastructureError: the endpoint cannot be reached.
    """
    policy = load_policy(checks.policy)
    before, known = load_compared(policy, checks.baselines)
    whole = evals.load_suite(checks.suite)
    suite = whole if checks.items is None else whole.limited(checks.items)
    profile = loadtest.load_profile(checks.profile)
    subject = Subject(release=release.identity(), name=release.name, endpoint=endpoint.describe())

    progress.start("smoke")
    smoked = smoke.run(endpoint, subject=subject)
    smoked.write(output / "smoke" / "report.json")
    progress.done("smoke", ok=not _errors(smoked), summary=_smoke_summary(smoked))

    def asked(now: evals.Progress) -> None:
        progress.update(f"{now.done}/{now.total}" + ("" if now.score is None else f", score {now.score:.0%}"))

    progress.start("evals")
    evaluated = evals.run(suite, endpoint, output / "evals", subject=subject, progress=asked)
    progress.done("evals", ok=evaluated.void is None, summary=_summary(evaluated, "accuracy.mean"))

    progress.start("load")
    loaded = loadtest.run(profile, endpoint, output / "load", subject=subject, progress=progress.update)
    progress.done("load", ok=loaded.void is None, summary=_summary(loaded, "ttft.p95", "error_rate.rate"))

    progress.start("gate")

    def judged(answered: Report) -> Verdict:
        answers = known | load_answers([output / "evals" / "report.json"], [answered])
        reports = (smoked, answered, loaded)
        return evaluate(policy, reports, before, answers=answers, release=release, now=clock(), decided_by=decided_by)

    def more(answers: int) -> Report:
        progress.done("gate", ok=True, summary=f"cannot tell yet: asks for {answers:,} answers")
        progress.start("evals")
        extended = whole.answering(answers)
        found = evals.run(extended, endpoint, output / "evals", subject=subject, extend=True, progress=asked)
        progress.done("evals", ok=found.void is None, summary=_summary(found, "accuracy.mean"))
        progress.start("gate")
        return found

    evaluated, verdict = until_decided(evaluated, judged, more)
    reports = (smoked, evaluated, loaded)
    verdict.write(output / "verdict.json")
    passed = sum(result.effect == "PASS" for result in verdict.results)
    progress.done("gate", ok=verdict.outcome == "PASS", summary=f"{verdict.outcome} {passed}/{len(verdict.results)}")
    records = tuple(read_records(output / "evals" / "records.jsonl", EvalRecord))
    return Qualification(reports, records, verdict)


def _errors(report: Report) -> list[str]:
    return [finding.message for finding in report.findings if finding.severity == "error"]


def _smoke_summary(report: Report) -> str:
    measure = report.measure("smoke.passed")
    counted = f"{round((measure.value or 0) * measure.n)}/{measure.n}" if measure else ""
    return "; ".join([counted, *_errors(report)])


def _summary(report: Report, *keys: str) -> str:
    from servegate.report.format import measured

    if report.void is not None:
        return report.void.message
    measures = [measure for key in keys if (measure := report.measure(key)) is not None]
    return ", ".join(f"{measure.name.replace('_', ' ')} {measured(measure)}" for measure in measures)
