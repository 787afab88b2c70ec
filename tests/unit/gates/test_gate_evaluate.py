"""The gate: what each kind of report becomes, and what it counts as."""

from __future__ import annotations

from typing import Any

import pytest

from servegate.config import validate
from servegate.endpoint import EndpointFacts
from servegate.errors import ConfigError, ExitCode
from servegate.gates import Policy, evaluate
from servegate.release import Engine, Image, Model, Release
from servegate.report.model import Conditions, Finding, Interval, Kind, Measure, Report, Subject
from servegate.report.verdict import CheckResult, Outcome, Verdict

RELEASE = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
DATASET = "sha256:" + "d" * 64
NOW = 1_800_000_000.0


def measure(name: str, statistic: str, value: float | None, unit: Any, **more: Any) -> Measure:
    """A measure of 100 values; `interval=(low, high)` at 95 %."""
    ends = more.pop("interval", None)
    interval = None if ends is None else Interval(low=ends[0], high=ends[1], level=0.95, method="wilson")
    return Measure(
        name=name,
        statistic=statistic,
        value=value,
        unit=unit,
        interval=interval,
        **{"n": 100, "attempted": 100, **more},
    )


def report(kind: Kind, *measures: Measure, name: str = "x", **more: Any) -> Report:
    """A report of RELEASE that finished ten minutes ago."""
    release = more.pop("release", RELEASE)
    findings: tuple[Finding, ...] = more.pop("findings", ())
    return Report(
        kind=kind,
        name=name,
        subject=more.pop("subject", None) or Subject(release=release, name="v1.4.0"),
        conditions=more.pop("conditions", Conditions(dataset_sha256=DATASET)),
        started=NOW - 700,
        finished=more.pop("finished", NOW - 600),
        tool="test",
        measures=measures,
        findings=findings,
        **more,
    )


def policy(*checks: dict[str, Any], require: list[dict[str, Any]] | None = None) -> Policy:
    data = {
        "version": 1,
        "name": "p",
        "require": require or [],
        "checks": [{"id": f"c{index}", **check} for index, check in enumerate(checks)],
    }
    return validate(data, Policy, "policy")


def judge(rules: Policy, *reports: Report, release: Release | str | None = None) -> Verdict:
    return evaluate(rules, reports, release=release, now=NOW, decided_by="test")


def one(check: dict[str, Any], *reports: Report) -> CheckResult:
    (result,) = judge(policy(check), *reports).results
    return result


ACCURACY = {"report": "eval", "expect": "accuracy >= 80%"}
TTFT = {"report": "load", "expect": "ttft p95 < 500ms"}
CLEAN = {"report": "smoke", "no_findings": "error"}


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [
        ((0.81, 0.95), Outcome.PASS),
        ((0.80, 0.95), Outcome.PASS),
        ((0.75, 0.95), Outcome.INCONCLUSIVE),
        ((0.70, 0.80), Outcome.INCONCLUSIVE),
        ((0.60, 0.79), Outcome.FAIL),
    ],
)
def test_a_lower_limit_is_judged_three_way(interval: tuple[float, float], outcome: Outcome) -> None:
    found = one(ACCURACY, report("eval", measure("accuracy", "mean", 0.8, "fraction", interval=interval)))
    assert found.outcome is outcome


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [((0.3, 0.499), Outcome.PASS), ((0.3, 0.5), Outcome.INCONCLUSIVE), ((0.5, 0.6), Outcome.FAIL)],
)
def test_a_strict_upper_limit_is_judged_three_way(interval: tuple[float, float], outcome: Outcome) -> None:
    found = one(TTFT, report("load", measure("ttft", "p95", 0.4, "seconds", interval=interval)))
    assert found.outcome is outcome
    assert (found.threshold, found.comparison, found.unit) == (0.5, "<", "seconds")


def test_the_value_is_judged_where_the_policy_says_so_or_there_is_no_interval() -> None:
    wide = measure("accuracy", "mean", 0.81, "fraction", interval=(0.7, 0.9))
    assert one({**ACCURACY, "judge": "value"}, report("eval", wide)).outcome is Outcome.PASS
    bare = measure("accuracy", "mean", 0.79, "fraction")
    assert one(ACCURACY, report("eval", bare)).outcome is Outcome.FAIL
    assert one({**ACCURACY, "judge": "interval"}, report("eval", bare)).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("keys", "effect", "severity"),
    [
        ({}, Outcome.FAIL, "block"),
        ({"on_inconclusive": "fail"}, Outcome.FAIL, "block"),
        ({"on_inconclusive": "warn"}, Outcome.PASS, "warn"),
        ({"on_inconclusive": "pass"}, Outcome.PASS, "block"),
    ],
)
def test_inconclusive_counts_as_the_policy_says(keys: dict[str, Any], effect: Outcome, severity: str) -> None:
    unsure = report("eval", measure("accuracy", "mean", 0.8, "fraction", interval=(0.7, 0.9)))
    found = one({**ACCURACY, **keys}, unsure)
    assert (found.outcome, found.effect, found.severity) == (Outcome.INCONCLUSIVE, effect, severity)


