"""How often a model answers differently from itself: measured once, kept with a baseline, used by every plan.

Temperature 0 does not make a served model repeat itself: batching changes the order of sums. What a gate can see is
decided by this noise, so it is measured by a second run of the same model (A/A) or by repeats within one run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from servegate.contract import Contract
from servegate.gates.pairs import Answers, Pairs, answers_of, pair
from servegate.report.format import clean
from servegate.report.model import Measure, Report
from servegate.report.records import Count, EvalRecord
from servegate.stats.intervals import standard_error
from servegate.stats.paired import non_inferiority


class Noise(Contract):
    """Two measurements of one model, item by item."""

    measure: str = Field(description="key of the measure")
    source: Literal["second run", "repeats"]
    items: Annotated[int, Field(ge=1)] = Field(description="that both measurements have")
    clusters: Annotated[int, Field(ge=1)] = Field(description="independent groups of items")
    differing: Count | None = Field(None, description="items scored differently; none: not right-or-wrong, or clusters")
    error: Annotated[float, Field(ge=0)] | None = Field(
        None, description="standard error of the mean difference of two runs over these items; none: see `differing`"
    )

    def words(self) -> str:
        """For people."""
        how = "A/A" if self.source == "second run" else "repeats"
        if self.differing is not None:
            return f"{how}: {self.differing:,} of {self.items:,} items differ"
        return f"{how}: standard error {(self.error or 0) * 100:.2f} pp over {self.clusters:,} clusters"


def of_runs(measure: Measure, first: Report, second: Report, answers: Answers) -> Noise | str:
    """Noise of a measure between two runs of one model, or why it is not known.

    Args:
        answers: records behind both, by digest of the sidecar.
    """
    if second.void is not None:
        return f"the second run is void: {second.void.code}"
    if second.identity() == first.identity():
        return "the second run is the first"
    other = next((item for item in second.measures if item.key == measure.key), None)
    if other is None:
        return "the second run has no such measure"
    one, two = answers_of(measure, first, answers), answers_of(other, second, answers)
    if isinstance(one, str) or isinstance(two, str):
        return "the answers of both runs are needed"
    pairs = pair(two, one)
    if not pairs.ids:
        return "the two runs share no item"
    if pairs.clusters is not None and len(set(pairs.clusters)) < 2:
        return "a comparison needs at least 2 clusters"
    return _of_pairs(measure.key, pairs)


def _of_pairs(key: str, pairs: Pairs) -> Noise:
    n = len(pairs.ids)
    binary = all(score in (0.0, 1.0) for score in (*pairs.candidate, *pairs.baseline))
    if binary and pairs.clusters is None:
        differing = sum(a != b for a, b in zip(pairs.candidate, pairs.baseline, strict=True))
        return Noise(measure=key, source="second run", items=n, clusters=n, differing=differing)
    found = non_inferiority(pairs.candidate, pairs.baseline, 0.0, clusters=pairs.clusters)
    return Noise(measure=key, source="second run", items=n, clusters=found.clusters, error=found.error or 0.0)


def of_repeats(measure: Measure, report: Report, answers: Answers) -> Noise | str:
    """Noise of a measure from the repeats within one run, or why it is not known.

    The repeats are halved, and the difference between the halves is scaled to that of two whole runs: with R repeats
    split into a and b its variance is (1/a + 1/b) σ², that of two runs 2/R σ².
    """
    own = answers_of(measure, report, answers)
    if isinstance(own, str):
        return own
    numbers = sorted({record.repeat for record in own})
    if len(numbers) < 2:
        return "the run has no repeats"
    early = set(numbers[: len(numbers) // 2])
    pairs = pair(_part(own, early, inside=True), _part(own, early, inside=False))
    n = len(pairs.ids)
    if n < 2 or (pairs.clusters is not None and len(set(pairs.clusters)) < 2):
        return "the repeats share too few items"
    a, b = len(early), len(numbers) - len(early)
    scale = math.sqrt(2 / len(numbers) / (1 / a + 1 / b))
    gaps = np.subtract(pairs.candidate, pairs.baseline)
    error, freedom = standard_error(gaps, pairs.clusters)
    # Nothing differed in a few hundred items: that is less than one in so many, not never.
    error = max(error, 1 / n) * scale
    return Noise(measure=measure.key, source="repeats", items=n, clusters=freedom + 1, error=error)


def _part(records: Sequence[EvalRecord], repeats: set[int], *, inside: bool) -> list[EvalRecord]:
    return [record for record in records if (record.repeat in repeats) is inside]


def of_report(report: Report, again: Report | None, answers: Answers) -> tuple[Noise, ...]:
    """Noise of every measure of a report for which it is known: from the second run, else from repeats."""
    found = []
    for measure in report.measures:
        noise = of_repeats(measure, report, answers) if again is None else of_runs(measure, report, again, answers)
        if isinstance(noise, Noise):
            found.append(noise)
    return tuple(found)


def shown(noise: Noise) -> str:
    """With the name of its measure."""
    return f"{clean(noise.measure, 80)}: {noise.words()}"
