"""What the end of a rollout rests on at one tick, point by point, for its report. Pure; nothing is decided by it."""

from __future__ import annotations

from servegate.report.canary import Guarded, Proof, ProofPoint, Seen
from servegate.report.records import Evidence
from servegate.rollout import evidence, reasons
from servegate.rollout.absorb import serves
from servegate.rollout.model import CheckState, Observation, Phase, State, Totals
from servegate.rollout.plan import Plan
from servegate.rollout.rollback import TOO_MANY
from servegate.stats.special import binomial_tail


def proof(plan: Plan, before: State, after: State, seen: Observation) -> Proof | None:
    """What this tick shows of a rollback; None when there is none under way."""
    if Phase.ROLLING_BACK not in (before.phase, after.phase):
        return None
    over = after.phase is not Phase.ROLLING_BACK
    restore = after.restore
    if restore is not None and not restore.swapped:
        serving = f"{reasons.name(after, after.stable)} still serves all traffic"
        point = ProofPoint(what="weights", outcome="FAIL" if over else "INCONCLUSIVE", found=serving)
        return Proof(to=restore.target.name, slot=after.candidate, points=(point,), todo=after.unproven)
    stable = after.stable
    points: list[ProofPoint] = []
    if serves(seen.route, {stable: 100.0, after.candidate: 0.0}):
        points.append(ProofPoint(what="weights", outcome="PASS", found=f"the router serves {stable} with 100 %"))
    else:
        waits = after.waiting or "the router has not confirmed the weights"
        points.append(ProofPoint(what="weights", outcome="FAIL" if over else "INCONCLUSIVE", found=waits))
    if after.first_traffic is not None and plan.strategy != "shadow":
        points += _answered(plan, after, seen, over)
    return Proof(to=after.slots[stable].name, slot=stable, points=tuple(points), todo=after.unproven)


def _answered(plan: Plan, state: State, seen: Observation, over: bool) -> list[ProofPoint]:
    """Whether the old release answers, and how often it fails, in the look that counts."""
    not_seen: Seen = "FAIL" if over and state.unproven else "INCONCLUSIVE"
    look = state.proof
    if look is None:
        nothing = "not looked at before the router serves the weights"
        return [
            ProofPoint(what="answers", outcome=not_seen, found=nothing),
            ProofPoint(what="errors", outcome=not_seen, found=nothing),
        ]
    sums = state.totals.get(state.stable) or Totals()
    requests = round(sums.requests - look.requests)
    failed = round(sums.failures + sums.rejected - look.failures)
    lasted = reasons.seconds(seen.at - look.since)
    smoke = seen.preparation.smoke
    if requests > 0:
        answers = ProofPoint(
            what="answers",
            outcome="PASS" if failed < requests else not_seen,
            found=f"{requests - failed} of {requests} requests were answered in {lasted}",
        )
        normal = binomial_tail(failed, requests, plan.normal_errors) > TOO_MANY
        errors = ProofPoint(
            what="errors",
            outcome="PASS" if over and normal else not_seen,
            found=f"{failed} of {requests} failed ({100 * failed / requests:.3g} %), "
            f"{100 * plan.normal_errors:g} % is normal",
        )
        return [answers, errors]
    told = seen.preparation.smoke_message
    said = {"ok": "it passes its smoke test", "failed": f"its smoke test fails: {told}"}.get(smoke or "", "")
    answers = ProofPoint(
        what="answers",
        outcome="PASS" if smoke == "ok" else not_seen,
        found=f"no request came in {lasted}; {said or 'its smoke test gave no result yet'}",
    )
    return [answers, ProofPoint(what="errors", outcome="INCONCLUSIVE", found="not measured: no request came")]


def guarded(plan: Plan, state: State) -> Guarded | None:
    """The watch over a promoted release as it stands; None when there is none."""
    guard, judged = state.guard, plan.guarded()
    if guard is None:
        return None
    lines = (
        Evidence(
            check=check.name,
            log_e=evidence.log_e(judged, check, guard.checks.get(check.name) or CheckState()),
            log_limit=judged.log_limit(check),
        )
        for check in (() if judged is None else judged.checks)
        if judged is not None
    )
    return Guarded(
        release=state.slots[state.stable].name,
        slot=state.stable,
        since=guard.since,
        until=guard.until,
        ended=guard.ended,
        evidence=tuple(lines),
    )
