"""Items asked of two systems, one after the other: ratios for a bet (stats/eprocess.py) on the paired differences.

Per item, d = score of the candidate - score of stable, in [-1, 1]. Harm w = (1 - d) / 2 is in [0, 1] and its mean grows
with the drop of the mean score: a drop of `margin` is a mean harm of m = (1 + margin) / 2. Pairing takes the difficulty
of the item out: a hard item is hard for both. Two null hypotheses, and what each lets the next item be:

* About the *population* that the items are independent draws from: E[w | the items before] <= m, whatever was seen.
* About *this suite* of N items, asked in a random order fixed beforehand, none of them twice. If the harm of all N sums
  up to at most N m, what is left after `asked` items sums up to at most N m - S, where S is the harm already seen; each
  of what is left is equally likely to be next, so

      E[w | the items before] <= (N m - S) / (N - asked).

  (Waudby-Smith and Ramdas, "Confidence sequences for sampling without replacement", NeurIPS 2020, arXiv 2006.04347;
  "Estimating means of bounded random variables by betting", JRSS-B 2024, arXiv 2010.09686, section 5.) The bound falls
  as harm is found, so the last items say more than the first; once N m < S the null hypothesis is impossible, and after
  the last item nothing is uncertain. An item that is asked again is no draw, and must not be bet on.

In both cases w over its bound has a conditional mean of at most 1 before it is seen, so 1 + f (w / bound - 1) has, and
the product is an e-process for every stake f in [0, 1), as is every mixture of such products. Ville's inequality does
the rest. Non-inferiority is the same from the other side: under "the drop is at least `margin`", 1 - w has a
conditional mean of at most 1 minus the smallest mean of w.

An item without two scores (a slot gave no answer) is never bet on. Its harm is unknown; the sum of what is left is
bounded as if it had been the one that favours the null hypothesis, so such items cost power. What is assumed is that
whether an item gets lost has nothing to do with how its answers would have differed: an engine that is down loses any.
"""

from __future__ import annotations

from dataclasses import dataclass

CERTAIN = 1e12
"""Ratio of an item that the null hypothesis rules out. Finite, so that wealth stays a number."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Sums:
    """What was seen before an item.

    Args:
        asked: items asked, with or without scores.
        scored: items with two scores.
        harm: sum of w over them.
    """

    asked: int = 0
    scored: int = 0
    harm: float = 0.0


def harm(candidate: float, stable: float) -> float:
    """w of an item: 0 only the candidate is right, 1/2 no difference, 1 only stable is right; scores in [0, 1]."""
    return (1 - (candidate - stable)) / 2


def ratio_against(worse: float, margin: float, items: int | None, before: Sums) -> float:
    """Observation for the bet that the candidate's mean score is more than `margin` below stable's.

    Args:
        worse: harm of this item.
        margin: drop of the mean score that the null hypothesis allows, in [0, 1).
        items: size of the suite that the statement is about; None: the population.
        before: what was seen before this item.

    Returns:
        w / (its largest mean under the null hypothesis), for `eprocess.advance`.

    Raises:
        ValueError: all items of the suite were asked before.
    """
    mean = (1 + margin) / 2
    if items is None:
        return worse / mean
    return _ratio(worse, items * mean - before.harm, _left(items, before))


def ratio_for(worse: float, margin: float, items: int | None, before: Sums) -> float:
    """Observation for the opposite bet: the mean score is less than `margin` below stable's. As `ratio_against`."""
    better, mean = 1 - worse, 1 - (1 + margin) / 2
    if items is None:
        return better / mean
    return _ratio(better, items * mean - (before.scored - before.harm), _left(items, before))


def _left(items: int, before: Sums) -> int:
    if before.asked >= items:
        raise ValueError(f"all {items} items were asked before")
    return items - before.asked


def _ratio(value: float, left_at_most: float, left: int) -> float:
    """`value` over the mean of what is left, whose sum is at most `left_at_most`."""
    if left_at_most < -ROUNDING:
        return CERTAIN
    return value / max(min(1.0, left_at_most / left), ROUNDING)
