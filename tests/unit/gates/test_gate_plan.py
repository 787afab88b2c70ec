"""The plan: what a policy can see, what is refused, and that the advice is true."""

from __future__ import annotations

from typing import Any

from servegate.config import validate
from servegate.gates import Policy
from servegate.gates.plan import Planned, plan, table
from servegate.report.model import Finding, Interval, Kind, Measure, Report, Samples, Subject
from servegate.report.records import EvalRecord
from servegate.stats.intervals import wilson

RELEASE = "sha256:" + "a" * 64


def policy(**check: Any) -> Policy:
    data: dict[str, Any] = {"version": 1, "name": "p", "checks": [{"id": "c", "report": "eval", **check}]}
    if check.get("severity") == "warn":
        data["checks"].append({"id": "d", "report": "eval", "no_findings": "error"})
    return validate(data, Policy, "policy")


def against(margin: str, **more: Any) -> Policy:
    return policy(measure="accuracy", baseline={"margin": margin, **more})


def report(kind: Kind, measure: Measure, digest: str = "") -> Report:
    samples = (Samples(path="r", sha256=digest, record="EvalRecord", n=1),) if digest else ()
    return Report(
        kind=kind,
        name="support",
        subject=Subject(release=RELEASE),
        started=1,
        finished=2 if not digest else 2 + int(digest[-1], 16),
        tool="t",
        measures=(measure,),
        samples=samples,
    )


def accuracy(right: int, n: int) -> Measure:
    found = wilson(right, n)
    return Measure(
        name="accuracy",
        statistic="mean",
        value=right / n,
        unit="fraction",
        n=n,
        attempted=n,
        better="higher",
        interval=Interval(low=found.low, high=found.high, level=0.95, method="wilson"),
    )


def aa(n: int, flipped: int, *, clusters: int | None = None, parts: int = 1) -> tuple[Report, Report, dict[str, Any]]:
    """Two runs of one model on n items: `flipped` differ, half of them each way."""
    answers: dict[str, Any] = {}
    reports = []
    for run, digest in ((0, "sha256:" + "1" * 64), (1, "sha256:" + "2" * 64)):
        scores = [float(index % 2 == run) if index < flipped else float(index % 5 != 0) for index in range(n)]
        scores = [round(score / parts + (parts - 1) / parts, 6) for score in scores]
        answers[digest] = [
            EvalRecord(
                id=f"i{index}",
                item_sha256="sha256:" + f"{index:064x}",
                scorer="exact",
                score=score,
                cluster=None if clusters is None else f"k{index % clusters}",
            )
            for index, score in enumerate(scores)
        ]
        measure = accuracy(round(sum(scores)), n).model_copy(update={"value": sum(scores) / n})
        reports.append(report("eval", measure, digest))
    return reports[0], reports[1], answers


def one(rules: Policy, *baseline: Report, again: tuple[Report, ...] = (), answers: Any = None) -> Planned:
    return plan(rules, baseline, again, answers=answers)[0]


def test_a_wide_margin_is_accepted_and_a_narrow_one_refused_with_what_would_do() -> None:
    first, second, answers = aa(400, 40)
    wide = one(against("9pp", detect="20pp"), first, again=(second,), answers=answers)
    assert wide.accepted
    assert wide.unchanged is not None
    assert wide.unchanged >= 0.99
    assert wide.caught is not None
    assert wide.caught > 0.9
    assert "A/A: 40 of 400 items differ" in wide.note
    narrow = one(against("2pp"), first, again=(second,), answers=answers)
    assert not narrow.accepted
    assert "would do: n " in narrow.note
    assert "or a margin of " in narrow.note


def test_the_advice_is_true() -> None:
    first, second, answers = aa(400, 40)
    note = one(against("3pp"), first, again=(second,), answers=answers).note
    margin = note.rpartition("a margin of ")[2].removesuffix(" pp")
    accepted = one(against(f"{float(margin) + 0.1:.1f}pp"), first, again=(second,), answers=answers)
    refused = one(against(f"{float(margin) - 0.3:.1f}pp"), first, again=(second,), answers=answers)
    assert accepted.accepted
    assert not refused.accepted
    n = int(note.partition("would do: n ")[2].partition(" ")[0].replace(",", ""))
    larger, again, more = aa(n, round(0.1 * n))
    assert one(against("3pp"), larger, again=(again,), answers=more).accepted


def test_a_declared_discordance_serves_where_there_is_no_second_run() -> None:
    first, _, answers = aa(400, 0)
    declared = one(against("9pp", discordance="10%"), first, answers=answers)
    assert declared.accepted
    assert "declared discordance 10%" in declared.note
    missing = one(against("9pp"), first, answers=answers)
    assert not missing.accepted
    assert "needs an A/A run, or a declared `discordance`" in missing.note


