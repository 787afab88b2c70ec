"""What a verdict rests on, for views that show more than the verdict holds.

A verdict travels with an image and names its reports by digest only; answers of a model stay with the reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from servegate.report.model import Report
from servegate.report.records import EvalRecord
from servegate.report.verdict import CheckResult, Discordant


@dataclass(frozen=True)
class Item:
    """An item two runs answered differently, with what is known of its answers."""

    scores: Discordant
    wanted: str | None
    before: str | None
    now: str | None


@dataclass(frozen=True)
class Backing:
    """Reports and the answers behind them.

    Args:
        reports: of the candidate.
        baselines: of the release it was compared with.
        answers: records by digest of their sidecar.
    """

    reports: Sequence[Report] = ()
    baselines: Sequence[Report] = ()
    answers: Mapping[str, Sequence[EvalRecord]] = field(default_factory=dict)

    def report(self, digest: str | None) -> Report | None:
        """The report with that digest, where it is here."""
        return self._by_digest.get(digest or "")

    @cached_property
    def _by_digest(self) -> dict[str, Report]:
        return {report.identity(): report for report in (*self.reports, *self.baselines)}

    def items(self, result: CheckResult) -> list[Item]:
        """The items a check found to differ, in its order.

        Of several answers to an item the one is shown that explains the change best: the worst of the run that lost.
        """
        wanted = {item.id for item in result.discordant}
        now, before = (self._answers(digest, wanted) for digest in (result.report, result.baseline_report))
        found = []
        for item in result.discordant:
            lost = item.candidate < item.baseline
            new, old = _extreme(now.get(item.id, ()), low=lost), _extreme(before.get(item.id, ()), low=not lost)
            target = next((record.target for record in (new, old) if record and record.target is not None), None)
            found.append(Item(item, target, old.answer if old else None, new.answer if new else None))
        return found

    def _answers(self, digest: str | None, wanted: set[str]) -> dict[str, list[EvalRecord]]:
        report = self.report(digest) if wanted else None
        found: dict[str, list[EvalRecord]] = {}
        for samples in report.samples if report is not None else ():
            for record in self.answers.get(samples.sha256, ()):
                if record.id in wanted and record.score is not None:
                    found.setdefault(record.id, []).append(record)
        return found


def _extreme(records: Sequence[EvalRecord], *, low: bool) -> EvalRecord | None:
    pick = min if low else max
    return pick(records, key=lambda record: record.score or 0.0, default=None)
