"""The pictures: parts of the page, with text as text and colours that follow it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from servegate.report.plots import Plot, timeline_plots
from servegate.report.records import CanaryTick
from servegate.report.story import ReleaseStory, facts


@pytest.fixture(scope="module")
def plots(stories: list[ReleaseStory]) -> list[Plot]:
    return timeline_plots(stories[1], facts(stories[1]), "p")


def pictures(plots: list[Plot]) -> Iterator[ElementTree.Element]:
    for plot in plots:
        for svg in (plot.wide, plot.narrow):
            yield ElementTree.fromstring(svg)


def words(plot: Plot) -> str:
    return " ".join("".join(node.itertext()) for node in ElementTree.fromstring(plot.wide).iter("text"))


def test_what_is_drawn(plots: list[Plot]) -> None:
    assert [plot.title for plot in plots] == [
        "Share of traffic",
        "Time to first token",
        "Requests",
        "Failed requests",
        "Evidence against the release",
        "Evidence for promotion",
    ]


def test_the_decision_and_the_defect_are_marked_with_words(plots: list[Plot]) -> None:
    text = words(plots[0])
    assert "defect takes effect" in text
    assert re.search(r"rolled back \d:\d\d", text)
    assert "limit" in words(plots[4])
    assert "enough" in words(plots[5])


def test_text_is_text_and_units_are_named(plots: list[Plot]) -> None:
    assert "ms" in words(plots[1]).split()
    assert "requests/s" in words(plots[2])
    assert "failed per 5 s" in words(plots[3])
    assert "0:30" in words(plots[1])


def test_colours_are_the_pages(plots: list[Plot]) -> None:
    for picture in pictures(plots):
        styles = " ".join(node.get("style", "") for node in picture.iter())
        assert "var(--" in styles
        assert set(re.findall(r"#[0-9a-f]{6}", styles)) <= {"#000000", "#ffffff"}


def test_no_colour_is_the_only_difference(plots: list[Plot]) -> None:
    for plot in plots:
        signs = [(key.sign, key.dashes) for key in plot.legend]
        assert len(signs) == len(set(signs)), plot.title


def test_pictures_do_not_share_identifiers(plots: list[Plot]) -> None:
    ids = [node.get("id", "") for picture in pictures(plots) for node in picture.iter() if node.get("id")]
    assert len(ids) == len(set(ids))


def test_foreign_text_cannot_break_the_picture(stories: list[ReleaseStory], hostile: str) -> None:
    phases = [tick.model_copy(update={"phase": hostile}) for tick in stories[1].ticks[::12]]
    story = replace(stories[1], ticks=phases, name=hostile, records=())
    for picture in pictures(timeline_plots(story, facts(story), "p")):
        assert picture.tag == "svg"
        assert "script" not in {node.tag for node in picture.iter()}


def test_without_requests_the_ticks_are_drawn(stories: list[ReleaseStory]) -> None:
    story = replace(stories[1], records=())
    plots = timeline_plots(story, facts(story), "p")
    assert "for showing only" in plots[1].note
    assert len(plots) == 6


def test_a_slot_that_is_neither_blue_nor_green(stories: list[ReleaseStory]) -> None:
    ticks = [
        CanaryTick(
            at=float(i), phase="STEP", step=0, weights={"left": 90, "right": 10}, stable="left", candidate="right"
        )
        for i in range(20)
    ]
    story = ReleaseStory(name="v", outcome="unfinished", ticks=ticks)
    plots = timeline_plots(story, facts(story), "p")
    assert [key.colour for key in plots[0].legend] == ["slot-b", "slot-a"]


def test_more_checks_than_can_be_told_apart_are_named_as_left_out(stories: list[ReleaseStory]) -> None:
    many = [
        tuple(e.model_copy(update={"check": f"c{i}"}) for i in range(9) for e in tick.evidence[:1])
        for tick in stories[1].ticks
    ]
    ticks = [tick.model_copy(update={"evidence": e}) for tick, e in zip(stories[1].ticks, many, strict=True)]
    story = replace(stories[1], ticks=ticks)
    plot = timeline_plots(story, facts(story), "p")[4]
    assert len(plot.legend) == 6
    assert "3 further checks" in plot.note


def test_a_check_looks_the_same_in_both_pictures_and_cuts_are_told(stories: list[ReleaseStory]) -> None:
    gone = {"promote_log_e": None, "promote_log_limit": None, "log_e": -9.0}
    ticks = [
        tick.model_copy(
            update={"evidence": tuple(e.model_copy(update=gone) for e in tick.evidence[:1]) + tick.evidence[1:]}
        )
        for tick in stories[1].ticks
    ]
    story = replace(stories[1], ticks=ticks)
    against, towards = timeline_plots(story, facts(story), "p")[4:]
    looks = {key.label: (key.colour, key.dashes) for key in against.legend}
    assert len(towards.legend) == 1
    assert all(looks[key.label] == (key.colour, key.dashes) for key in towards.legend)
    assert "cut at -0.5" in against.note


def test_nothing_is_drawn_of_failures_there_were_not(stories: list[ReleaseStory]) -> None:
    titles = [plot.title for plot in timeline_plots(stories[0], facts(stories[0]), "p")]
    assert "Requests" in titles
    assert "Failed requests" not in titles