def test_a_warning_never_blocks() -> None:
    bad = report("eval", measure("accuracy", "mean", 0.1, "fraction"))
    verdict = judge(policy({**ACCURACY, "severity": "warn"}, {**ACCURACY, "expect": "accuracy > 5%"}), bad)
    assert [result.outcome for result in verdict.results] == [Outcome.FAIL, Outcome.PASS]
    assert verdict.outcome is Outcome.PASS


VOIDING = Finding(severity="error", code="client-saturated", message="the client was late", voids=True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "no eval report was given (given: none)"),
        ([report("load")], "given: load/x"),
        ([report("eval")], "it has none"),
        ([report("eval", measure("acuracy", "mean", 0.9, "fraction"))], "nearest: acuracy.mean"),
        ([report("eval", measure("accuracy", "mean", None, "fraction", n=0))], "nothing was measured of 100 attempts"),
        ([report("eval", measure("accuracy", "mean", 0.9, "fraction", n=0, attempted=0))], "nothing was measured"),
        ([report("eval", measure("accuracy", "mean", 1.0, "fraction", n=94))], "only 94 % of 100 attempts measured"),
        ([report("eval", measure("accuracy", "mean", 0.9, "fraction"), findings=(VOIDING,))], "client-saturated"),
        (
            [report("eval", *(measure("accuracy", name, 0.9, "fraction") for name in ("p50", "p90")))],
            "name one of p50, p90",
        ),
    ],
)
def test_what_was_not_validly_measured_is_void_and_never_green(given: list[Report], says: str) -> None:
    verdict = judge(policy(ACCURACY), *given)
    assert verdict.outcome is Outcome.VOID
    assert verdict.outcome.exit_code is ExitCode.NO_VERDICT
    assert says in verdict.results[0].message


def test_coverage_can_be_lowered_by_name() -> None:
    half = report("eval", measure("accuracy", "mean", 1.0, "fraction", n=50))
    assert one({**ACCURACY, "coverage": "50%"}, half).outcome is Outcome.PASS


def test_the_mean_is_meant_where_no_statistic_is_named() -> None:
    both = report("eval", measure("accuracy", "p50", 1.0, "fraction"), measure("accuracy", "mean", 0.5, "fraction"))
    assert one(ACCURACY, both).measure == "accuracy.mean"


def test_slices_and_slots_are_not_confused_with_the_whole() -> None:
    parts = report(
        "eval",
        measure("accuracy", "mean", 0.9, "fraction"),
        measure("accuracy", "mean", 0.5, "fraction", slice="tags=refund"),
        measure("accuracy", "mean", 0.1, "fraction", slot="green"),
    )
    assert one(ACCURACY, parts).value == 0.9
    assert one({**ACCURACY, "slice": {"tags": "refund"}}, parts).value == 0.5
    assert one({**ACCURACY, "slot": "green"}, parts).value == 0.1
    assert one({**ACCURACY, "slot": "blue"}, parts).outcome is Outcome.VOID


def test_findings() -> None:
    warning = Finding(severity="warning", code="slow", message="slow start")
    error = Finding(severity="error", code="no-stream", message="::error::\x1b[31m not streamed")
    assert one(CLEAN, report("smoke", findings=(warning,))).outcome is Outcome.PASS
    assert one({**CLEAN, "no_findings": "warning"}, report("smoke", findings=(warning,))).outcome is Outcome.FAIL
    found = one(CLEAN, report("smoke", findings=(warning, error, error)))
    assert found.outcome is Outcome.FAIL
    assert "2 findings: no-stream" in found.message
    assert "\x1b" not in found.message
    assert one(CLEAN, report("smoke", findings=(error, VOIDING))).outcome is Outcome.VOID


