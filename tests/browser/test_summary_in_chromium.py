"""The job summary as GitHub shows it: its width is 1,012 pixels at most, and nobody scrolls sideways to a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
from github_page import page
from report_samples import make_compared

from browser import measured
from servegate.report.markdown import verdict_markdown

HOSTILE = "</details></td></table>\n\n| a | `b` ::error:: <h1>x</h1> " + "W" * 60


@pytest.mark.parametrize("unfold", [False, True])
def test_every_table_of_a_usual_verdict_is_seen_whole(unfold: bool, tmp_path: Path) -> None:
    verdict, backing = make_compared("Your order ships tomorrow.")
    result = measured(page(verdict_markdown(verdict, backing=backing), unfold=unfold), 1012, tmp_path)
    assert result["found"] == []
    assert result["sideways"] == []
    assert 700 < result["height"] < (4000 if unfold else 1500)


def test_hostile_text_widens_a_table_and_not_the_page(tmp_path: Path) -> None:
    verdict, backing = make_compared(HOSTILE)
    result = measured(page(verdict_markdown(verdict, backing=backing), unfold=True), 1012, tmp_path)
    assert result["found"] == []
    assert [heading.partition(" ")[0] for heading in result["headings"]] == ["Compared", "Service"]
