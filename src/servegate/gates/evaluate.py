"""The gate itself: a policy and reports in, a verdict out. Pure: no file, no clock, no surprise.

What was not validly measured is VOID, what was measured and cannot tell is INCONCLUSIVE; neither is ever green unless
the policy says so by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from servegate import __version__
from servegate.errors import ConfigError
from servegate.gates.checks import Check, Severity
from servegate.gates.compare import Compared, compare
from servegate.gates.pairs import Answers
from servegate.gates.policy import Group, Policy, Requirement
from servegate.gates.prices import Prices
from servegate.gates.select import find_measure, find_report, label, same_subject
from servegate.gates.units import misfit
from servegate.release import Release
from servegate.report.format import clean, duration, percent, plural, quantity, short_hash, with_interval, words
from servegate.report.model import Finding, Measure, Report
from servegate.report.verdict import CheckResult, Outcome, Verdict, worst
from servegate.stats.mde import normal_mde
from servegate.stats.multiple import benjamini_hochberg, holm

TOOL = f"servegate {__version__}"
# Two machines' clocks may differ this much before a report counts as coming from the future.
_CLOCK_SKEW = 60.0
_WORSE = {"error": ("error",), "warning": ("error", "warning")}
_NO_ANSWERS: Answers = MappingProxyType({})


@dataclass(frozen=True)
class _Found:
    """What a check found, before it becomes a line of the verdict."""

    check: Check
    outcome: Outcome
    message: str
    report: Report | None = None
    measure: Measure | None = None
    compared: Compared | None = None


def evaluate(
    policy: Policy,
    reports: Sequence[Report],
    baseline: Sequence[Report] = (),
    *,
    answers: Answers = _NO_ANSWERS,
    release: Release | str | None = None,
    now: float | None = None,
    decided_by: str = "library",
) -> Verdict:
    """Judge reports by a policy.

    Args:
        policy: what must hold.
        reports: what was measured; the same report twice counts once.
        baseline: the same of an earlier release, for checks against a baseline.
        answers: records behind both, by digest of the sidecar; without them nothing is paired.
        release: the release that is judged, or its digest `sha256:…`; None: the one the reports are of.
        now: seconds since the Unix epoch; None: when the newest report was finished, unless something must be younger
            than an age.
        decided_by: who or what runs the gate.

    Raises:
        ConfigError: the question makes no sense: reports of different releases and none named, two reports where one
            is meant, a unit or a direction that does not fit the measure, a baseline that is the candidate itself, an
            age that is asked for and no `now`.
    """
    now = _moment(policy, reports) if now is None else now
    reports = list({report.identity(): report for report in reports}.values())
    digest = release.identity() if isinstance(release, Release) else release
    digest = digest or same_subject(reports)
    results = [_require(requirement, reports, release, digest, now) for requirement in policy.require]
    prices = policy.prices
    found = {check.id: _check(check, reports, digest, baseline, answers, now, prices) for check in policy.checks}
    for group in policy.groups:
        found |= _corrected(group, found)
    results += [_result(item) for item in found.values()]
    names = {report.subject.name for report in reports if report.subject.release == digest and report.subject.name}
    return Verdict(
        outcome=worst(result.effect for result in results),
        release=digest,
        release_name=release.name if isinstance(release, Release) else next(iter(sorted(names)), None),
        policy=policy.name,
        policy_sha256=policy.identity(),
        reports=tuple(report.identity() for report in reports),
        results=tuple(results),
        decided_at=now,
        decided_by=decided_by,
        tool=TOOL,
    )


def _moment(policy: Policy, reports: Sequence[Report]) -> float:
    """When a verdict that depends on no age is given: a pure function reads no clock."""
    ages = [requirement.id for requirement in policy.require if requirement.max_age is not None]
    ages += [check.id for check in policy.checks if check.baseline is not None and check.baseline.max_age is not None]
    if ages:
        raise ConfigError(f"{ages[0]} asks for an age: give `now`, in seconds since the Unix epoch")
    return max((report.finished for report in reports), default=0.0)


def _require(
    requirement: Requirement, reports: Sequence[Report], release: Release | str | None, digest: str | None, now: float
) -> CheckResult:
    found = find_report(requirement.report, reports)
    if isinstance(found, str):
        return CheckResult(check=requirement.id, outcome=Outcome.VOID, effect=Outcome.VOID, message=found)
    problem = _unmet(requirement, found, release, digest, now)
    outcome = Outcome.PASS if problem is None else Outcome.VOID
    good = f"{label(found)} is there, {duration(max(0.0, now - found.finished))} old"
    return CheckResult(
        check=requirement.id, outcome=outcome, effect=outcome, report=found.identity(), message=problem or good
    )


def _unmet(
    requirement: Requirement, report: Report, release: Release | str | None, digest: str | None, now: float
) -> str | None:
    """Why a report does not satisfy a requirement; None when it does."""
    name = label(report)
    if requirement.of_release:
        if report.subject.release is None:
            return f"{name} names no release"
        if report.subject.release != digest:
            return f"{name} is of release {short_hash(report.subject.release)}, not of {short_hash(digest)}"
    if requirement.max_age is not None:
        age = now - report.finished
        if age < -_CLOCK_SKEW:
            return f"{name} finished {duration(-age)} in the future: a clock is wrong"
        if age > requirement.max_age:
            return f"{name} is {duration(age)} old; the policy wants it younger than {requirement.younger_than}"
    if requirement.image is not None:
        image = release.image if isinstance(release, Release) else None
        if image is None:
            return "the policy names an image; give the release's file, and one that has an image"
        if image.digest != requirement.image:
            return f"the release's image is {short_hash(image.digest)}, not {short_hash(requirement.image)}"
    found = report.conditions.dataset_sha256
    if requirement.dataset is not None and found != requirement.dataset:
        return f"{name} was measured on data set {short_hash(found)}, not {short_hash(requirement.dataset)}"
    return None


def _check(
    check: Check,
    reports: Sequence[Report],
    digest: str | None,
    baseline: Sequence[Report],
    answers: Answers,
    now: float,
    prices: Prices | None,
) -> _Found:
    report = find_report(check.report, reports)
    if isinstance(report, str):
        return _Found(check, Outcome.VOID, report)
    if report.subject.release != digest:
        other = report.subject.release
        of = "names no release" if other is None else f"is of release {short_hash(other)}, not of {short_hash(digest)}"
        return _Found(check, Outcome.VOID, f"{label(report)} {of}", report)
    void = report.void
    if void is not None:
        return _Found(check, Outcome.VOID, f"{label(report)} is void: {void.code}: {clean(void.message, 300)}", report)
    if check.no_findings is not None:
        return _findings(check, report, check.no_findings)
    measure = find_measure(check.target, report, prices)
    if isinstance(measure, str):
        return _Found(check, Outcome.VOID, measure, report)
    if check.baseline is not None:
        found = compare(check, check.baseline, report, measure, baseline, answers, now, prices)
        return _Found(check, found.outcome, found.message, report, measure, found)
    return _absolute(check, report, measure)


def _findings(check: Check, report: Report, severity: str) -> _Found:
    bad: list[Finding] = [finding for finding in report.findings if finding.severity in _WORSE[severity]]
    if not bad:
        return _Found(check, Outcome.PASS, f"{label(report)} has no finding of severity {severity}", report)
    first = f"{bad[0].code}: {clean(bad[0].message, 300)}"
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return _Found(check, Outcome.FAIL, f"{label(report)} has {plural(len(bad), 'finding')}: {first}{more}", report)


def _absolute(check: Check, report: Report, measure: Measure) -> _Found:
    condition = check.condition
    if not condition.limit.fits(measure.unit):
        raise ConfigError(f"check {check.id}: {measure.key}: {misfit(condition.limit, measure.unit)}")
    if measure.better is not None and measure.better != condition.wants:
        raise ConfigError(
            f"check {check.id}: {measure.key} is better when {measure.better}; "
            f"`{condition.operator} {condition.limit.written}` asks for the opposite"
        )
    outcome, why = _judge(check, measure)
    shown = with_interval(measure.value, measure.interval, measure.unit, unlike=condition.limit.value)
    limit = quantity(condition.limit.value, measure.unit)
    slice_ = f" [{clean(measure.slice, 80)}]" if measure.slice else ""
    name = f"{words(measure.name)} {words(measure.statistic)}{slice_}"
    return _Found(check, outcome, f"{name} {shown}, wanted {condition.operator} {limit}; {why}", report, measure)


def _judge(check: Check, measure: Measure) -> tuple[Outcome, str]:
    """Three-way: where the interval lies, or the value where that is what is judged."""
    condition, n = check.condition, measure.n
    if measure.value is None or n == 0:
        return Outcome.VOID, f"nothing was measured of {plural(measure.attempted, 'attempt')}"
    if measure.attempted and n < check.least_coverage * measure.attempted:
        share = percent(n / measure.attempted)
        return Outcome.VOID, f"only {share} of {plural(measure.attempted, 'attempt')} measured, {check.coverage} wanted"
    interval = measure.interval
    if check.judge == "value" or (check.judge is None and interval is None):
        outcome = Outcome.PASS if condition.holds(measure.value) else Outcome.FAIL
        return outcome, f"judged on the value, n {n:,}"
    if interval is None:
        return Outcome.INCONCLUSIVE, "the policy judges the interval, and the report has none"
    level = f"{percent(interval.level)} interval ({clean(interval.method, 40)}), n {n:,}"
    ends = [condition.holds(interval.low), condition.holds(interval.high)]
    if all(ends):
        return Outcome.PASS, f"the whole {level} holds"
    if not any(ends):
        return Outcome.FAIL, f"the whole {level} is beyond it"
    return Outcome.INCONCLUSIVE, f"the {level} holds values on both sides: more data would decide"


def _corrected(group: Group, found: dict[str, _Found]) -> dict[str, _Found]:
    """What the checks of a group find when their false alarms are counted together.

    Only FAIL is corrected: a false PASS of the whole needs every check to pass, which many checks make rarer.
    """
    compared = {name: found[name].compared for name in group.checks}
    p = {name: item.p_fail for name, item in compared.items() if item is not None and item.p_fail is not None}
    adjust = holm if group.correction == "holm" else benjamini_hochberg
    result = {}
    for (name, _), adjusted in zip(p.items(), adjust(list(p.values())), strict=True):
        item = found[name]
        assert item.check.baseline is not None
        if item.outcome is Outcome.FAIL and adjusted > item.check.baseline.alpha:
            note = f"; alone it would fail, among the {len(p)} of {group.id} it may be chance ({group.correction})"
            result[name] = replace(item, outcome=Outcome.INCONCLUSIVE, message=item.message + note)
    return result


def _result(found: _Found) -> CheckResult:
    check, outcome, measure, compared = found.check, found.outcome, found.measure, found.compared
    effect, severity = _effect(found)
    absolute = check.expect is not None and measure is not None
    return CheckResult(
        check=check.id,
        outcome=outcome,
        effect=effect,
        severity=severity,
        measure=measure.key if measure else None,
        report=found.report.identity() if found.report else None,
        value=measure.value if measure else None,
        unit=measure.unit if measure else None,
        n=measure.n if measure else None,
        interval=measure.interval if measure else None,
        threshold=check.condition.limit.value if absolute else compared.threshold if compared else None,
        comparison=check.condition.operator if absolute else compared.comparison if compared else None,
        baseline=compared.baseline if compared else None,
        baseline_report=compared.baseline_report if compared else None,
        delta=compared.delta if compared else None,
        ratio=compared.ratio if compared else False,
        delta_interval=compared.delta_interval if compared else None,
        mde=_detectable(measure) if absolute else compared.mde if compared else None,
        wanted=compared.wanted if compared else None,
        lost=compared.lost if compared else None,
        won=compared.won if compared else None,
        discordant=compared.discordant if compared else (),
        message=found.message,
    )


def _effect(found: _Found) -> tuple[Outcome, Severity]:
    """What an outcome counts as, and whether it is shown as a warning."""
    check, outcome = found.check, found.outcome
    if check.severity == "warn":
        return Outcome.PASS, "warn"
    if outcome is not Outcome.INCONCLUSIVE:
        return outcome, "block"
    if found.compared is not None and found.compared.wanted is not None:
        return outcome, "block"  # the producer is asked for more before the policy decides
    if check.on_inconclusive == "fail":
        return Outcome.FAIL, "block"
    return Outcome.PASS, "warn" if check.on_inconclusive == "warn" else "block"


def _detectable(measure: Measure | None) -> float | None:
    """Distance from the limit at which an interval of this width decides in 80 % of the runs."""
    if measure is None or measure.interval is None:
        return None
    level = (1 + measure.interval.level) / 2
    error = (measure.interval.high - measure.interval.low) / 2 / normal_mde(1.0, level, 0.5)
    return normal_mde(error, level)
