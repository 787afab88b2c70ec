"""A canary's way back, watch and experiment as titled tables of text: the same for every view. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from servegate.report.canary import CanaryStory, MetricSeen, Trial, Watch, WayBack
from servegate.report.format import count, date, duration, number, percent, plural
from servegate.report.story import ratio

_POINTS = {"weights": "Weights effective", "answers": "Old release answers", "errors": "Error rate back"}


@dataclass(frozen=True)
class Section:
    """A part of a canary's report.

    Args:
        title: what it is about.
        outcome: PASS, FAIL or INCONCLUSIVE of the whole.
        lead: what it comes to, in a sentence.
        facts: label → value.
        head: of the table, the first column is the outcome of the row.
        rows: outcome, then as many cells as `head` has further columns.
        todo: what a person must do; empty: nothing.
    """

    title: str
    outcome: str
    lead: str
    facts: dict[str, str]
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    todo: str = ""


def sections(canary: CanaryStory | None) -> tuple[Section, ...]:
    """What there is, in the order in which it happened."""
    return () if canary is None else tuple(_sections(canary))


def _sections(canary: CanaryStory) -> Iterator[Section]:
    if canary.experiment is not None:
        yield _experiment(canary.experiment)
    if canary.watch is not None:
        yield _watch(canary.watch)
    if canary.way_back is not None:
        yield _way_back(canary.way_back)


def _way_back(found: WayBack) -> Section:
    proof = found.proof
    if proof.todo:
        outcome, lead = "FAIL", f"NOT PROVEN that {proof.to} serves well again."
    elif found.ended is None:
        outcome, lead = "INCONCLUSIVE", f"Under way to {proof.to}, not proven yet."
    else:
        moved = len(proof.points) > 1
        outcome = "PASS"
        lead = f"Proven: {proof.to} serves again." if moved else f"No user's traffic had left {proof.to}."
    facts = {"Why": found.why or "–", "Decided": date(found.decided)}
    if found.effective is not None:
        facts["Weights effective after"] = duration(found.effective - found.decided)
    if found.ended is not None:
        facts["Ended after"] = duration(found.ended - found.decided)
    return Section(
        title=f"Way back to {proof.to} ({proof.slot})",
        outcome=outcome,
        lead=lead,
        facts=facts,
        head=("Outcome", "Point", "Found"),
        rows=tuple((point.outcome, _POINTS[point.what], point.found) for point in proof.points),
        todo=proof.todo,
    )


def _watch(found: Watch) -> Section:
    guarded = found.guarded
    lead = {
        "PASS": f"{guarded.release} stays.",
        "FAIL": f"{guarded.release} was taken back.",
    }.get(found.outcome, f"{guarded.release} is being watched.")
    facts = {
        "Window": f"{duration(guarded.until - guarded.since)}, until {date(guarded.until)}",
        "Decided": found.decision,
        "Alerts": plural(len(found.alerts), "alert") if found.alerts else "none came",
    }
    if found.ended is not None:
        facts["Watched for"] = duration(found.ended - guarded.since)
    objectives = [
        (
            "FAIL" if line.log_e >= line.log_limit else "PASS",
            line.check,
            f"{percent(max(0.0, ratio(line.log_e, line.log_limit)))} of the evidence that takes it back",
        )
        for line in guarded.evidence
    ]
    acts = {"rollback": "FAIL", "freeze": "INCONCLUSIVE", "resolved": "PASS"}
    alerts = [
        (acts[alert.kind], f"Alert, {alert.kind}, {date(alert.at)}", f"{alert.text}: {alert.outcome}")
        for alert in found.alerts
    ]
    return Section(
        title=f"Guard of {guarded.release} ({guarded.slot})",
        outcome=found.outcome,
        lead=lead,
        facts=facts,
        head=("Outcome", "Objective or alert", "Found"),
        rows=(*objectives, *alerts),
    )


def _experiment(found: Trial) -> Section:
    lead = {"PASS": "The candidate is better.", "FAIL": "The candidate is worse, or did harm."}.get(
        found.outcome, "No difference is shown."
    )
    total = sum(found.users.values())
    shares = ", ".join(f"{slot} {count(users)}" for slot, users in sorted(found.users.items()))
    looks = {"sequential": "sequential, holds at every look", "fixed": "fixed, one look at the planned number of users"}
    return Section(
        title="Experiment",
        outcome=found.outcome,
        lead=lead,
        facts={
            "Hypothesis": found.hypothesis,
            "Decided": found.decision,
            "Users": f"{count(total)} of {count(found.wanted)}{f' ({shares})' if shares else ''}",
            "Horizon": looks[found.horizon],
        },
        head=("Outcome", "What", "Stable", "Candidate", "Effect [interval]", "Limit"),
        rows=(
            (
                found.ratio.outcome,
                "Sample ratio",
                percent(1 - found.ratio.planned),
                percent(found.ratio.planned),
                "not counted" if found.ratio.found is None else f"{percent(found.ratio.found)} in the candidate's arm",
                found.ratio.text,
            ),
            *(_metric(metric) for metric in found.metrics),
        ),
    )


def _metric(found: MetricSeen) -> tuple[str, ...]:
    role = "primary" if found.primary else "guardrail"
    wish = f"{found.better} is better"
    if found.effect is None:
        effect = "not looked at, or no value yet"
    elif found.low is None or found.high is None:
        effect = f"{_signed(found.effect)} [too few users]"
    else:
        level = percent(found.level)
        effect = f"{_signed(found.effect)} [{_signed(found.low)}, {_signed(found.high)}] at {level}"
    bound = f"to find {number(found.bound)}" if found.primary else f"worse by at most {number(found.bound)}"
    return (
        found.outcome,
        f"{found.name} ({role}, {wish})",
        "" if found.stable is None else number(found.stable),
        "" if found.candidate is None else number(found.candidate),
        effect,
        bound,
    )


def _signed(value: float) -> str:
    """A minus sign as long as the plus, three significant digits."""
    return f"{'−' if value < 0 else '+'}{number(abs(value))}"
