"""What a policy can see, before anything runs.

A check that is often inconclusive on an unchanged model makes people rerun it until it is green; a check that cannot
see the loss people fear makes them believe it. Both are known beforehand from a report of the unchanged model and a
second run of it (A/A), and the first is refused here with the numbers that would do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from scipy import special

from servegate.gates.checks import Baseline, Check
from servegate.gates.compare import accepts_all
from servegate.gates.noise import Noise, of_repeats, of_runs
from servegate.gates.pairs import Answers, answers_of
from servegate.gates.policy import Policy
from servegate.gates.prices import Prices
from servegate.gates.select import find_measure, find_report
from servegate.gates.units import KNOWN, fraction
from servegate.report.format import clean, plain_line, quantity
from servegate.report.model import Measure, Report
from servegate.stats.mde import normal_mde, pairs_mde
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

ENOUGH = 0.99


@dataclass(frozen=True)
class Planned:
    """What one check can see.

    Attributes:
        check: its id.
        n: answers or requests it rests on, after all extensions; None: not known.
        unit: of `mde` and `drop`; None: not known.
        mde: smallest effect beyond the limit or margin that fails in 80 % of the runs.
        unchanged: chance to PASS a model that is the baseline.
        drop, caught: the loss named by `detect`, and the chance to FAIL it.
        accepted: whether `unchanged` is at least 99 %, or the check never blocks.
        note: how it was computed; for a check that is refused, what would do.
    """

    check: str
    n: int | None = None
    unit: str | None = None
    mde: float | None = None
    unchanged: float | None = None
    drop: float | None = None
    caught: float | None = None
    accepted: bool = True
    note: str = ""


def plan(
    policy: Policy,
    baseline: Sequence[Report],
    again: Sequence[Report] = (),
    *,
    answers: Answers | None = None,
    noise: Mapping[str, Sequence[Noise]] = MappingProxyType({}),
) -> list[Planned]:
    """Plan every check of a policy.

    Args:
        policy: what must hold.
        baseline: reports of the model as it is.
        again: second reports of the same model, measured the same way: the A/A run.
        answers: records behind both, by digest of the sidecar.
        noise: what was found out before of the noise of a report, by its digest; where there is no second run.

    Raises:
        ConfigError: two reports where one is meant.
    """
    return [_plan(check, baseline, again, answers or {}, noise, policy.prices) for check in policy.checks]


def _plan(
    check: Check,
    baseline: Sequence[Report],
    again: Sequence[Report],
    answers: Answers,
    kept: Mapping[str, Sequence[Noise]],
    prices: Prices | None,
) -> Planned:
    if check.no_findings is not None:
        return Planned(check.id, note="findings are counted, not estimated")
    report = find_report(check.report, baseline)
    if isinstance(report, str):
        return _unknown(check, f"needs a report of the model as it is: {report}")
    if report.void is not None:
        return _unknown(check, f"the report is void: {report.void.code}")
    measure = find_measure(check.target, report, prices)
    if isinstance(measure, str):
        return _unknown(check, measure)
    if measure.value is None or measure.n == 0:
        return _unknown(check, "the report measured nothing")
    if check.baseline is None:
        return _absolute(check, measure, measure.value)
    rule = check.baseline
    higher = (measure.better or KNOWN.get(measure.name, (None, None))[1]) == "higher"
    loss = rule.accepted.loss(measure.value)
    if accepts_all(loss, measure.value, measure.unit, higher=higher):
        return _unknown(check, f"a margin of {rule.margin} accepts a loss of all there is, and could never fail")
    own = answers_of(measure, report, answers) if higher else "only scores are paired"
    if isinstance(own, str):
        return _unpaired(check, rule, measure, measure.value, own)
    noise = _known_noise(report, measure, again, answers, kept.get(report.identity(), ()))
    if isinstance(noise, Noise):
        return _noisy(check, rule, measure.value, noise)
    if rule.discordance is None:
        return _unknown(check, f"needs an A/A run, or a declared `discordance`: {noise}")
    n = rule.looks[-1] if rule.looks else len({record.id for record in own})
    how = f"declared discordance {rule.discordance}"
    return _scored(check, rule, measure.value, n, fraction(rule.discordance), how)


def _known_noise(
    report: Report, measure: Measure, again: Sequence[Report], answers: Answers, kept: Sequence[Noise]
) -> Noise | str:
    """From the second run, else as it was kept with the baseline, else from repeats."""
    other = find_report(f"{report.kind}/{report.name}", again)
    if not isinstance(other, str):
        return of_runs(measure, report, other, answers)
    found = next((noise for noise in kept if noise.measure == measure.key), None)
    repeated = of_repeats(measure, report, answers) if found is None else found
    return repeated if isinstance(repeated, Noise) else other


def _noisy(check: Check, rule: Baseline, value: float, noise: Noise) -> Planned:
    n = rule.looks[-1] if rule.looks else noise.items
    how = noise.words()
    if noise.differing is not None:
        share = supposed_discordance(noise.differing, noise.items)
        return _scored(check, rule, value, n, share, f"{how}; planned with {share * 100:.1f} %")
    if not noise.error:
        return _unknown(check, "the A/A run has no variance")
    per_item = supposed_error(noise.error, noise.clusters - 1) * math.sqrt(noise.items)
    return _continuous(check, rule, value, n, per_item, noise.clusters / noise.items, how)


def _scored(check: Check, rule: Baseline, value: float, n: int, discordance: float, how: str) -> Planned:
    """Right-or-wrong pairs of independent items."""
    margin = rule.accepted.loss(value)

    def chance(size: int, loss: float, drop: float = 0.0) -> Chance:
        if rule.looks is None:
            return pairs(size, discordance, loss, rule.alpha, drop)
        looks = [max(1, round(look * size / n)) for look in rule.looks]
        return extended_pairs(looks, discordance, loss, _levels(rule), drop)

    guess = pairs_mde(n, discordance, margin, 1 - rule.alpha)
    effect = mde(lambda drop: chance(n, margin, drop), margin, guess)
    return _finished(check, rule, value, n, chance, effect, how, most=value)


def _continuous(
    check: Check, rule: Baseline, value: float, n: int, per_item: float, groups: float, how: str
) -> Planned:
    """Scores between 0 and 1, clusters, repeats."""
    margin = rule.accepted.loss(value)

    def chance(size: int, loss: float, drop: float = 0.0) -> Chance:
        error = with_loss(per_item / math.sqrt(size), size * groups, drop)
        if rule.looks is None:
            return differences(error, max(1, round(size * groups) - 1), loss, rule.alpha, drop)
        looks = [max(1, round(look * size / n)) for look in rule.looks]
        return extended_differences(looks, error, loss, _levels(rule), drop)

    guess = normal_mde(per_item / math.sqrt(n), 1 - rule.alpha)
    effect = mde(lambda drop: chance(n, margin, drop), margin, guess)
    return _finished(check, rule, value, n, chance, effect, how, most=value)


def _unpaired(check: Check, rule: Baseline, measure: Measure, value: float, why: str) -> Planned:
    """Two independent runs like the one there is; normal approximation."""
    error = _error(measure)
    if error is None:
        return _unknown(check, f"the report has no interval ({why})")
    n = measure.n
    per_item = error * math.sqrt(2 * n)

    def chance(size: int, loss: float, drop: float = 0.0) -> Chance:
        if rule.looks is not None:
            looks = [max(1, round(look * size / rule.looks[-1])) for look in rule.looks]
            return extended_differences(looks, per_item / math.sqrt(size), loss, _levels(rule), drop)
        z = float(special.ndtri(1 - rule.alpha))
        gap = (loss - drop) / (per_item / math.sqrt(size))
        return Chance(float(special.ndtr(gap - z)), float(special.ndtr(-gap - z)))

    effect = normal_mde(per_item / math.sqrt(n), 1 - rule.alpha)
    how = f"UNPAIRED ({why}): two runs with the interval of this one"
    return _finished(check, rule, value, n, chance, effect, how, unit=measure.unit)


def _finished(
    check: Check,
    rule: Baseline,
    value: float,
    n: int,
    chance: Callable[..., Chance],
    effect: float | None,
    how: str,
    unit: str = "fraction",
    most: float | None = None,
) -> Planned:
    margin = rule.accepted.loss(value)
    unchanged = chance(n, margin).passes
    drop = _drop(rule, value)
    accepted = unchanged >= ENOUGH or check.severity == "warn"
    note = how
    if accepted and check.severity == "block" and most is not None and (effect is None or margin + effect > most):
        accepted = False
        note += f"; a loss of all there is ({loss_words(most, unit)}) would not FAIL in 80 % of the runs: measure more"
    elif not accepted:
        size = smallest(lambda more: chance(more, margin).passes >= ENOUGH, n, 200_000) if margin > 0 else None
        least = _least(lambda loss: chance(n, loss).passes >= ENOUGH, margin)
        would = [f"n {size:,}" if size else "", f"a margin of {loss_words(least, unit)}" if least else ""]
        note += f"; would do: {' or '.join(part for part in would if part) or 'nothing: measure something else'}"
    return Planned(
        check=check.id,
        n=n,
        unit=unit,
        mde=effect,
        unchanged=unchanged,
        drop=drop,
        caught=None if drop is None else _safe(chance, n, margin, drop),
        accepted=accepted,
        note=note,
    )


def _absolute(check: Check, measure: Measure, value: float) -> Planned:
    """The model as it is against a limit."""
    condition, n = check.condition, measure.n
    at_least = condition.wants == "higher"
    interval = measure.interval
    error = _error(measure)
    by_value = check.judge == "value" or (check.judge is None and interval is None)
    if error is None or interval is None:
        return _unknown(check, "the report has no interval, so nobody knows how much the value varies")
    z = 0.0 if by_value else float(special.ndtri((1 + interval.level) / 2))
    per_item = error * math.sqrt(n)
    exact = interval.method == "wilson" and not by_value

    def chance(size: int, limit: float) -> Chance:
        if exact:
            return proportion(size, value, limit, interval.level, at_least=at_least)
        gap = (value - limit if at_least else limit - value) / max(per_item / math.sqrt(size), 1e-300)
        return Chance(float(special.ndtr(gap - z)), float(special.ndtr(-gap - z)))

    limit = condition.limit.value
    unchanged = chance(n, limit).passes
    accepted = unchanged >= ENOUGH or check.severity == "warn"
    note = f"if the true value is the {quantity(value, measure.unit)} of this report"
    if not accepted:
        good = value > limit if at_least else value < limit
        size = smallest(lambda more: chance(more, limit).passes >= ENOUGH, n, 200_000) if good else None
        span = _least(
            lambda gap: chance(n, value - gap if at_least else value + gap).passes >= ENOUGH, abs(value - limit)
        )
        other = None if span is None else value - span if at_least else value + span
        would = [f"n {size:,}" if size else "", f"a limit of {quantity(other, measure.unit)}" if other else ""]
        note += f"; would do: {' or '.join(part for part in would if part) or 'nothing: measure something else'}"
    effect = normal_mde(error, (1 + interval.level) / 2) if not by_value else normal_mde(error, 0.5)
    return Planned(check.id, n, measure.unit, effect, unchanged, accepted=accepted, note=note)


def _levels(rule: Baseline) -> list[float]:
    assert rule.looks is not None
    return [float(level) for level in nominal_levels([look / rule.looks[-1] for look in rule.looks], rule.alpha)]


def _drop(rule: Baseline, value: float) -> float | None:
    found = rule.detected
    return None if found is None else found.loss(value)


def _safe(chance: Callable[..., Chance], n: int, margin: float, drop: float) -> float | None:
    try:
        return chance(n, margin, drop).fails
    except ValueError:  # a loss larger than all there is
        return None


def _least(good: Callable[[float], bool], start: float) -> float | None:
    """Smallest margin (or distance) that is good, to 1 %, found upwards from `start`."""
    high = max(start, 1e-4)
    for _ in range(60):
        if high >= 1 and start < 1:
            return None
        if _holds(good, high):
            break
        high *= 1.25
    else:
        return None
    low = high / 1.25
    while high - low > high / 100:
        middle = (low + high) / 2
        low, high = (low, middle) if _holds(good, middle) else (middle, high)
    return high


def _holds(good: Callable[[float], bool], at: float) -> bool:
    try:
        return good(at)
    except ValueError:  # no such value is possible
        return False


def _error(measure: Measure) -> float | None:
    found = measure.interval
    if found is None or found.high <= found.low:
        return None
    return (found.high - found.low) / 2 / float(special.ndtri((1 + found.level) / 2))


def loss_words(value: float, unit: str) -> str:
    """A loss or an effect for people: points of a fraction, else a quantity."""
    return f"{value * 100:.1f} pp" if unit == "fraction" else quantity(value, unit)


def _unknown(check: Check, why: str) -> Planned:
    return Planned(check.id, accepted=check.severity == "warn", note=why)


def _standing(item: Planned) -> str:
    if not item.accepted:
        return "REFUSED"
    if item.unchanged is None:
        return "-"
    return "ok" if item.unchanged >= ENOUGH else "weak"


def table(found: Sequence[Planned]) -> list[str]:
    """The plan as lines of text; the note of a check stands below it.

    A check that only warns is never refused: `weak` says that it would be, `-` that nothing is known.
    """
    head = ("", "check", "n", "detectable", "PASS unchanged", "FAIL the loss")
    rows = [head]
    for item in found:
        unit = item.unit or ""
        rows.append(
            (
                _standing(item),
                item.check,
                "" if item.n is None else f"{item.n:,}",
                "" if item.mde is None else loss_words(item.mde, unit),
                "" if item.unchanged is None else f"{item.unchanged * 100:.1f} %",
                ""
                if item.drop is None or item.caught is None
                else f"{item.caught * 100:.1f} % of {loss_words(item.drop, unit)}",
            )
        )
    widths = [max(len(row[index]) for row in rows) for index in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [[], *([plain_line(f"{'':{widths[0]}}  {clean(item.note, 600)}")] if item.note else [] for item in found)]
    return [part for line, note in zip(lines, notes, strict=True) for part in (line, *note)]
