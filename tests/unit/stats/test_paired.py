"""Paired comparison: published examples, scipy, edges, and error rates by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from servegate.stats.intervals import standard_error
from servegate.stats.paired import mcnemar, non_inferiority, p_values, p_values_of, tango_bounds, tango_z


def scores(worse: int, better: int, n: int) -> tuple[list[int], list[int]]:
    return [0] * worse + [1] * (n - worse), [1] * worse + [0] * better + [1] * (n - worse - better)


def test_the_published_example() -> None:
    """Fagerland, Lydersen and Laake, Stat. Med. 33:2850 (2014): 7 and 1 changed of 21; Tango (−0.517, −0.026)."""
    assert tango_bounds(7, 1, 21, 0.975) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert 2 * mcnemar(7, 1) == pytest.approx(0.0703, abs=5e-5)


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (0, 5), (5, 0), (3, 9), (40, 25)])
def test_mcnemar_agrees_with_scipy(worse: int, better: int) -> None:
    if worse + better:
        expected = stats.binomtest(worse, worse + better, 0.5, alternative="greater").pvalue
        assert mcnemar(worse, better) == pytest.approx(expected)
    else:
        assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize(("worse", "better", "n"), [(7, 1, 21), (3, 9, 60), (0, 4, 50), (5, 0, 50)])
@pytest.mark.parametrize("difference", [-0.3, -0.05, 0.02])
def test_tango_uses_the_most_likely_loss_under_the_null(worse: int, better: int, n: int, difference: float) -> None:
    def unlikely(loss: float) -> float:
        cells = np.array([loss, loss + difference, 1 - 2 * loss - difference])
        counts = np.array([worse, better, n - worse - better])
        used = counts > 0
        return float(-(counts[used] * np.log(np.maximum(cells[used], 1e-300))).sum())

    low, high = max(0.0, -difference), (1 - difference) / 2
    best = optimize.minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    z = (better - worse - n * difference) / np.sqrt(n * (2 * best + difference * (1 - difference)))
    assert float(tango_z(worse, better, n, difference)) == pytest.approx(z, rel=1e-3)


@settings(deadline=None)
@given(
    st.integers(2, 400).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n)).flatmap(
            lambda t: st.tuples(st.just(t[0]), st.just(t[1]), st.integers(0, t[0] - t[1]))
        )
    ),
    st.floats(0.001, 0.5),
)
def test_bounds_and_p_values_agree(counts: tuple[int, int, int], margin: float) -> None:
    n, worse, better = counts
    found = non_inferiority(*scores(worse, better, n), margin, confidence=0.95)
    assert -1 <= found.low <= found.estimate + 1e-9
    assert found.estimate - 1e-9 <= found.high <= 1
    if abs(found.low + margin) > 1e-6:
        assert (found.p_pass <= 0.05) == (found.low >= -margin)
    if found.p_fail <= 0.05:
        assert found.high <= -margin + 1e-6
    assert not (found.p_pass <= 0.05 and found.p_fail <= 0.05)


@pytest.mark.parametrize("margin", [0.0, 0.02, 0.2])
def test_one_run_and_many_are_judged_by_the_same_rule(margin: float) -> None:
    counts = [(b, c) for b in range(0, 40, 3) for c in range(0, 40, 3)]
    lost, won = np.array(counts).T
    p_pass, p_fail = p_values(lost, won, 100, margin)
    for index, (b, c) in enumerate(counts):
        assert p_values_of(b, c, 100, margin) == pytest.approx((p_pass[index], p_fail[index]), rel=1e-8, abs=1e-14)


def test_nothing_changed_is_not_certainty() -> None:
    few, many = (non_inferiority([1] * n, [1] * n, 0.02) for n in (50, 500))
    assert few.p_pass > 0.05
    assert many.p_pass < 0.05
    clustered = non_inferiority([1] * 20, [1] * 20, 0.02, clusters=[index // 2 for index in range(20)])
    assert clustered.p_pass > 0.05
    between = non_inferiority([0.5] * 20, [0.5] * 20, 0.02)
    assert between.p_pass > 0.05


@pytest.mark.parametrize("n", [50, 100, 400])
@pytest.mark.parametrize("discordance", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("margin", [0.0, 0.02, 0.05])
def test_an_unchanged_model_is_called_worse_in_at_most_alpha(n: int, discordance: float, margin: float) -> None:
    rng = np.random.default_rng(n)
    lost, won, _ = rng.multinomial(n, [discordance / 2, discordance / 2, 1 - discordance], size=20_000).T
    assert (p_values(lost, won, n, margin)[1] <= 0.05).mean() <= 0.05 + 0.003


@pytest.mark.parametrize(("n", "discordance", "margin"), [(100, 0.1, 0.05), (300, 0.1, 0.02), (1000, 0.05, 0.05)])
def test_a_model_worse_by_the_margin_passes_in_about_alpha(n: int, discordance: float, margin: float) -> None:
    rng = np.random.default_rng(n)
    cells = [(discordance + margin) / 2, (discordance - margin) / 2, 1 - discordance]
    lost, won, _ = rng.multinomial(n, cells, size=20_000).T
    assert (p_values(lost, won, n, margin)[0] <= 0.05).mean() <= 0.055


def test_clusters_of_questions_are_not_many_independent_questions() -> None:
    """All five questions on a passage are lost or won together: counted singly, the error is far above 5 %."""
    rng = np.random.default_rng(5)
    labels = [index // 5 for index in range(300)]
    wrong = {"clustered": 0, "ignored": 0}
    for _ in range(600):
        moved = np.repeat(rng.choice([-1, 1, 0], p=[0.15, 0.1, 0.75], size=60), 5)  # Δ = −5 points
        old, new = np.where(moved == 1, 0, 1), np.where(moved == -1, 0, 1)
        for name, clusters in (("clustered", labels), ("ignored", None)):
            wrong[name] += non_inferiority(new, old, 0.05, clusters=clusters).p_pass <= 0.05
    assert wrong["clustered"] <= 0.06 * 600
    assert wrong["ignored"] > 0.1 * 600


def test_clusters_of_one_item_are_no_clusters() -> None:
    new, old = scores(9, 3, 80)
    assert non_inferiority(new, old, 0.05, clusters=list(range(80))) == non_inferiority(new, old, 0.05)


def test_few_scores_between_are_a_paired_t_test() -> None:
    rng = np.random.default_rng(6)
    old = rng.uniform(0.2, 0.8, 40)
    new = np.clip(old + rng.normal(-0.02, 0.1, 40), 0, 1)
    found = non_inferiority(new, old, 0.03)
    theirs = stats.ttest_rel(new + 0.03, old, alternative="greater")
    assert found.method == "paired t"
    assert found.p_pass == pytest.approx(theirs.pvalue)
    assert found.low == pytest.approx(stats.ttest_rel(new, old).confidence_interval(0.9).low)
    assert found.error == pytest.approx(standard_error(new - old)[0])


def test_the_bootstrap_agrees_with_scipy() -> None:
    rng = np.random.default_rng(7)
    old = np.full(200, 0.9)
    new = old - rng.exponential(0.05, 200).clip(0, 0.9)
    found = non_inferiority(new, old, 0.05)
    assert found.method == "paired bootstrap BCa"
    theirs = stats.bootstrap((new - old,), np.mean, confidence_level=0.9, n_resamples=20_000, rng=rng, method="BCa")
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=6e-4)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=6e-4)
    at_the_bound = non_inferiority(new, old, -found.low)
    assert at_the_bound.p_pass == pytest.approx(0.05, abs=0.004)


def test_the_bootstrap_errs_as_stated() -> None:
    rng = np.random.default_rng(8)
    passed = failed = 0
    for _ in range(300):
        moved = rng.choice([-1 / 3, 0, 1 / 3], p=[0.2, 0.65, 0.15], size=150)  # Δ = −1/60
        found = non_inferiority(0.5 + moved, np.full(150, 0.5), 1 / 60)
        passed += found.p_pass <= 0.05
        failed += found.p_fail <= 0.05
    assert max(passed, failed) <= 0.08 * 300


@pytest.mark.parametrize(
    ("new", "old", "margin", "says"),
    [
        ([1, 0], [1], 0.1, "not pairs"),
        ([], [], 0.1, "no values"),
        ([2, 0], [1, 1], 0.1, r"\[0, 1\]"),
        ([float("nan"), 0], [1, 1], 0.1, "finite"),
        ([1, 0], [1, 1], -0.1, "margin"),
        ([0.5], [0.4], 0.1, "2 clusters"),
    ],
)
def test_what_cannot_be_compared_is_refused(new: list[float], old: list[float], margin: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        non_inferiority(new, old, margin)
