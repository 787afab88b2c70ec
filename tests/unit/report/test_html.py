"""The page: everything inside, nothing of the outside obeyed, readable by people and by machines."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from servegate.report.html import document, page
from servegate.report.model import Finding, Report
from servegate.report.records import CanaryTick
from servegate.report.story import ReleaseStory
from servegate.report.verdict import CheckResult, Outcome, Verdict

VOID_TAGS = {"meta", "br", "img", "link", "hr", "input"}
LINKS = {"href", "src", "xlink:href", "action", "data", "poster", "srcset", "formaction", "background", "cite"}


class Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.headings: list[int] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID_TAGS:
            self.open.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in LINKS:
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID_TAGS:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def whole(stories: list[ReleaseStory]) -> str:
    return page("Demo", stories, intro="Two releases.", machine={"CPU": "2 cores"})


def test_the_page_is_well_formed_and_stands_alone(whole: str) -> None:
    parsed = Page(whole)
    assert not parsed.open
    assert parsed.handlers == []
    assert "script" not in parsed.tags
    assert not {"img", "iframe", "object", "embed", "link", "base", "form"} & set(parsed.tags)
    assert parsed.links
    assert all(link.startswith("#") for link in parsed.links)
    assert "http://" not in whole
    assert "https://" not in whole
    assert "@import" not in whole
    assert not re.search(r"url\((?!#)", whole)
    assert "default-src 'none'" in whole


def test_every_reference_inside_has_exactly_one_target(whole: str) -> None:
    parsed = Page(whole)
    assert len(parsed.ids) == len(set(parsed.ids))
    targets = {link[1:] for link in parsed.links} | set(re.findall(r"url\(#([^)]+)\)", whole))
    assert targets <= set(parsed.ids)


def test_it_can_be_read_without_seeing(whole: str) -> None:
    parsed = Page(whole)
    assert parsed.headings[0] == 1
    assert all(two - one <= 1 for one, two in pairwise(parsed.headings))
    plots = [attributes for tag, attributes in parsed.attributes if tag == "div" and attributes.get("role") == "img"]
    assert len(plots) == 11
    assert all(len(attributes["aria-label"] or "") > 40 for attributes in plots)
    headers = [attributes for tag, attributes in parsed.attributes if tag == "th"]
    assert all(attributes.get("scope") in ("col", "row") for attributes in headers)
    assert ("html", {"lang": "en"}) in parsed.attributes


def test_it_says_what_happened(whole: str, stories: list[ReleaseStory]) -> None:
    text = " ".join("".join(Page(whole).text).replace("\u00a0", " ").split())
    failed = sum(not record.ok for record in stories[1].records)
    assert "Promoted 2 min 32 s after the rollout began. None of 3,441 requests failed." in text
    assert f"{failed} of the" in text
    assert "Check that fired: errors against stable" in text
    assert "held at 10 % for its time: on to 50 %" in text
    assert "96.3 % [89.8, 98.7]" in text
    assert "goodput was not measured" in text
    assert "counts as PASS" in text
    assert "1,196 of 1,200" in text
    assert "Wrong answers: 2 answers" in text
    assert "timeout after 30 s" in text
    assert "sha256:4b4b" in text
    assert "10 %" in text


def test_a_demo_fits_in_a_mail(whole: str) -> None:
    assert len(whole.encode()) < 2_000_000


def test_a_check_that_was_not_measured_is_not_green(verdict: Callable[..., Verdict]) -> None:
    parsed = document(verdict())
    row = parsed[parsed.index("counts as PASS") - 300 : parsed.index("counts as PASS")]
    assert "badge doubt" in row
    assert "badge good" not in row.split("<tr")[-1]


def hurt_by(story: ReleaseStory, reports: tuple[Report, ...], text: str, verdict: Verdict) -> ReleaseStory:
    """The story with foreign text wherever foreign text can stand."""
    tick = story.ticks[20]
    finding = Finding(severity="error", code="x", message=text)
    renamed = verdict.results[0].model_copy(update={"check": text, "message": text, "measure": text})
    answer = story.eval_records[0].model_copy(
        update={"id": text, "tags": (text,), "answer": text, "target": text, "reason": text}
    )
    strange = tick.model_copy(update={"at": story.ticks[29].at + 1, "reason": text, "phase": text})
    return replace(
        story,
        name=text,
        reason=text,
        stable=text,
        numbers={text: text},
        eval_records=[answer],
        ticks=[*story.ticks[22:30], strange],
        records=(),
        reports=[reports[0].model_copy(update={"name": text, "findings": (finding,), "tool": text}), *reports[1:]],
        verdict=verdict.model_copy(update={"results": (renamed,), "policy": text, "decided_by": text}),
    )


@pytest.fixture(scope="module")
def harmless_tags(
    stories: list[ReleaseStory], reports: tuple[Report, ...], verdict: Callable[..., Verdict]
) -> set[str]:
    story = hurt_by(stories[1], reports, "x", verdict(Outcome.FAIL))
    return set(Page(page("x", [story], intro="x", machine={"x": "x"})).tags)


def test_hostile_text_is_shown_and_not_obeyed(
    hostile: str,
    harmless_tags: set[str],
    stories: list[ReleaseStory],
    reports: tuple[Report, ...],
    verdict: Callable[..., Verdict],
) -> None:
    story = hurt_by(stories[1], reports, hostile, verdict(Outcome.FAIL))
    markup = page(hostile, [story], intro=hostile, machine={hostile: hostile})
    parsed = Page(markup)
    # The same elements as with harmless text: nothing was smuggled in.
    assert set(parsed.tags) == harmless_tags
    assert parsed.handlers == []
    assert all(link.startswith("#") for link in parsed.links)
    assert not parsed.open
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", markup)
    assert "49" not in parsed.text  # templates in text are not evaluated
    markup.encode()


def test_ten_megabytes_of_answer_are_cut(
    stories: list[ReleaseStory], reports: tuple[Report, ...], verdict: Callable[..., Verdict]
) -> None:
    markup = page("x", [hurt_by(stories[1], reports, "ab " * 3_400_000, verdict(Outcome.FAIL))])
    assert len(markup.encode()) < 1_000_000
    assert "10,200,000 characters" in markup


def test_many_events_and_answers_are_counted_not_all_shown(stories: list[ReleaseStory]) -> None:
    start = stories[1].ticks[0]
    ticks = [start.model_copy(update={"at": start.at + i, "reason": f"reason {i}"}) for i in range(500)]
    answers = [
        record.model_copy(update={"id": f"item-{i}"}) for i, record in enumerate(list(stories[1].eval_records) * 100)
    ]
    markup = page("x", [replace(stories[1], ticks=ticks, eval_records=answers)])
    assert "reason 199" in markup
    assert "reason 200" not in markup
    assert "300 later events not shown" in markup
    assert "160 more are in the report" in markup


def test_one_slot_one_tick_and_nothing_at_all_are_pages_too() -> None:
    tick = CanaryTick(at=5.0, phase="PENDING", weights={"blue": 100.0}, stable="blue")
    for ticks in ([], [tick], [tick, tick.model_copy(update={"at": 6.0})]):
        parsed = Page(page("x", [ReleaseStory(name="v", outcome="unfinished", ticks=ticks)]))
        assert not parsed.open


def test_a_report_and_a_verdict_alone(reports: tuple[Report, ...], verdict: Callable[..., Verdict]) -> None:
    subjects: list[Report | Verdict] = [*reports, verdict(Outcome.FAIL)]
    for subject in subjects:
        parsed = Page(document(subject))
        assert not parsed.open
        assert "script" not in parsed.tags
    assert "not measured" in document(reports[2])


def test_smoke_checks_are_rows_with_what_was_found(reports: tuple[Report, ...]) -> None:
    markup = document(reports[0])
    rows = [row for row in markup.split("<tr")[2:] if "data-label" in row]
    assert len(rows) == 3
    assert "PASS" in rows[1]
    assert "19 chunks" in rows[1]
    assert "VOID" in rows[2]
    assert "not measured" in rows[2]
    assert "2 of 3" in markup


def test_a_check_that_judges_no_number_claims_none(verdict: Callable[..., Verdict]) -> None:
    present = CheckResult(check="require:eval", outcome=Outcome.PASS, effect=Outcome.PASS, message="eval is there")
    markup = document(verdict().model_copy(update={"results": (present,)}))
    assert "eval is there" in markup
    assert "not measured" not in markup