def test_a_second_run_without_any_difference_is_not_a_promise() -> None:
    first, second, answers = aa(60, 0)
    assert not one(against("2pp"), first, again=(second,), answers=answers).accepted
    first, second, answers = aa(800, 0)
    assert one(against("2pp"), first, again=(second,), answers=answers).accepted


def test_extensions_make_a_margin_possible() -> None:
    first, second, answers = aa(400, 40)
    once = one(against("5pp"), first, again=(second,), answers=answers)
    extended = one(against("5pp", looks=[400, 800, 1600]), first, again=(second,), answers=answers)
    assert (once.accepted, extended.accepted) == (False, True)
    assert extended.n == 1600


def test_clusters_cost_power() -> None:
    apart, together = (
        one(against("8pp"), first, again=(second,), answers=answers)
        for first, second, answers in (aa(400, 40), aa(400, 40, clusters=20))
    )
    assert "over 20 clusters" in together.note
    assert together.mde is not None
    assert apart.mde is not None


def test_scores_between_are_planned_by_their_spread() -> None:
    first, second, answers = aa(300, 60, parts=4)
    found = one(against("4pp"), first, again=(second,), answers=answers)
    assert "standard error" in found.note
    assert found.accepted


def test_latencies_are_planned_as_two_runs() -> None:
    def ttft(half: float) -> Report:
        interval = Interval(low=0.2 - half, high=0.2 + half, level=0.95, method="order-statistic")
        measure = Measure(
            name="ttft",
            statistic="p95",
            value=0.2,
            unit="seconds",
            n=400,
            attempted=400,
            better="lower",
            interval=interval,
        )
        return report("load", measure)

    rules = policy(report="load", measure="ttft p95", baseline={"margin": "20% of baseline", "detect": "100ms"})
    steady, noisy = one(rules, ttft(0.005)), one(rules, ttft(0.05))
    assert steady.accepted
    assert steady.caught is not None
    assert steady.caught > 0.99
    assert not noisy.accepted
    assert "UNPAIRED" in noisy.note
    assert "ms" in noisy.note.rpartition("margin of")[2]


def test_absolute_checks_are_planned_exactly() -> None:
    rules = policy(expect="accuracy >= 80%")
    assert one(rules, report("eval", accuracy(190, 200))).accepted
    close = one(rules, report("eval", accuracy(85, 100)))
    assert not close.accepted
    assert "would do: n " in close.note
    below = one(rules, report("eval", accuracy(75, 100)))
    assert "would do: a limit of " in below.note


def test_what_is_not_known_is_refused_unless_it_only_warns() -> None:
    assert not one(policy(expect="accuracy >= 80%")).accepted
    assert one(policy(expect="accuracy >= 80%", severity="warn")).accepted
    assert one(policy(no_findings="error")).accepted


def test_void_reports_and_the_same_report_twice_plan_nothing() -> None:
    first, second, answers = aa(400, 40)
    void = Finding(severity="error", code="endpoint-died", message="gone", voids=True)
    gone, again_gone = (item.model_copy(update={"findings": (void,)}) for item in (first, second))
    assert "is void: endpoint-died" in one(against("9pp"), gone, again=(second,), answers=answers).note
    assert "second run is void" in one(against("9pp"), first, again=(again_gone,), answers=answers).note
    assert "second run is the first" in one(against("9pp"), first, again=(first,), answers=answers).note


def test_no_margin_never_passes_an_unchanged_model() -> None:
    first, second, answers = aa(400, 40)
    found = one(against("0pp"), first, again=(second,), answers=answers)
    assert not found.accepted
    assert "would do: a margin of" in found.note


def test_the_table_is_safe_in_a_log() -> None:
    lines = table([Planned("c", note="::error::\x1b[31mx"), Planned("d", 5, "fraction", 0.1, 0.5, 0.2, 0.3, False)])
    assert not any(line.lstrip().startswith("::") or "\x1b" in line for line in lines)
    assert "REFUSED" in lines[-1]


def test_what_could_never_fail_is_refused() -> None:
    first, second, answers = aa(400, 40)
    all_of_it = one(against("85pp"), first, again=(second,), answers=answers)
    assert not all_of_it.accepted
    assert "could never fail" in all_of_it.note
    nearly = one(against("74pp"), first, again=(second,), answers=answers)
    assert not nearly.accepted
    assert "would not FAIL in 80 % of the runs" in nearly.note


def test_a_check_that_only_warns_is_never_refused_and_never_called_good() -> None:
    first, second, answers = aa(400, 40)
    weak = one(_warning("2pp"), first, again=(second,), answers=answers)
    assert weak.accepted
    assert table([weak])[1].startswith("weak ")
    assert table([one(_warning("2pp"))])[1].startswith("- ")
    strong = one(against("9pp"), first, again=(second,), answers=answers)
    assert table([strong])[1].startswith("ok ")


def _warning(margin: str) -> Policy:
    return policy(measure="accuracy", baseline={"margin": margin}, severity="warn")
