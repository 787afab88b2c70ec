"""The cells of a check: the same in every view, and as people write numbers."""

from __future__ import annotations

import io
from collections.abc import Callable
from html import unescape
from xml.etree import ElementTree

import pytest
from rich.console import Console

from servegate.report.backing import Backing
from servegate.report.format import change, key_name, size
from servegate.report.html import document
from servegate.report.junit import verdict_junit
from servegate.report.markdown import verdict_markdown
from servegate.report.model import Interval
from servegate.report.rows import by_weight, levels, limit_of, row
from servegate.report.terminal import print_verdict
from servegate.report.verdict import Outcome, Verdict

Compared = Callable[..., tuple[Verdict, Backing]]


def flat(text: str) -> str:
    """A view's text without what differs on purpose: escapes, blanks that do not break."""
    return " ".join(unescape(text).replace("\\", "").replace("\u00a0", " ").split())


def test_every_view_shows_every_cell(compared: Compared) -> None:
    verdict, backing = compared("plain text")
    console = Console(file=io.StringIO())
    print_verdict(verdict, console)
    assert isinstance(console.file, io.StringIO)
    junit = ElementTree.fromstring(verdict_junit(verdict).encode())
    views = {
        "terminal": console.file.getvalue(),
        "markdown": verdict_markdown(verdict, backing=backing),
        "html": document(verdict, backing),
    }
    for result in verdict.results:
        cells = row(result)
        for name, view in views.items():
            for cell in (
                cells.check,
                cells.metric,
                cells.baseline,
                cells.candidate,
                cells.delta,
                cells.limit,
                cells.mde,
            ):
                assert flat(cell) in flat(view), f"{cell!r} is not in the {name} view"
    failed = junit.find("testsuite/testcase[@name='not-worse']/failure")
    assert failed is not None
    assert failed.text == "80.5 %, baseline 90.5 %, Δ −10 pp [−13.8, −8.7], limit Δ ≥ −3 pp, n 400, MDE 5.37 pp"
    case = junit.find("testsuite/testcase[@name='not-worse']")
    assert case is not None
    assert (case.get("file"), case.get("line")) == ("plain text", "8")


def test_answers_are_shown_where_they_are_at_hand(compared: Compared) -> None:
    verdict, backing = compared("환불은 7일 이내")
    assert document(verdict, backing).count("환불은 7일 이내") > document(verdict).count("환불은 7일 이내") + 20
    assert "score 1 before, 0 now" in document(verdict)
    found = backing.items(verdict.results[5])
    assert (found[3].wanted, found[3].before, found[3].now) == ("환불은 7일 이내",) * 3


@pytest.mark.parametrize(
    ("value", "unit", "ends", "ratio", "shown"),
    [
        (-0.1, "fraction", (-0.138, -0.087), False, "−10 pp [−13.8, −8.7]"),
        (0.0004, "fraction", None, False, "+0.04 pp"),
        (0.0, "fraction", (-0.01, 0.01), False, "0 pp [−1, +1]"),
        (0.103, "seconds", (0.072, 0.136), False, "+103 ms [+72, +136]"),
        (-12.0, "seconds", None, False, "−12 s"),
        (1.081, "tokens/second", (1.02, 1.149), True, "×1.08 [×1.02, ×1.15]"),
        (-340.0, "tokens/second", None, False, "−340 tokens/s"),
    ],
)
def test_a_change_has_its_sign(
    value: float, unit: str, ends: tuple[float, float] | None, ratio: bool, shown: str
) -> None:
    interval = Interval(low=ends[0], high=ends[1], level=0.9, method="x") if ends else None
    assert change(value, unit, interval, ratio) == shown


def test_sizes_and_names() -> None:
    assert (size(-0.03, "fraction"), size(0.05, "seconds")) == ("3 pp", "50 ms")
    assert key_name("ttft.p95[tags=refund]@green", "seconds") == "TTFT p95 [tags=refund] (green)"
    assert key_name("accuracy.mean", "fraction") == "accuracy"
    assert key_name("no key at all\n", "") == "no key at all "


def test_limits_of_differences_and_ratios(compared: Compared) -> None:
    against = compared()[0].results[5]
    assert limit_of(against) == "Δ ≥ −3 pp"
    ratio = against.model_copy(update={"ratio": True, "threshold": 0.8145, "delta": 0.9})
    assert limit_of(ratio) == "Δ ≥ ×0.90"
    assert limit_of(ratio.model_copy(update={"baseline": 0.0, "threshold": 0.1})) == "≥ 10 %"
    assert limit_of(against.model_copy(update={"threshold": None})) == ""
    assert limit_of(against.model_copy(update={"delta": None})) == "≥ 87.5 %"


def test_what_decides_comes_first_and_levels_are_named(compared: Compared) -> None:
    verdict, _ = compared()
    assert by_weight(verdict.results)[0].check == "not-worse"
    assert [found.outcome for found in by_weight(verdict.results)][1:3] == [Outcome.INCONCLUSIVE] * 2
    assert levels(verdict.results) == "90 %"
    wider = verdict.results[5].model_copy(
        update={"delta_interval": Interval(low=-1, high=1, level=0.98, method="x"), "check": "wide"}
    )
    assert levels([*verdict.results, wider]) == "90 to 98 %"
    assert levels(verdict.results[:1]) == ""
