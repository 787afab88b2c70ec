"""Evidence about answers: items of a suite, asked of both slots while the canary runs.

A bet per item on the paired difference of scores, against the plan's margin: about this suite without replacement, or
about the population it was drawn from (stats/quality.py has the hypotheses and the proof). Items come in a random order
that was fixed beforehand, and only positions beyond the last one count: an item that is asked again is no new sample.
An item that a slot did not answer has no score and is no bet. It is counted apart: whether a slot answers at all is
what the checks on errors judge.
"""

from __future__ import annotations

from servegate.rollout import bets
from servegate.rollout.checks import Quality
from servegate.rollout.evidence_counts import bet
from servegate.rollout.interval import View
from servegate.rollout.model import CheckState
from servegate.rollout.plan import Plan
from servegate.rollout.seen import Asked
from servegate.stats import quality

EXAMPLES = 3
"""Items answered worse that the reason names."""


def advance(plan: Plan, check: Quality, state: CheckState, view: View) -> CheckState:
    """All new items of a tick, one after the other."""
    for asked in view.asked:
        if asked.check != check.name or not state.asked <= asked.position < check.items:
            continue
        if state.suite not in (None, asked.suite):
            # Another order of other items: what was drawn there says nothing about what is left here.
            state = state.model_copy(update={"skipped_because": "the suite was changed while the rollout ran"})
            continue
        state = _one(plan, check, state, asked)
    return state


def _one(plan: Plan, check: Quality, state: CheckState, asked: Asked) -> CheckState:
    # Positions passed over were asked by nobody we have heard of: spent all the same.
    before = quality.Sums(asked=asked.position, scored=state.judged, harm=state.worse)
    update: dict[str, object] = {"asked": asked.position + 1, "suite": asked.suite}
    if asked.candidate is None or asked.stable is None:
        lost = [name for name, score in (("the candidate", asked.candidate), ("stable", asked.stable)) if score is None]
        error = asked.candidate_error or asked.stable_error
        because = f"item {asked.item} got no answer of {' and '.join(lost)}{f' ({error})' if error else ''}"
        return state.model_copy(update={**update, "skipped": state.skipped + 1, "skipped_because": because})
    horizon, size = plan.horizon(check), check.items if check.of == "suite" else None
    worse = quality.harm(asked.candidate, asked.stable)
    update |= {
        "judged": state.judged + 1,
        "worse": state.worse + worse,
        "intervals": state.intervals + 1,
        "against": bet(
            bets.bets_on_items(horizon), state.against, [(quality.ratio_against(worse, check.margin, size, before), 1)]
        ),
    }
    if check.promote_margin is not None:
        ratio = quality.ratio_for(worse, check.promote_margin, size, before)
        update["promote"] = bet(bets.bets_for(horizon), state.promote, [(ratio, 1)])
    if asked.candidate < asked.stable:
        update["worse_items"] = (*state.worse_items, asked.item)[-EXAMPLES:]
    return state.model_copy(update=update)


def drop_of_mean(state: CheckState) -> float:
    """How far the candidate's mean score was below stable's, over the items with two scores."""
    return 2 * state.worse / state.judged - 1 if state.judged else 0.0
