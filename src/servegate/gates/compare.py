"""A measure against the same measure of a baseline: paired by item where the answers are there, else labelled.

Pure, and blind to files: the answers behind a report come as an argument, by digest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from servegate.errors import ConfigError
from servegate.gates.checks import Baseline, Check, Margin
from servegate.gates.fingerprint import differences
from servegate.gates.pairs import Answers, Pairs, answers_of, pair
from servegate.gates.prices import Prices
from servegate.gates.select import find_measure, find_report, label
from servegate.gates.units import KNOWN, misfit
from servegate.report.format import clean, duration, percent, plural, quantity, words
from servegate.report.model import Interval, Measure, Report
from servegate.report.verdict import Discordant, Outcome
from servegate.stats import intervals, special, unpaired
from servegate.stats.mde import normal_mde, pairs_mde
from servegate.stats.paired import non_inferiority
from servegate.stats.sequential import nominal_levels

_SHOWN_IDS = 5
# A verdict travels: of each kind it keeps so many items; all of them are in the records.
_KEPT_ITEMS = 100
# A run that may be extended differs from its baseline in how much was asked, and in nothing else.
_AMOUNT = ("other.limit", "other.repeats")


@dataclass(frozen=True)
class Compared:
    """What a comparison found.

    Attributes:
        outcome, message: for the verdict.
        p_fail: p-value of "worse than the margin"; None where nothing was compared.
        wanted: answers to measure before asking again; None: decided, or no further look.
    """

    outcome: Outcome
    message: str
    p_fail: float | None = None
    threshold: float | None = None
    comparison: str | None = None
    baseline: float | None = None
    delta: float | None = None
    delta_interval: Interval | None = None
    mde: float | None = None
    wanted: int | None = None
    baseline_report: str | None = None
    ratio: bool = False
    lost: int | None = None
    won: int | None = None
    discordant: tuple[Discordant, ...] = ()


@dataclass(frozen=True)
class _Numbers:
    """A difference (or ratio) with what is needed to decide, good and bad already told apart."""

    delta: float
    low: float
    high: float
    p_pass: float
    p_fail: float
    mde: float | None
    how: str
    ratio: bool = False
    lost: int | None = None
    won: int | None = None


def compare(
    check: Check,
    rule: Baseline,
    report: Report,
    measure: Measure,
    baselines: Sequence[Report],
    answers: Answers,
    now: float,
    prices: Prices | None = None,
) -> Compared:
    """Judge one measure against its baseline.

    Raises:
        ConfigError: the margin does not fit the measure, nobody knows which direction is good, or the baseline is the
            candidate's own report.
    """
    if measure.value is None or measure.n == 0:
        return _void(f"nothing was measured of {plural(measure.attempted, 'attempt')}")
    old = _baseline(check, rule, report, baselines, now)
    if isinstance(old, str):
        return _void(old)
    other = find_measure(check.target, old, prices)
    if isinstance(other, str):
        return _void(f"baseline: {other}")
    if other.value is None or other.n == 0 or other.unit != measure.unit:
        return _void(f"baseline {label(old)} has no such measure in {measure.unit}")
    higher = _higher_is_better(check, measure)
    accepted = rule.accepted
    if accepted.amount is not None and not accepted.amount.fits(measure.unit):
        raise ConfigError(f"check {check.id}: {measure.key}: {misfit(accepted.amount, measure.unit)}")

    if accepts_all(accepted.loss(other.value), other.value, measure.unit, higher=higher):
        return _void(
            f"the baseline is {quantity(other.value, measure.unit)}: a margin of {rule.margin} accepts a loss of all "
            "there is, and could never fail"
        )
    paired = _pairs(measure, report, other, old, answers) if higher else "only scores are paired"
    thin = _coverage(check, rule, measure, other, paired)
    if thin is not None:
        return _void(thin)
    asked = paired.answers if isinstance(paired, Pairs) else measure.attempted
    alpha, following = _look(rule, asked)
    if alpha is None:
        ask = f"{plural(asked, 'answer')}; the first look is at {following}"
        return Compared(
            Outcome.INCONCLUSIVE, ask, baseline=other.value, wanted=following, baseline_report=old.identity()
        )
    numbers: _Numbers | str
    if isinstance(paired, Pairs):
        numbers = _paired(paired, accepted.loss(other.value), alpha)
    else:
        numbers = _unpaired(measure, other, accepted, higher, alpha, paired)
    if isinstance(numbers, str):
        return Compared(Outcome.INCONCLUSIVE, numbers, baseline=other.value, baseline_report=old.identity())
    outcome = Outcome.INCONCLUSIVE
    if numbers.p_pass <= alpha:
        outcome = Outcome.PASS
    elif numbers.p_fail <= alpha:
        outcome = Outcome.FAIL
    wanted = following if outcome is Outcome.INCONCLUSIVE else None
    loss = accepted.loss(other.value)
    return Compared(
        outcome=outcome,
        message=_sentence(measure, other, old, rule, numbers, outcome, alpha, wanted),
        p_fail=numbers.p_fail,
        threshold=other.value - loss if higher else other.value + loss,
        comparison=">=" if higher else "<=",
        baseline=other.value,
        delta=numbers.delta,
        delta_interval=Interval(low=numbers.low, high=numbers.high, level=1 - 2 * alpha, method=numbers.how[:200])
        if math.isfinite(numbers.high)
        else None,
        mde=numbers.mde,
        wanted=wanted,
        baseline_report=old.identity(),
        ratio=numbers.ratio,
        lost=numbers.lost,
        won=numbers.won,
        discordant=paired.discordant(_KEPT_ITEMS) if isinstance(paired, Pairs) else (),
    )


def accepts_all(loss: float, value: float, unit: str, *, higher: bool) -> bool:
    """Whether no value there is would be worse than the baseline by more than the margin."""
    if higher:
        return unit != "score" and loss > 0 and value - loss <= 0
    return unit == "fraction" and value + loss >= 1


def _baseline(check: Check, rule: Baseline, report: Report, baselines: Sequence[Report], now: float) -> Report | str:
    """The baseline's report, or why it cannot serve."""
    # A name is asked for the candidate; its baseline is the report of the same kind and name.
    old = find_report(f"{report.kind}/{report.name}", baselines)
    if isinstance(old, str):
        return f"baseline: {old}"
    if old.identity() == report.identity():
        raise ConfigError(f"check {check.id}: the baseline {label(old)} is the candidate's own report")
    if old.void is not None:
        return f"the baseline {label(old)} is void: {old.void.code}: {clean(old.void.message, 300)}"
    age = now - old.finished
    if rule.max_age is not None and age > rule.max_age:
        return f"the baseline is {duration(age)} old; the policy wants it younger than {rule.younger_than}"
    unlike = differences(report, old, (*rule.allow, *(_AMOUNT if rule.looks else ())))
    if unlike:
        return f"not measured alike, so not compared ({'; '.join(unlike)}); `allow` lets conditions differ by name"
    return old


