"""Power: published numbers, scipy, and the decisions it predicts by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from servegate.stats.intervals import wilson
from servegate.stats.mde import normal_mde, pairs_mde
from servegate.stats.paired import p_values
from servegate.stats.power import (
    Chance,
    differences,
    extended_differences,
    extended_pairs,
    mde,
    pairs,
    proportion,
    smallest,
    supposed_discordance,
    supposed_error,
    with_loss,
)
from servegate.stats.sequential import nominal_levels


def test_the_formula_gives_the_textbook_factor() -> None:
    """z(.95) + z(.8) = 2.486 (Cohen 1988, table 2.4.1)."""
    assert normal_mde(1.0, 0.95) == pytest.approx(2.4865, abs=1e-4)


@pytest.mark.parametrize(("n", "discordance", "margin", "drop"), [(60, 0.1, 0.05, 0.0), (200, 0.1, 0.02, 0.1)])
def test_pairs_predict_what_the_rule_does(n: int, discordance: float, margin: float, drop: float) -> None:
    rng = np.random.default_rng(1)
    lose, win = discordance / 2 + drop, discordance / 2
    lost, won, _ = rng.multinomial(n, [lose, win, 1 - lose - win], size=100_000).T
    p_pass, p_fail = p_values(lost, won, n, margin)
    found = pairs(n, discordance, margin, 0.05, drop)
    assert found.passes == pytest.approx((p_pass <= 0.05).mean(), abs=0.005)
    assert found.fails == pytest.approx((p_fail <= 0.05).mean(), abs=0.005)


def test_all_numbers_together_are_certain() -> None:
    for n, discordance, drop in ((1, 0.5, 0.0), (50, 0.0, 0.0), (50, 0.0, 0.3), (5000, 0.2, 0.05)):
        found = pairs(n, discordance, 0.1, 0.9999, drop)
        assert 0 <= found.passes <= 1 + 1e-6
        assert 0 <= found.fails <= 1 + 1e-6
    nothing_changes = pairs(500, 0.0, 0.05, 0.05)
    assert nothing_changes.passes == pytest.approx(1.0)
    assert nothing_changes.fails == 0.0


def test_the_normal_approximation_takes_over_smoothly() -> None:
    exact, normal = pairs(5000, 0.1, 0.015, 0.05, 0.002), pairs(5001, 0.1, 0.015, 0.05, 0.002)
    assert exact.passes == pytest.approx(normal.passes, abs=0.01)


def test_extensions_predict_what_the_rule_does() -> None:
    looks, levels = [100, 200, 400], nominal_levels([0.25, 0.5, 1.0], 0.05)
    null = extended_pairs(looks, 0.1, 0.0, list(levels))
    assert null.fails <= 0.05
    at_margin = extended_differences(looks, 0.02, 0.05, list(levels), drop=0.05)
    assert at_margin.passes == pytest.approx(0.05, abs=0.006)
    assert at_margin.fails == pytest.approx(0.05, abs=0.006)
    one = extended_pairs([400], 0.1, 0.05, [0.05], drop=0.1)
    assert one.fails == pytest.approx(pairs(400, 0.1, 0.05, 0.05, 0.1).fails, abs=0.012)


def test_differences_agree_with_scipy() -> None:
    found = differences(0.02, 29, 0.05, 0.05, drop=0.03)
    assert found.passes == pytest.approx(stats.nct.sf(stats.t.ppf(0.95, 29), 29, 1.0))
    assert found.fails == pytest.approx(stats.nct.cdf(-stats.t.ppf(0.95, 29), 29, 1.0))
    assert differences(0.0001, 29, 0.05, 0.05).passes == 1.0


def test_proportions_predict_what_the_interval_does() -> None:
    found = proportion(120, 0.9, 0.8, 0.95, at_least=True)
    counts = np.arange(121)
    weight = stats.binom.pmf(counts, 120, 0.9)
    assert found.passes == pytest.approx(
        sum(w for k, w in zip(counts, weight, strict=True) if wilson(int(k), 120).low >= 0.8)
    )
    errors = proportion(381, 0.0, 0.01, 0.95, at_least=False)
    assert errors.passes == pytest.approx(1.0)
    assert errors.fails == 0.0


@pytest.mark.parametrize("n", [100, 500])
@pytest.mark.parametrize("discordance", [0.05, 0.2])
def test_the_detectable_loss_is_detected_and_no_smaller_one(n: int, discordance: float) -> None:
    def chance(drop: float) -> Chance:
        return pairs(n, discordance, 0.02, 0.05, drop)

    guess = pairs_mde(n, discordance, 0.02, 0.95)
    found = mde(chance, 0.02, guess)
    assert found is not None
    assert chance(0.02 + found).fails >= 0.8
    assert chance(0.02 + 1.35 * found).fails >= 0.95
    less = found * 0.97
    assert chance(0.02 + less).fails < 0.805 or chance(0.02 + 1.35 * less).fails < 0.955
    assert guess == pytest.approx(found, rel=0.15)


def test_a_scatter_that_does_not_depend_on_the_loss_leaves_the_detectable_loss_as_it_is() -> None:
    found = mde(lambda drop: differences(0.01, 10_000, 0.02, 0.05, drop), 0.02, 0.02)
    assert found == pytest.approx(normal_mde(0.01, 0.95), rel=0.01)


def test_no_loss_is_detectable_with_two_pairs() -> None:
    assert mde(lambda drop: pairs(2, 0.1, 0.5, 0.05, drop), 0.5, 0.1) is None


def test_the_smallest_n() -> None:
    assert smallest(lambda n: n >= 700, 100) == pytest.approx(700, rel=0.015)
    assert smallest(lambda n: True, 100) == 100
    assert smallest(lambda n: False, 100, most=1000) is None


def test_impossible_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="no such pairs"):
        pairs(100, 0.9, 0.02, 0.05, drop=0.5)
    with pytest.raises(ValueError, match="positive"):
        differences(0.0, 10, 0.1, 0.05)


def test_one_run_of_an_unchanged_model_is_not_believed_to_the_letter() -> None:
    """80 % one-sided: the bound is below the truth in a fifth of the runs, and never says that nothing differs."""
    rng = np.random.default_rng(7)
    seen = rng.binomial(500, 0.1, size=4000)
    below = np.mean([supposed_discordance(int(count), 500) < 0.1 for count in seen])
    assert 0.16 < below < 0.24
    assert supposed_discordance(0, 200) > 0

    errors = np.sqrt(rng.chisquare(19, size=4000) / 19)
    below = np.mean([supposed_error(float(error), 19) < 1 for error in errors])
    assert 0.18 < below < 0.22
    with pytest.raises(ValueError, match="degrees of freedom"):
        supposed_error(1.0, 0)


def test_a_loss_of_whole_clusters_adds_its_own_scatter() -> None:
    rng = np.random.default_rng(8)
    lost = rng.random((20_000, 40)) < 0.2  # each of 40 clusters is lost as a whole or not
    noise = rng.normal(0, 0.05, size=20_000)
    assert with_loss(0.05, 40, 0.2) == pytest.approx(np.std(noise - lost.mean(axis=1)), rel=0.02)
    assert with_loss(0.05, 40, 0.0) == 0.05
