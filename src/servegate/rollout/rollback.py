"""The way back: to stable while a rollout runs, to the release before or a named one after it. Ends with proof.

Traffic goes back first and questions are asked later: while the old slot is warm, one write of weights is all it takes,
whatever has become of the candidate, the metrics or the promotion. A release that has to be started first is started,
found ready and smoke-tested before it gets any traffic; until then the weights stay as they are. So is the old slot
when its replicas were lost meanwhile; only when the candidate has none either, the first that is ready gets the
traffic. With no ready replica anywhere the weights stay, and people are told. When the router serves the old release
again, it is watched until it has answered at a normal error rate. What cannot be proven is said, with what a person
must look at.
"""

from __future__ import annotations

from servegate.rollout import reasons
from servegate.rollout.absorb import serves
from servegate.rollout.model import Phase, Proof, Totals
from servegate.rollout.ports import Weights
from servegate.rollout.reclaims import under_way
from servegate.rollout.turn import CONCLUDED, Turn
from servegate.stats.special import binomial_tail

TOO_MANY = 0.01
"""The error rate is not back when so many failures had at most this probability at the normal rate."""


def rolling_back(turn: Turn) -> None:
    """Make the next move back, or say what it waits for."""
    state = turn.state
    restore = state.restore
    if restore is not None and not restore.swapped and state.slots[state.candidate].release == restore.target.release:
        _bring_back(turn)
        return
    target = {state.stable: 100.0, state.candidate: 0.0}
    if not _takes_it(turn, target):
        return
    if state.weights != target:
        turn.change(weights=target)
    state = turn.state
    # What was seen must have been seen after the decision, not before it.
    if serves(turn.seen.route, target) and state.phase_since < turn.now:
        if restore is not None and not restore.swapped:
            turn.change(smoke_ok=False)
            turn.put(restore.target)
            turn.wait_for(f"{restore.target.name} to be started in {state.candidate}")
        else:
            _prove(turn)
    else:
        turn.wait_for(f"the router to serve {state.candidate} with 0 %")
        since = state.phase_since + turn.plan.watchdogs.route
        if turn.previous <= since < turn.now:
            turn.notify("critical", "the router does not confirm the rollback: see to the weights by hand")


def _takes_it(turn: Turn, target: Weights) -> bool:
    """Stable has the traffic already, or can be given it now; if not, says what it waits for."""
    state, served = turn.state, serves(turn.seen.route, target)
    if state.stable_cold is None and (served or turn.ready(state.stable) > 0):
        return True
    stable, other = reasons.name(state, state.stable), turn.ready(state.candidate) > 0
    if turn.ready(state.stable) < 1:
        lost = state.stable in turn.seen.status
        if (lost and state.stable_cold is None) or state.phase_since == turn.now:
            neither = "" if other else f"; {reasons.name(state, state.candidate)} is not known to have one either"
            turn.notify("critical", f"cannot roll back yet: it needs {turn.ready_replica(state.stable)}{neither}")
        if lost:
            turn.change(stable_cold=turn.now)
        turn.wait_for(f"{turn.ready_replica(state.stable)}: until then the weights stay as they are")
        return False
    smoke, message = turn.seen.preparation.smoke, turn.seen.preparation.smoke_message
    if served or not other or smoke == "ok":
        turn.change(stable_cold=None)
        return True
    fails = f"{stable} was started anew and fails its smoke test"
    if smoke == "failed":
        turn.change(stable_cold=turn.now)  # asked again until it passes
        if not state.waiting.startswith(fails):
            turn.notify("critical", f"cannot roll back yet: {fails}: {message}; see to it by hand")
        turn.wait_for(f"{fails}: {message}; until it passes the weights stay as they are")
    elif not state.waiting.startswith(fails):
        turn.wait_for(f"the smoke test of {stable}, which was started anew: until then the weights stay as they are")
    return False