def _higher_is_better(check: Check, measure: Measure) -> bool:
    better = measure.better or KNOWN.get(measure.name, (None, None))[1]
    if better is None:
        raise ConfigError(f"check {check.id}: {measure.key}: the report does not say whether higher or lower is better")
    return better == "higher"


def _pairs(measure: Measure, report: Report, other: Measure, old: Report, answers: Answers) -> Pairs | str:
    new_answers, old_answers = answers_of(measure, report, answers), answers_of(other, old, answers)
    if isinstance(new_answers, str):
        return new_answers
    if isinstance(old_answers, str):
        return f"baseline: {old_answers}"
    return pair(new_answers, old_answers)


def _coverage(check: Check, rule: Baseline, measure: Measure, other: Measure, paired: Pairs | str) -> str | None:
    """Why too little was measured to compare; None when it is enough."""
    if isinstance(paired, Pairs):
        if paired.changed and "dataset_sha256" not in rule.allow:
            shown = _ids(list(paired.changed))
            return f"{plural(len(paired.changed), 'item')} changed between the runs ({shown}): these are no pairs"
        # With looks the candidate may have been asked a part so far.
        have, want = len(paired.ids), (paired.asked if rule.looks else paired.wanted) - len(paired.changed)
        if have == 0 or have < check.least_coverage * want:
            return f"only {have:,} of {plural(want, 'item')} have a score in both runs, {check.coverage} wanted"
        return None
    for who, one in (("", measure), ("baseline: ", other)):
        if one.n < check.least_coverage * one.attempted:
            share = percent(one.n / one.attempted)
            return f"{who}only {share} of {plural(one.attempted, 'attempt')} measured, {check.coverage} wanted"
    return None


def _look(rule: Baseline, asked: int) -> tuple[float | None, int | None]:
    """Level that decides now and the answers at the next look; no level before the first look."""
    if rule.looks is None:
        return rule.alpha, None
    reached = [look for look in rule.looks if look <= asked]
    following = next((look for look in rule.looks if look > asked), None)
    if not reached:
        return None, following
    return float(nominal_levels([look / rule.looks[-1] for look in reached], rule.alpha)[-1]), following


def _paired(pairs: Pairs, loss: float, alpha: float) -> _Numbers | str:
    try:
        found = non_inferiority(pairs.candidate, pairs.baseline, loss, confidence=1 - alpha, clusters=pairs.clusters)
    except ValueError as error:
        return f"the pairs cannot be compared: {error}"
    if found.error is None:
        mde = pairs_mde(found.n, (found.worse + found.better) / found.n, loss, 1 - alpha)
    else:
        mde = normal_mde(found.error, 1 - alpha)
    groups = f" in {found.clusters:,} clusters" if found.clusters < found.n else ""
    how = f"{found.method}, {found.worse:,} lost and {found.better:,} won of {found.n:,} pairs{groups}"
    if found.worse:
        how += f"; lost: {_ids(pairs.lost())}"
    p = found.p_pass, found.p_fail
    return _Numbers(found.estimate, found.low, found.high, *p, mde, how, lost=found.worse, won=found.better)


