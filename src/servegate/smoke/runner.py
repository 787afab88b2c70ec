"""Run the checks against an endpoint and write down what was seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from servegate import __version__
from servegate.endpoint import Endpoint, EndpointFacts
from servegate.report.model import Conditions, Finding, Measure, Report
from servegate.report.model import Subject as ReportSubject
from servegate.smoke.checks import CHECKS, NEEDED, Subject, examine
from servegate.smoke.wire import Clock, NobodyThereError, Wire

DEADLINE = 60.0


@dataclass(frozen=True)
class Result:
    """What one check said. `ok` is None and `seconds` 0 when it was not run."""

    check: str
    ok: bool | None
    sentence: str
    seconds: float


def run(
    endpoint: Endpoint,
    *,
    expect_model: str | None = None,
    expect_version: str | None = None,
    deadline: float = DEADLINE,
    subject: ReportSubject | None = None,
    progress: Callable[[Result], None] | None = None,
    clock: Clock = time.monotonic,
) -> Report:
    """Check an endpoint; about ten requests.

    Args:
        endpoint: whom to ask.
        expect_model: model that must be served; default: the endpoint's, or the only one there is.
        expect_version: engine version that must run, as /version says it.
        deadline: seconds for all checks together; one request gets at most a third.
        subject: what is judged; None: the endpoint, by what it says of itself.
        progress: called after each check.
        clock: a monotonic clock, in seconds.

    Returns:
        A report of kind smoke: `smoke.passed` is the fraction of checks that hold, with one slice per check, and each
        check has a finding. Void when nobody is there.

    Raises:
        ConfigError: the endpoint serves several models and none was named.
    """
    started, began = time.time(), clock()
    wire = Wire(endpoint, began + deadline, deadline / 3, clock)
    examined = Subject(wire, expect_model or endpoint.model, expect_version)
    results: list[Result] = []
    blocked = nobody = ""
    for name, check in CHECKS:
        at = clock()
        try:
            ok, sentence = (None, f"not run: {blocked}") if blocked else examine(check, examined, first=not results)
        except NobodyThereError as error:
            nobody, ok, sentence = str(error), None, str(error)
        if ok is None and not blocked:
            blocked = "nobody is there"
        elif ok is False and name in NEEDED:
            blocked = f"{name} failed"
        results.append(Result(name, ok, sentence, 0.0 if ok is None else clock() - at))
        if progress is not None:
            progress(results[-1])
    facts = examined.facts or EndpointFacts(url=endpoint.url)
    return Report(
        kind="smoke",
        name="smoke",
        subject=_subject(subject, facts),
        conditions=Conditions(client=f"servegate {__version__}", other={"deadline": f"{deadline:g}"}),
        started=started,
        finished=started + (clock() - began),
        tool=f"servegate {__version__}",
        measures=_measures(results),
        findings=_findings(results, nobody),
    )


def _measures(results: list[Result]) -> tuple[Measure, ...]:
    held = sum(result.ok is True for result in results)
    run_ = sum(result.ok is not None for result in results)
    # Checks that could not be run do not hold: the fraction is of all of them.
    found = [_passed("", held / len(results) if run_ else None, run_, len(results))]
    for result in results:
        value = None if result.ok is None else float(result.ok)
        found.append(_passed(f"check={result.check}", value, int(result.ok is not None), 1))
    return (*found, *map(_took, results))


def _took(result: Result) -> Measure:
    return Measure(
        name="duration",
        statistic="total",
        slice=f"check={result.check}",
        value=None if result.ok is None else result.seconds,
        unit="seconds",
        n=int(result.ok is not None),
        attempted=1,
        better="lower",
    )


def _passed(slice_: str, value: float | None, n: int, attempted: int) -> Measure:
    return Measure(
        name="smoke",
        statistic="passed",
        slice=slice_,
        value=value,
        unit="fraction",
        n=n,
        attempted=attempted,
        better="higher",
    )


def _findings(results: list[Result], nobody: str) -> tuple[Finding, ...]:
    if nobody:
        return (Finding(severity="error", code="nobody-there", message=nobody, voids=True),)
    found = []
    for result in results:
        if result.ok is None:
            found.append(Finding(severity="warning", code=f"{result.check}-not-run", message=result.sentence))
        elif result.ok:
            found.append(Finding(severity="info", code=f"{result.check}-ok", message=result.sentence))
        else:
            found.append(Finding(severity="error", code=f"{result.check}-failed", message=result.sentence))
    return tuple(found)


def _subject(subject: ReportSubject | None, facts: EndpointFacts) -> ReportSubject:
    if subject is None:
        return ReportSubject(name=facts.model, endpoint=facts)
    return subject.model_copy(update={"endpoint": facts})