def _bring_back(turn: Turn) -> None:
    """Get the wanted release ready in the slot without traffic, then swap the roles."""
    state, plan = turn.state, turn.plan
    restore, slot = state.restore, state.candidate
    assert restore is not None
    name, status, ready = restore.target.name, turn.seen.status.get(slot), turn.ready(slot)
    if restore.cold is None:
        restore = restore.model_copy(update={"cold": ready < 1})
        turn.change(restore=restore)
    if restore.cold and ready >= plan.replicas and turn.seen.preparation.smoke == "ok":
        turn.change(smoke_ok=True)
    if ready >= 1 and (not restore.cold or turn.state.smoke_ok):
        turn.change(
            stable=slot,
            candidate=state.stable,
            weights={slot: 100.0, state.stable: 0.0},
            restore=restore.model_copy(update={"swapped": True}),
            phase_since=turn.now,
            refused_since=None,
        )
        turn.reason = turn.reason or f"{slot} ({name}) is ready: all traffic goes back to it"
        turn.wait_for(f"the router to serve {slot} with 100 %")
        return
    where = f"{reasons.name(state, state.stable)} still serves all traffic"
    if status is not None and status.failed and status.release == restore.target.release:
        _give_up(turn, f"{name} cannot be started in {slot}: {status.failed}; {where}")
    elif restore.cold and ready >= plan.replicas and turn.seen.preparation.smoke == "failed":
        _give_up(turn, f"{name} fails its smoke test: {turn.seen.preparation.smoke_message}; {where}")
    elif turn.now - state.phase_since > plan.limits.prepare:
        _give_up(
            turn,
            f"{name} was not ready in {slot} within {reasons.seconds(plan.limits.prepare)} "
            f"({ready} of {plan.replicas} replicas); {where}",
        )
    elif restore.cold and ready >= plan.replicas:
        turn.wait_for(f"the smoke test of {slot} ({name}); until then the weights stay as they are")
    else:
        turn.wait_for(f"{name} to be ready in {slot} ({ready} of {plan.replicas}); until then the weights stay")


def _give_up(turn: Turn, problem: str) -> None:
    restore = turn.state.restore
    assert restore is not None
    turn.change(
        unproven=f"{problem}. See to {turn.state.candidate} by hand, or name another release that can be started",
    )
    turn.finish(restore.back_to, f"{turn.state.reason}: could not go back to {restore.target.name}")


def _prove(turn: Turn) -> None:
    """Watch the old release, which has all traffic again, until it is seen to be well."""
    state, plan, now = turn.state, turn.plan, turn.now
    if state.first_traffic is None or plan.strategy == "shadow":
        _done(turn)  # no user's traffic has moved
        return
    sums = state.totals.get(state.stable) or Totals()
    failed = sums.failures + sums.rejected
    proof = state.proof or Proof(began=now, since=now, requests=sums.requests, failures=failed)
    turn.change(proof=proof)
    lasted = now - proof.since
    requests, failures = round(sums.requests - proof.requests), round(failed - proof.failures)
    name = reasons.name(state, state.stable)
    left = plan.rollback.prove - lasted
    if left > plan.tick / 2:
        turn.wait_for(f"{reasons.seconds(left)} more of {name} with all traffic, to see that it is well")
        return
    seen = f"{name} answered {requests} requests in {reasons.seconds(lasted)}, {failures} failed"
    if requests > 0 and binomial_tail(failures, requests, plan.normal_errors) > TOO_MANY:
        turn.change(proven=f"the router serves {state.stable} with 100 %, {seen}")
        _done_when_drained(turn, proof)
        return
    smoke = turn.seen.preparation.smoke
    if requests == 0 and smoke == "ok":
        turn.change(
            proven=f"the router serves {state.stable} with 100 %, {name} passes its smoke test; no traffic came"
        )
        _done_when_drained(turn, proof)
        return
    if now - proof.began > plan.rollback.limit:
        problem = (
            f"{seen}, where {100 * plan.normal_errors:g} % is normal: the release that was rolled back was not all; "
            f"look at what both slots share"
            if requests
            else f"the router says that {state.stable} has 100 %, but no request was seen there and its smoke test "
            f"{'fails: ' + turn.seen.preparation.smoke_message if smoke == 'failed' else 'gave no result'}; "
            f"look at {state.stable} and at the gateway by hand"
        )
        turn.change(unproven=problem)
        _done(turn)
        return
    if requests > 0:
        turn.wait_for(f"the error rate of {name} to be normal again ({failures} of {requests} failed)")
        turn.change(proof=proof.model_copy(update={"since": now, "requests": sums.requests, "failures": failed}))
    else:
        turn.wait_for(f"a request to {name}, or its smoke test")
        if smoke == "failed":
            turn.change(proof=proof.model_copy(update={"since": now}))


def _done_when_drained(turn: Turn, proof: Proof) -> None:
    """The end empties the other slot: answers that are under way there come to theirs first, within limits.

    What cannot be read is not waited for: a slot that is down has no answers left, and preStop and the engine's own
    drain come after this.
    """
    slot = turn.state.candidate
    delta = turn.seen.slots.get(slot)
    left = None if delta is None else under_way(delta)
    patience = turn.plan.rollback.drain - (turn.now - proof.began)
    if left and patience > turn.plan.tick / 2:
        turn.wait_for(
            f"the answers of {reasons.name(turn.state, slot)} to end, {left:.0f} under way, before the slot is emptied "
            f"(at most {reasons.seconds(patience)} more)"
        )
    else:
        _done(turn)


def _done(turn: Turn) -> None:
    state = turn.state
    turn.finish(Phase.ENDED if state.cause == CONCLUDED else Phase.ROLLED_BACK, state.reason)
