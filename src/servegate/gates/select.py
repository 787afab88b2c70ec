"""Which report and which measure a check means, and what to say when there is none.

Nothing here guesses: two reports that both fit are an error of the call, and a measure that is not there makes the
check void and names its neighbours.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from servegate.errors import ConfigError
from servegate.gates.checks import matches
from servegate.gates.expression import MeasureName
from servegate.gates.prices import Prices, priced
from servegate.report.format import clean, short_hash
from servegate.report.model import Measure, Report

# What a person means who names no statistic.
_USUAL = ("mean", "rate", "total")
_PRICED = {
    "cost": "`prices` of tokens in the policy, and totals of tokens in the report",
    "cost_per_request": "`prices` of tokens in the policy, and totals of tokens in the report",
    "cost_per_million_tokens": "the price of an `hour` in the policy, and output_throughput in the report",
}


def label(report: Report) -> str:
    """`kind/name`, harmless for the eye."""
    return f"{report.kind}/{clean(report.name, 80)}"


def find_report(name: str, reports: Sequence[Report]) -> Report | str:
    """The report meant by `kind` or `kind/name`, or why there is none.

    Raises:
        ConfigError: several fit.
    """
    found = [report for report in reports if matches(name, report)]
    if len(found) > 1:
        raise ConfigError(
            f"several reports are {name}: {', '.join(label(report) for report in found)}; name one of them"
        )
    if found:
        return found[0]
    given = ", ".join(label(report) for report in reports) or "none"
    return f"no {name} report was given (given: {given})"


def find_measure(target: MeasureName, report: Report, prices: Prices | None = None) -> Measure | str:
    """The measure meant, or why there is none, with the nearest names."""
    measures = priced(report, prices)
    same = [
        measure
        for measure in measures
        if (measure.name, measure.slice, measure.slot) == (target.name, target.slice, target.slot)
    ]
    if target.statistic is not None:
        same = [measure for measure in same if measure.statistic == target.statistic]
    if len(same) > 1:
        usual = [measure for name in _USUAL for measure in same if measure.statistic == name]
        if not usual:
            statistics = ", ".join(measure.statistic for measure in same)
            return f"{target} has several statistics in {label(report)}; name one of {statistics}"
        return usual[0]
    if same:
        return same[0]
    keys = [measure.key for measure in measures]
    wanted = str(target).replace(" ", ".")
    near = difflib.get_close_matches(wanted, keys, n=3, cutoff=0.4) or [
        key for key in keys if key.partition(".")[0] == target.name
    ]
    if target.name in _PRICED:
        return f"{label(report)} has no {target}: it needs {_PRICED[target.name]}"
    if near:
        return f"{label(report)} has no measure {target}; nearest: {', '.join(clean(key, 80) for key in near[:3])}"
    shown = ", ".join(clean(key, 80) for key in keys[:10])
    return f"{label(report)} has no measure {target}; it has {shown or 'none'}"


def same_subject(reports: Sequence[Report]) -> str | None:
    """The release all reports are of; None when they name none.

    Raises:
        ConfigError: they are of different releases, or of endpoints that serve different models.
    """
    releases = {report.subject.release: report for report in reports}
    if len(releases) > 1:
        each = ", ".join(f"{label(report)} of {_subject(report)}" for report in releases.values())
        raise ConfigError(f"the reports are not of one release: {each}; say which is judged with --release")
    if None in releases:
        models = {
            report.subject.endpoint.model: report
            for report in reports
            if report.subject.endpoint is not None and report.subject.endpoint.model is not None
        }
        if len(models) > 1:
            each = ", ".join(f"{label(report)} of {clean(model, 80)}" for model, report in models.items())
            raise ConfigError(f"the reports are of different models: {each}")
    return next(iter(releases), None)


def _subject(report: Report) -> str:
    return "no release" if report.subject.release is None else short_hash(report.subject.release)
