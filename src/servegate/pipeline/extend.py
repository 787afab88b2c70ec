"""A gate that cannot tell yet asks for more answers, and gets them, until it decides or its last look is reached."""

from __future__ import annotations

import math
from collections.abc import Callable

from servegate.report.model import Report
from servegate.report.verdict import Outcome, Verdict


def until_decided(
    report: Report, judge: Callable[[Report], Verdict], ask: Callable[[int], Report]
) -> tuple[Report, Verdict]:
    """Judge a report, and extend it while the gate asks for more.

    Args:
        report: of a run that can be extended.
        judge: the gate.
        ask: extends the run to at least so many answers.

    Returns:
        The report that was judged last, and the verdict.
    """
    verdict = judge(report)
    while (answers := more_answers(verdict, report)) is not None:
        report = ask(answers)
        verdict = judge(report)
    return report, verdict


def more_answers(verdict: Verdict, report: Report) -> int | None:
    """How many answers the gate asks of a report's run before it decides; None: it has decided, or asks for none of it.

    A check of a slice counts the answers of the slice: the whole grows in proportion.
    """
    if verdict.outcome is not Outcome.INCONCLUSIVE:
        return None  # where something failed already, more answers change nothing
    asked, digest = sum(samples.n for samples in report.samples), report.identity()
    wanted = [
        math.ceil(asked * result.wanted / (result.n or 1))
        for result in verdict.results
        if result.wanted is not None and result.report == digest
    ]
    # Every call asks for more than there is, so the last look of the policy ends this.
    return max(*wanted, asked + 1) if wanted else None
