"""The report page as a browser lays it out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_samples import make_compared, make_ended
from story_samples import make_stories

from browser import measured
from servegate.report.html import document, page


@pytest.fixture(scope="module")
def markup() -> str:
    return page("Demo", make_stories(), intro="Two releases.", machine={"CPU": "2 cores"})


@pytest.mark.parametrize("width", [400, 640, 800, 1280])
def test_nothing_overflows_is_cut_off_or_covers_something(width: int, markup: str, tmp_path: Path) -> None:
    result = measured(markup, width, tmp_path)
    assert result["found"] == []
    assert result["texts"] > 80
    assert result["scripts"] == 0
    assert result["loaded"] == 0


def test_dark_and_light_differ(markup: str, tmp_path: Path) -> None:
    light = measured(markup, 800, tmp_path)
    dark = measured(markup, 801, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert light["paper"] == "rgb(255, 255, 255)"
    assert dark["paper"] == "rgb(20, 23, 26)"


@pytest.mark.parametrize("width", [400, 640, 810, 1012, 1280])
@pytest.mark.parametrize("text", ["Your order ships tomorrow.", "W" * 300])
def test_a_verdict_fits(text: str, width: int, tmp_path: Path) -> None:
    result = measured(document(*make_compared(text)), width, tmp_path)
    assert result["found"] == []


@pytest.mark.parametrize("width", [400, 640, 810, 1012, 1280])
@pytest.mark.parametrize("text", ["v2 is slower than agreed.", "W" * 300])
def test_the_sections_of_a_canary_fit(text: str, width: int, tmp_path: Path) -> None:
    result = measured(document(make_ended(text)), width, tmp_path)
    assert result["found"] == []
    assert result["sideways"] == []


def test_the_sections_of_a_canary_stand_in_the_page_of_its_release(tmp_path: Path) -> None:
    story = replace(make_stories()[0], reports=(make_ended("v2"),))
    result = measured(page("Demo", [story]), 400, tmp_path)
    assert result["found"] == []
    assert "Before the canary" not in result["headings"]