def _unpaired(
    measure: Measure, other: Measure, accepted: Margin, higher: bool, alpha: float, why: str
) -> _Numbers | str:
    """Independent runs. Margins that are a share are judged as a ratio."""
    assert measure.value is not None
    assert other.value is not None
    label_ = f"UNPAIRED ({why})"
    events, before = _events(measure), _events(other)
    if accepted.share is not None and measure.statistic == "rate" and events is not None and before is not None:
        supposed = 1 - accepted.share if higher else 1 + accepted.share
        below, above = unpaired.rate_ratio_p(events, measure.n, before, other.n, supposed)
        exact = unpaired.rate_ratio(events, measure.n, before, other.n, 1 - 2 * alpha)
        ratio = measure.value / other.value if other.value else math.inf
        p_pass, p_fail = (above, below) if higher else (below, above)
        how = f"{label_}, {exact.method}, {events:,} of {measure.n:,} against {before:,} of {other.n:,}"
        if not math.isfinite(ratio):
            return f"the baseline had no event: a ratio has no limit ({how})"
        return _Numbers(ratio, exact.low, exact.high, p_pass, p_fail, None, how, ratio=True)
    new, old = _interval(measure), _interval(other)
    if new is None or old is None:
        return "a comparison needs intervals of both measures, and a report has none"
    if new.level != old.level:
        return f"the intervals have different levels: {percent(new.level)} and {percent(old.level)}"
    z = special.ndtri((1 + new.level) / 2)
    scale = special.ndtri(1 - alpha) / z
    sign = 1.0 if higher else -1.0
    if accepted.share is not None and min(measure.value, other.value, new.low, old.low) > 0:
        found = unpaired.ratio(measure.value, new, other.value, old)
        centre, low, high = (math.log(x) for x in (measure.value / other.value, found.low, found.high))
        limit = math.log(1 - accepted.share if higher else 1 + accepted.share)
        shape = math.exp
    else:
        found = unpaired.difference(measure.value, new, other.value, old)
        centre, low, high = measure.value - other.value, found.low, found.high
        limit = -sign * accepted.loss(other.value)
        shape = float
    down, up = centre - low, high - centre
    gap = sign * (centre - limit)  # positive: on the good side
    toward, away = (down, up) if higher else (up, down)
    p_pass = special.ndtr(-gap * z / toward) if toward > 0 else float(gap < 0)
    p_fail = special.ndtr(gap * z / away) if away > 0 else float(gap >= 0)
    mde = normal_mde(toward / z, 1 - alpha) if shape is float else None
    how = f"{label_}, {found.method}, n {measure.n:,} against {other.n:,}"
    bounds = shape(centre - down * scale), shape(centre + up * scale)
    return _Numbers(shape(centre), *bounds, p_pass, p_fail, mde, how, ratio=shape is math.exp)


def _interval(measure: Measure) -> intervals.Interval | None:
    found = measure.interval
    return None if found is None else intervals.Interval(found.low, found.high, found.level, found.method)


def _events(measure: Measure) -> int | None:
    """How many of n a share counts; None when it is no count."""
    count = (measure.value or 0.0) * measure.n
    return round(count) if measure.unit == "fraction" and abs(count - round(count)) < 1e-6 else None


def _sentence(
    measure: Measure,
    other: Measure,
    old: Report,
    rule: Baseline,
    numbers: _Numbers,
    outcome: Outcome,
    alpha: float,
    wanted: int | None,
) -> str:
    assert measure.value is not None
    assert other.value is not None

    def change(value: float) -> str:
        if numbers.ratio:
            return f"×{value:.3f}"
        if measure.unit == "fraction":
            return f"{value * 100:+.1f} pp"
        return ("+" if value >= 0 else "−") + quantity(abs(value), measure.unit)

    who = old.subject.name or "the baseline"
    part = f" [{clean(measure.slice, 80)}]" if measure.slice else ""
    name = f"{words(measure.name)} {words(measure.statistic)}{part}"
    verdict = {
        Outcome.PASS: "not worse than",
        Outcome.FAIL: "worse than",
        Outcome.INCONCLUSIVE: "cannot be told apart from",
        Outcome.VOID: "",
    }[outcome]
    text = (
        f"{name} {quantity(measure.value, measure.unit, unlike=other.value)} against "
        f"{quantity(other.value, measure.unit, unlike=measure.value)} of {clean(who, 80)}: {verdict} a loss of "
        f"{rule.margin}; Δ {change(numbers.delta)} [{change(numbers.low)}, {change(numbers.high)}] "
        f"at {percent(1 - alpha)} one-sided; {numbers.how}"
    )
    if numbers.mde is not None:
        text += f"; detectable {change(numbers.mde).lstrip('+')} beyond the margin"
    if wanted is not None:
        text += f"; measure {wanted:,} answers and ask again"
    return text


def _ids(ids: list[str]) -> str:
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(clean(id_, 60) for id_ in ids[:_SHOWN_IDS]) + more


def _void(message: str) -> Compared:
    return Compared(Outcome.VOID, message)
