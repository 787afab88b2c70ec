"""Policies: what is read, and how every mistake is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from servegate.errors import ConfigError
from servegate.gates.files import load_policy

ROOT = Path(__file__).parents[3]
HEAD = "version: 1\nname: p\nchecks:\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "gates").glob("*.yaml")), ids=lambda path: path.name)
def test_the_policies_of_this_repository_are_valid_and_named_after_their_file(path: Path) -> None:
    assert load_policy(path).name == path.stem


def test_blanks_comments_and_order_do_not_change_the_identity_but_a_limit_does(tmp_path: Path) -> None:
    one = load_policy(write(tmp_path, HEAD + "- {id: a, report: load, expect: ttft p95 < 500ms}\n"))
    two = load_policy(
        write(tmp_path, "# why\nname: p\nversion: 1\nchecks:\n- expect: 'ttft p95 < 500ms'\n  report: load\n  id: a\n")
    )
    other = load_policy(write(tmp_path, HEAD + "- {id: a, report: load, expect: ttft p95 < 501ms}\n"))
    assert one.identity() == two.identity() != other.identity()


def test_measure_slice_and_slot_may_stand_apart(tmp_path: Path) -> None:
    text = HEAD + (
        "- {id: a, report: eval, measure: accuracy, slice: {tags: refund}, expect: '>= 80%'}\n"
        "- {id: b, report: eval, expect: 'accuracy[tags=refund] >= 80%'}\n"
        "- {id: c, report: canary, measure: ttft, slot: green, expect: p95 < 1s}\n"
    )
    a, b, c = load_policy(write(tmp_path, text)).checks
    assert a.target == b.target
    assert str(c.target) == "ttft p95@green"


@pytest.mark.parametrize(
    ("check", "line", "says"),
    [
        ("- {id: a, report: load, expect: ttft p95 < 500}", 4, "has no unit; the measure is in seconds: write 500ms"),
        ("- id: a\n  report: load\n  expect: ttft p95 < 500mss", 4, "unit 'mss' is unknown"),
        ("- id: a\n  report: laod\n  expect: ttft p95 < 5s", 5, "did you mean 'load'"),
        ("- id: a\n  report: load\n  exepct: ttft p95 < 5s", 6, "did you mean 'expect'"),
        ("- id: a\n  report: load\n  expect: ttft p95 < 5s\n  severity: blok", 7, "'block' or 'warn'"),
        ("- id: a\n  report: load\n  expect: ttft p95 < 5s\n  coverage: 0%", 7, "above 0%"),
        ("- id: a\n  report: load\n  expect: ttft p95 < 5s\n  coverage: 95", 7, "valid string (found 95)"),
        ("- {id: a, report: load}", 4, "one of `expect`, `baseline` and `no_findings`"),
        (
            "- {id: a, report: load, expect: ttft p95 < 5s, no_findings: error}",
            4,
            "one of `expect`, `baseline` and `no_findings`",
        ),
        ("- {id: a, report: load, no_findings: error, measure: ttft}", 4, "'measure' has no meaning there"),
        ("- {id: a, report: load, expect: < 5s}", 4, "which measure"),
        ("- {id: a, report: load, measure: ttft p95, expect: p95 < 5s}", 4, "is not a measure"),
        ("- {id: a, report: eval, slice: b=c, expect: 'accuracy[d=e] > 5%'}", 4, "two slices"),
        ("- {id: a, report: eval, slice: {b: c, d: e}, expect: accuracy > 5%}", 4, "one key and its value"),
        ("- {id: a, report: eval, expect: accuracy >= 0%}", 4, "could never fail"),
        ("- {id: a, report: eval, expect: accuracy > 1%, severity: warn}", 1, "this policy could never fail"),
        (
            "- {id: a, report: eval, expect: accuracy > 1%}\n- {id: a, report: eval, expect: accuracy > 2%}",
            1,
            "check id 'a' stands twice",
        ),
        ("- {id: a, report: eval, expect: accuracy > 1%}\nrequire:\n- {report: eval, younger_than: 5}", 6, "string"),
        ("- {id: a, report: eval, expect: accuracy > 1%}\nrequire:\n- {report: eval, younger_than: 0s}", 6, "younger"),
        ("- {id: a, report: eval, expect: accuracy > 1%}\nrequire:\n- {report: eval, image: latest}", 6, "pattern"),
        ("- {id: 'a\n  b', report: eval, expect: accuracy > 1%}", 4, "pattern"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, check: str, line: int, says: str) -> None:
    path = write(tmp_path, HEAD + check + "\n")
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    assert f"{path}:{line}:" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["version: 1\nname: p\nchecks: []\n", "version: 2\nname: p\nchecks: []\n", "[]", "x"])
def test_what_is_not_a_policy_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load_policy(write(tmp_path, text))
