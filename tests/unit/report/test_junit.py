"""A verdict as JUnit XML."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.report.junit import verdict_junit
from servegate.report.verdict import Outcome, Verdict


@pytest.mark.parametrize(
    ("outcome", "tag", "count"),
    [
        (Outcome.FAIL, "failure", "failures"),
        (Outcome.VOID, "error", "errors"),
        (Outcome.INCONCLUSIVE, "skipped", "skipped"),
    ],
)
def test_quality_repair_and_doubt_are_told_apart(
    outcome: Outcome, tag: str, count: str, verdict: Callable[..., Verdict]
) -> None:
    root = ElementTree.fromstring(verdict_junit(verdict(outcome, "why")).encode())
    suite = root.find("testsuite")
    assert suite is not None
    assert suite.get(count) == root.get(count) == "1"
    assert suite.get("tests") == "3"
    found = suite.findall(f"testcase[@name='ttft-p95']/{tag}")
    assert [node.get("message") for node in found] == ["why"]
    assert "431 ms [412, 466], limit ≤ 800 ms, n 1,196" in (found[0].text or "")
    assert suite.findall("testcase[@name='accuracy']/*") == suite.findall("testcase[@name='accuracy']/properties")


def test_what_only_warns_passes_with_a_note(verdict: Callable[..., Verdict]) -> None:
    root = ElementTree.fromstring(verdict_junit(verdict()).encode())
    assert root.get("failures") == root.get("errors") == root.get("skipped") == "0"
    note = root.findtext("testsuite/testcase[@name='goodput']/system-out")
    assert note == "INCONCLUSIVE, counts as PASS: goodput was not measured (not measured, limit ≥ 95 %)"


def test_scores_are_properties(verdict: Callable[..., Verdict]) -> None:
    root = ElementTree.fromstring(verdict_junit(verdict()).encode())
    path = "testsuite/testcase[@name='accuracy']/properties/property"
    properties = {node.get("name"): node.get("value") for node in root.findall(path)}
    assert properties["value"] == "0.9634"
    assert properties["threshold"] == ">= 0.85"


def test_hostile_text_is_valid_xml(hostile: str, verdict: Callable[..., Verdict]) -> None:
    bad = verdict(Outcome.FAIL).results[1].model_copy(update={"check": hostile, "message": hostile, "measure": hostile})
    text = verdict_junit(verdict(Outcome.FAIL).model_copy(update={"results": (bad,), "policy": hostile}))
    root = ElementTree.fromstring(text.encode())
    assert [node.tag for node in root.iter()][:3] == ["testsuites", "testsuite", "properties"]
    assert len(root.findall("testsuite/testcase")) == 1
    assert {node.tag for node in root.iter()} == {
        "testsuites", "testsuite", "properties", "property", "testcase", "failure",
    }  # fmt: skip


@given(text=st.text(st.characters(codec=None), max_size=60))
def test_any_text_is_valid_xml(text: str, verdict: Callable[..., Verdict]) -> None:
    bad = verdict(Outcome.FAIL).results[1].model_copy(update={"message": text})
    ElementTree.fromstring(verdict_junit(verdict().model_copy(update={"results": (bad,)})).encode())