@pytest.mark.parametrize(
    ("check", "given", "says"),
    [
        ({"report": "load", "expect": "retries < 500ms"}, measure("retries", "total", 3, "count"), "does not fit"),
        ({"report": "load", "expect": "wait < 500"}, measure("wait", "p95", 3, "seconds"), "has no unit"),
        (
            {"report": "load", "expect": "wait > 5s"},
            measure("wait", "p95", 3, "seconds", better="lower"),
            "asks for the opposite",
        ),
    ],
)
def test_a_policy_that_does_not_fit_the_measure_is_an_error(check: dict[str, Any], given: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        one(check, report("load", given))


def test_reports_that_cannot_be_told_apart_are_refused() -> None:
    chat, burst = (report("load", measure("ttft", "p95", 0.1, "seconds"), name=name) for name in ("chat", "burst"))
    with pytest.raises(ConfigError, match="load/chat, load/burst"):
        one(TTFT, chat, burst)
    assert one({**TTFT, "report": "load/burst"}, chat, burst).report == burst.identity()
    assert one(TTFT, chat, chat).outcome is Outcome.PASS


def test_reports_of_two_releases_are_refused_unless_one_is_named() -> None:
    mine, other = report("smoke"), report("load", measure("ttft", "p95", 0.1, "seconds"), release=OTHER)
    with pytest.raises(ConfigError, match="not of one release"):
        judge(policy(CLEAN, TTFT), mine, other)
    verdict = judge(policy(CLEAN, TTFT), mine, other, release=RELEASE)
    assert [result.outcome for result in verdict.results] == [Outcome.PASS, Outcome.VOID]
    assert "is of release bbbbbbbbbbbb, not of aaaaaaaaaaaa" in verdict.results[1].message


def test_reports_of_two_models_are_refused_where_nobody_names_a_release() -> None:
    small, large = (
        Subject(endpoint=EndpointFacts(url="http://127.0.0.1:1", model=model)) for model in ("small", "large")
    )
    given = [report("smoke", subject=small), report("load", subject=large)]
    with pytest.raises(ConfigError, match="different models"):
        judge(policy(CLEAN), *given)
    assert judge(policy(CLEAN), given[0]).outcome is Outcome.PASS


def made(digest: str | None) -> Release:
    return Release(
        name="v1.4.0",
        image=None if digest is None else Image(repository="app/chat", digest=digest),
        model=Model(uri="hf://a/b", served_name="m"),
        engine=Engine(name="vllm", version="0.32.0"),
    )


@pytest.mark.parametrize(
    ("requirement", "given", "says"),
    [
        ({}, {}, None),
        ({"younger_than": "11min"}, {}, None),
        ({"younger_than": "9min"}, {}, "10 min old; the policy wants it younger than 9min"),
        ({"younger_than": "1h"}, {"finished": NOW + 3600}, "in the future"),
        ({}, {"release": OTHER}, "is of release bbbbbbbbbbbb"),
        ({"of_release": False}, {"release": OTHER}, None),
        ({"dataset": DATASET}, {}, None),
        ({"dataset": OTHER}, {}, "data set dddddddddddd, not bbbbbbbbbbbb"),
        ({"dataset": DATASET}, {"conditions": Conditions()}, "data set none"),
        ({"report": "eval/other"}, {}, "no eval/other report was given"),
    ],
)
def test_requirements(requirement: dict[str, Any], given: dict[str, Any], says: str | None) -> None:
    rules = policy(CLEAN, require=[{"report": "eval", **requirement}])
    verdict = judge(rules, report("smoke"), report("eval", **given), release=RELEASE)
    assert verdict.results[0].outcome is (Outcome.PASS if says is None else Outcome.VOID)
    assert says is None or says in verdict.results[0].message
    assert verdict.outcome is verdict.results[0].outcome


@pytest.mark.parametrize(
    ("digest", "says"), [(DATASET, None), (OTHER, "image is bbbb"), (None, "one that has an image")]
)
def test_a_required_image_is_the_one_of_the_release_that_is_judged(digest: str | None, says: str | None) -> None:
    release = made(digest)
    rules = policy(CLEAN, require=[{"report": "smoke", "image": DATASET}])
    verdict = judge(rules, report("smoke", release=release.identity()), release=release)
    assert verdict.outcome is (Outcome.PASS if says is None else Outcome.VOID)
    assert says is None or says in verdict.results[0].message
    digest_only = judge(rules, report("smoke", release=release.identity()), release=release.identity())
    assert digest_only.outcome is Outcome.VOID


def test_the_verdict_says_who_what_and_under_which_policy() -> None:
    rules, given = policy(CLEAN), report("smoke")
    verdict = judge(rules, given)
    assert verdict.release == RELEASE
    assert verdict.release_name == "v1.4.0"
    assert verdict.policy_sha256 == rules.identity()
    assert verdict.reports == (given.identity(),)
    assert (verdict.decided_at, verdict.decided_by) == (NOW, "test")
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_a_failure_outranks_what_was_not_measured() -> None:
    bad = report("eval", measure("accuracy", "mean", 0.1, "fraction"))
    verdict = judge(policy(ACCURACY, TTFT), bad)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.outcome.exit_code is ExitCode.GATE_FAILED
