"""Bets on paired differences: hand numbers, and how often they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from servegate.stats import eprocess
from servegate.stats.quality import CERTAIN, Sums, harm, ratio_against, ratio_for

BETS = eprocess.Bets(stakes=(0.1, 0.35, 0.65, 0.95), prior=(0.1, 0.25, 0.3, 0.35), at_once=0.8, horizon=200)
LIMIT = math.log(1 / 0.05)


def best(differences: np.ndarray, margin: float, items: int | None, *, against: bool, lost: frozenset[int]) -> float:
    """Largest log e-value on the way."""
    ratio = ratio_against if against else ratio_for
    before, wealth, n, top = Sums(), tuple[float, ...](), 0, 0.0
    for index, difference in enumerate(differences):
        if index in lost:
            before = Sums(before.asked + 1, before.scored, before.harm)
            continue
        worse = (1 - float(difference)) / 2
        wealth = eprocess.advance(BETS, n, wealth, [(ratio(worse, margin, items, before), 1)])
        before = Sums(before.asked + 1, before.scored + 1, before.harm + worse)
        n += 1
        top = max(top, eprocess.log_e(BETS, n, wealth))
    return top


def test_harm() -> None:
    assert [harm(1, 0), harm(1, 1), harm(0.25, 0.75), harm(0, 1)] == [0, 0.5, 0.75, 1]


def test_by_hand() -> None:
    # Margin 20 %: mean harm 0.6. Of a population the bound stays; of ten items 6 of harm are allowed in all.
    assert ratio_against(1.0, 0.2, None, Sums(3, 3, 3.0)) == pytest.approx(1 / 0.6)
    assert ratio_against(1.0, 0.2, 10, Sums()) == pytest.approx(1 / 0.6)
    assert ratio_against(0.5, 0.2, 10, Sums(4, 4, 4.0)) == pytest.approx(0.5 / (2 / 6))
    # One item got lost: the 2 that are left may all be among the five that are still to come.
    assert ratio_against(0.5, 0.2, 10, Sums(5, 4, 4.0)) == pytest.approx(0.5 / (2 / 5))
    # All the harm there may be has been seen: an item with more, and a sum that is over it.
    assert ratio_against(0.5, 0.2, 10, Sums(6, 6, 6.0)) >= 1e8
    assert ratio_against(0.0, 0.2, 10, Sums(7, 7, 6.5)) == CERTAIN
    # No more can be left than one each.
    assert ratio_against(1.0, 0.2, 10, Sums(8, 8, 0.0)) == 1.0
    # The other side: under "at least 20 % worse" 4 of good are allowed in all.
    assert ratio_for(0.5, 0.2, None, Sums()) == pytest.approx(0.5 / 0.4)
    assert ratio_for(0.5, 0.2, 10, Sums(4, 4, 2.0)) == pytest.approx(0.5 / (2 / 6))
    with pytest.raises(ValueError, match="all 10 items were asked before"):
        ratio_against(1.0, 0.2, 10, Sums(10, 10, 5.0))


@pytest.mark.parametrize("against", [True, False])
@pytest.mark.parametrize(("items", "loses"), [(None, 0.0), (100, 0.0), (100, 0.2)])
def test_at_the_margin_it_is_seldom_wrong(items: int | None, loses: float, against: bool) -> None:
    rng, wrong, runs = np.random.default_rng(7), 0, 200
    suite = np.array([-1.0] * 15 + [1.0] * 5 + [0.0] * 80)  # 10 points worse: exactly the margin
    for _ in range(runs):
        drawn = rng.permutation(suite) if items else rng.choice(suite, 100)
        lost = frozenset(np.flatnonzero(rng.random(100) < loses).tolist())
        wrong += best(drawn, 0.1, items, against=against, lost=lost) >= LIMIT
    assert binom.sf(wrong - 1, runs, 0.05) > 0.001  # no more often than 5 %


def test_it_finds_what_is_there() -> None:
    rng, found, passed, runs = np.random.default_rng(9), [0, 0], 0, 40
    worse = np.array([-1.0] * 35 + [1.0] * 5 + [0.0] * 60)
    for _ in range(runs):
        drawn = rng.permutation(worse)
        for which, items in enumerate((100, None)):
            found[which] += best(drawn, 0.05, items, against=True, lost=frozenset()) >= LIMIT
        same = rng.permutation(np.array([-1.0] * 3 + [1.0] * 3 + [0.0] * 94))
        passed += best(same, 0.1, 100, against=False, lost=frozenset()) >= LIMIT
    assert found[0] >= 38
    assert found[0] >= found[1] >= 24
    assert passed >= 38


def test_a_whole_suite_leaves_no_doubt() -> None:
    suite = np.array([0.0] * 80 + [-1.0] * 20)  # all the harm comes last
    assert best(suite, 0.1, 100, against=True, lost=frozenset()) > math.log(1e6)
