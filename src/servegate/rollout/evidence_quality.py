"""Evidence about answers: items of a suite, asked of both slots while the canary runs.

Per item, d = score of the candidate - score of stable, in [-1, 1]; w = (1 - d) / 2 is bounded and its mean grows with
the harm. Items are asked in a random order that was fixed beforehand, so the i-th of N is a draw without replacement.
About the *suite*, the null "its mean difference is at least -margin" fixes the mean of what is left:

    E[w_i | the ones before] <= (N (1 + margin) / 2 - sum of the w before) / (N - i + 1),

and a bet is made against that (Waudby-Smith and Ramdas, "Confidence sequences for sampling without replacement",
NeurIPS 2020, arXiv 2006.04347): the last items are worth more, and when all were asked the answer is certain. About the
*population* the items were drawn from, the bound stays (1 + margin) / 2. The differences are paired, so a hard item is
hard for both.

An item that is asked again is no new sample: only positions beyond the last one count. An item that one slot answered
and the other did not scores 0 for the other; one that neither answered counts as spent without a bet.
"""

from __future__ import annotations

from servegate.rollout import bets
from servegate.rollout.checks import Quality
from servegate.rollout.evidence_counts import bet
from servegate.rollout.interval import View
from servegate.rollout.model import CheckState
from servegate.rollout.plan import Plan

NEVER = 1e-9
"""In place of a bound of 0: what is left cannot be worse under the null, so a worse item refutes it."""


def advance(plan: Plan, check: Quality, state: CheckState, view: View) -> CheckState:
    """All new items of a tick, one after the other."""
    for asked in view.asked:
        if asked.suite != check.suite or not state.asked <= asked.position < check.items:
            continue
        state = _one(plan, check, state, asked.position, asked.candidate, asked.stable)
    return state


def _one(
    plan: Plan, check: Quality, state: CheckState, position: int, candidate: float | None, stable: float | None
) -> CheckState:
    state = state.model_copy(update={"asked": position + 1})
    if candidate is None and stable is None:
        return state
    difference = (candidate or 0.0) - (stable or 0.0)
    worse = (1 - difference) / 2
    update: dict[str, object] = {"judged": state.judged + 1, "worse": state.worse + worse}
    bound = _bound(check, state, (1 + check.margin) / 2)
    update["against"] = bet(bets.bets_against(plan.horizon(check)), state.against, [(worse / max(bound, NEVER), 1)])
    update["observed"] = state.observed - difference
    update["bound"] = state.bound + check.margin
    if check.promote_margin is not None:
        # From the other side: 1 - w has at most this mean where the drop is at least the promotion margin.
        least = 1 - _bound(check, state, (1 + check.promote_margin) / 2)
        update["promote"] = bet(
            bets.bets_for(plan.horizon(check)), state.promote, [((1 - worse) / max(least, NEVER), 1)]
        )
    return state.model_copy(update={**update, "intervals": state.intervals + 1})


def _bound(check: Quality, state: CheckState, mean: float) -> float:
    """Mean of the next w under the null whose mean over all items is `mean`, within what w can be."""
    if check.of == "population":
        return mean
    left = check.items - state.judged
    return min(1.0, max(0.0, (check.items * mean - state.worse) / left)) if left > 0 else mean
