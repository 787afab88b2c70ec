"""From the answers behind two reports to pairs of scores, item by item.

Only what was asked the same way twice is a pair: an item whose content changed is another item, and one that got no
score in either run says nothing about the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from servegate.report.model import Measure, Report
from servegate.report.records import EvalRecord
from servegate.report.verdict import Discordant

# Answers by digest of the sidecar that holds them.
Answers = Mapping[str, Sequence[EvalRecord]]


@dataclass(frozen=True)
class Pairs:
    """Scores of the same items in two runs, each a mean over repeats.

    Attributes:
        ids: of the items.
        candidate, baseline: scores, in the same order.
        clusters: label per item; None when no two items share one.
        wanted: items there are, with or without a score.
        asked: those of them that the candidate was asked.
        changed: ids whose content is not the same in both runs.
        answers: answers of the candidate that were wanted, all repeats counted.
    """

    ids: tuple[str, ...]
    candidate: tuple[float, ...]
    baseline: tuple[float, ...]
    clusters: tuple[str, ...] | None
    wanted: int
    asked: int
    changed: tuple[str, ...]
    answers: int

    def lost(self) -> list[str]:
        """Ids of the items the candidate answered worse, worst first."""
        return [self.ids[index] for index in self._ranked(1)]

    def discordant(self, most: int) -> tuple[Discordant, ...]:
        """Items that differ, with their scores: lost ones, worst first, then won ones; at most so many of each."""
        return tuple(
            Discordant(id=self.ids[index], baseline=self.baseline[index], candidate=self.candidate[index])
            for sign in (1, -1)
            for index in self._ranked(sign)[:most]
        )

    def _ranked(self, sign: int) -> list[int]:
        gaps = [sign * (new - old) for new, old in zip(self.candidate, self.baseline, strict=True)]
        return sorted((index for index, gap in enumerate(gaps) if gap < 0), key=gaps.__getitem__)


def answers_of(measure: Measure, report: Report, answers: Answers) -> list[EvalRecord] | str:
    """The records a measure rests on, or why there are none that could be paired.

    They must give the measure's value again: then they are what is judged, whoever wrote the report.
    """
    if measure.unit not in ("fraction", "score") or measure.statistic != "mean":
        return "only mean scores are paired"
    found = [record for item in report.samples for record in answers.get(item.sha256, ())]
    if not found:
        return "no answers were given with the report"
    kept = [record for record in found if _in_slice(record, measure.slice)]
    scores = [record.score for record in kept if record.score is not None]
    if not scores or measure.value is None or abs(math.fsum(scores) / len(scores) - measure.value) > 1e-9:
        return "the answers do not give the measure's value again"
    return kept


def pair(candidate: Sequence[EvalRecord], baseline: Sequence[EvalRecord]) -> Pairs:
    """Pair two runs by item id."""
    new, old = _items(candidate), _items(baseline)
    every = dict.fromkeys((*new, *old))
    changed = [id_ for id_ in every if id_ in new and id_ in old and new[id_].content != old[id_].content]
    skipped = set(changed)
    rows = [
        (id_, new[id_].mean, old[id_].mean, new[id_].cluster or f"item {id_}")
        for id_ in every
        if id_ in new and id_ in old and id_ not in skipped and new[id_].scores and old[id_].scores
    ]
    clusters = tuple(row[3] for row in rows)
    return Pairs(
        ids=tuple(row[0] for row in rows),
        candidate=tuple(row[1] for row in rows),
        baseline=tuple(row[2] for row in rows),
        clusters=clusters if len(set(clusters)) < len(clusters) else None,
        wanted=len(every),
        asked=len(new),
        changed=tuple(changed),
        answers=len(candidate),
    )


@dataclass
class _Item:
    content: str
    cluster: str | None
    scores: list[float]

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)


def _items(records: Sequence[EvalRecord]) -> dict[str, _Item]:
    items: dict[str, _Item] = {}
    for record in records:
        cluster = None if record.cluster is None else f"cluster {record.cluster}"
        item = items.setdefault(record.id, _Item(record.item_sha256, cluster, []))
        if record.score is not None:
            item.scores.append(record.score)
    return items


def _in_slice(record: EvalRecord, slice_: str) -> bool:
    key, _, value = slice_.partition("=")
    return not slice_ or (key == "tags" and value in record.tags) or (key == "scorer" and value == record.scorer)
