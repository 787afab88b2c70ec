"""From records to what a gate reads: measures with intervals, and findings. Pure.

A question without an answer is no wrong answer: it is left out of accuracy and counted in error_rate, and too many of
them void the report, because those that were answered may be the easy ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from servegate.report.model import Finding, Interval, Measure
from servegate.report.records import EvalRecord
from servegate.stats import intervals

LEVEL = 0.95
Score = tuple[str, float]


def measures(records: Sequence[EvalRecord], wanted: Sequence[EvalRecord]) -> tuple[Measure, ...]:
    """All measures of a run.

    Args:
        records: what came back, with and without a score.
        wanted: one record per question of the suite; what `attempted` counts, also where the run ended early.
    """
    scores: dict[str, list[Score]] = {}
    for record in records:
        if record.score is not None:
            label = f"item {record.id}" if record.cluster is None else f"cluster {record.cluster}"
            for slice_ in _slices(record):
                scores.setdefault(slice_, []).append((label, record.score))
    attempted = Counter(slice_ for record in wanted for slice_ in _slices(record))
    accuracy = [_accuracy(slice_, scores.get(slice_, []), attempted[slice_]) for slice_ in sorted(attempted)]
    return (*accuracy, _error_rate(records), *_costs(records))


def findings(records: Sequence[EvalRecord], wanted: int, max_unanswered: float, died: str | None) -> list[Finding]:
    """What a person should know, what voids the report first.

    Args:
        records: what came back.
        wanted: number of questions of the suite.
        max_unanswered: fraction above which the report is void.
        died: why the run was stopped; None: it was not.
    """
    found: list[Finding] = []
    scored = sum(record.score is not None for record in records)
    failures = Counter((record.error or "").partition(":")[0] for record in records if record.score is None)
    unanswered = sum(failures.values())
    first = next((record.error or "" for record in records if record.score is None), "")
    kinds = ", ".join(f"{count} {kind}" for kind, count in failures.most_common())
    if died is not None:
        found.append(_void("endpoint-died", f"stopped after {len(records)} of {wanted} questions: {died}"))
    if not scored:
        found.append(
            _void("nothing-measured", f"none of {wanted} questions got a score" + (f": {first}" if first else ""))
        )
    elif unanswered > max_unanswered * len(records):
        share = f"{unanswered} of {len(records)} questions ({unanswered / len(records):.1%}) got no score"
        found.append(_void("too-many-unanswered", f"{share}, allowed are {max_unanswered:.1%}: {kinds}; first {first}"))
    elif unanswered:
        message = f"{unanswered} of {len(records)} questions got no score and are left out: {kinds}; first {first}"
        found.append(Finding(severity="warning", code="unanswered", message=message))
    cut = sum(record.finish_reason == "length" for record in records)
    if cut:
        message = f"{cut} of {len(records)} answers were cut off at max_tokens"
        found.append(Finding(severity="info", code="answers-cut-off", message=message))
    return found


def proportion(scores: Sequence[Score], level: float = LEVEL) -> intervals.Interval:
    """Interval of a mean of scores in [0, 1] whose labels may repeat.

    Wilson's interval with the effective sample size n' = p(1−p)/v, where v is the cluster-robust variance of the mean:
    scores that share a label (a conversation, or repeats of one item) are not independent. The design-effect method
    of Korn and Graubard (Survey Methodology 24:193, 1998) with Wilson's interval, which Franco et al. (J. Survey
    Statistics and Methodology 7:334, 2019) find best among nine. Where the variance cannot be estimated (all right,
    all wrong, one cluster), n' is the number of clusters. Scores between 0 and 1 vary less than p(1−p): the interval is
    then wider than it need be.

    Args:
        scores: label and score of each answer, at least one.
        level: confidence level.
    """
    values = np.array([value for _, value in scores])
    labels = [label for label, _ in scores]
    clusters = len(set(labels))
    p, n = float(values.mean()), float(len(scores))
    if clusters == n:
        found = intervals.wilson(p * n, n, level)
        return intervals.Interval(found.low, found.high, level, "wilson")
    effective = float(clusters)
    if clusters > 1 and 0 < p < 1:
        error, _ = intervals.standard_error(values, labels)
        effective = min(n, max(1.0, p * (1 - p) / error**2)) if error > 0 else n
    found = intervals.wilson(p * effective, effective, level)
    return intervals.Interval(found.low, found.high, level, "wilson-design-effect")


def _slices(record: EvalRecord) -> tuple[str, ...]:
    """Parts of the data a record counts in; the first is all of it."""
    return ("", f"scorer={record.scorer}", *(f"tags={tag}" for tag in dict.fromkeys(record.tags)))


def _accuracy(slice_: str, scores: Sequence[Score], attempted: int) -> Measure:
    return Measure(
        name="accuracy",
        statistic="mean",
        slice=slice_,
        value=float(np.mean([score for _, score in scores])) if scores else None,
        unit="fraction",
        n=len(scores),
        attempted=attempted,
        better="higher",
        interval=_interval(proportion(scores)) if scores else None,
    )


def _error_rate(records: Sequence[EvalRecord]) -> Measure:
    n, failed = len(records), sum(record.score is None for record in records)
    return Measure(
        name="error_rate",
        statistic="rate",
        value=failed / n if n else None,
        unit="fraction",
        n=n,
        attempted=n,
        better="lower",
        interval=_interval(intervals.wilson(failed, n, LEVEL)) if n else None,
    )


def _costs(records: Sequence[EvalRecord]) -> list[Measure]:
    answered = [record for record in records if record.score is not None]
    latencies = [record.e2e_latency for record in answered if record.e2e_latency is not None]
    tokens = [record.output_tokens for record in answered if record.output_tokens is not None]
    prompts = [record.prompt_tokens for record in answered if record.prompt_tokens is not None]
    count = len(answered)
    return [
        Measure(
            name="e2e_latency",
            statistic="mean",
            value=float(np.mean(latencies)) if latencies else None,
            unit="seconds",
            n=len(latencies),
            attempted=count,
            better="lower",
        ),
        Measure(
            name="output_tokens",
            statistic="mean",
            value=float(np.mean(tokens)) if tokens else None,
            unit="tokens",
            n=len(tokens),
            attempted=count,
        ),
        _total("output_tokens", tokens, count),
        _total("prompt_tokens", prompts, count),
    ]


def _total(name: str, values: Sequence[int], attempted: int) -> Measure:
    return Measure(
        name=name,
        statistic="total",
        value=float(sum(values)) if values else None,
        unit="tokens",
        n=len(values),
        attempted=attempted,
    )


def _interval(found: intervals.Interval) -> Interval:
    return Interval(low=found.low, high=found.high, level=found.level, method=found.method)


def _void(code: str, message: str) -> Finding:
    return Finding(severity="error", code=code, message=message, voids=True)
