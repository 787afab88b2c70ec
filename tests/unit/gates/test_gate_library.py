"""The gate as a library: the example of the documentation, and that nothing but the arguments decides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from servegate.config import validate
from servegate.errors import ConfigError
from servegate.gates import Policy, evaluate
from servegate.report.model import Measure, Report, Subject
from servegate.report.verdict import Outcome, Verdict

DOCS = Path(__file__).parents[3] / "docs" / "gates.md"


def report(value: float = 0.9, finished: float = 60) -> Report:
    measure = Measure(
        name="accuracy", statistic="mean", value=value, unit="fraction", n=100, attempted=100, better="higher"
    )
    subject = Subject(release="sha256:" + "a" * 64)
    return Report(kind="eval", name="x", subject=subject, started=0, finished=finished, tool="t", measures=(measure,))


def policy(**more: Any) -> Policy:
    check = {"id": "c", "report": "eval", "expect": "accuracy >= 80%"}
    return validate({"version": 1, "name": "p", "checks": [check], **more}, Policy, "p")


def test_the_example_of_the_documentation_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    known: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(DOCS), "exec"), known)
    assert isinstance(known["verdict"], Verdict)
    assert capsys.readouterr().out.strip() == example.rpartition("# ")[2].strip()


def test_three_arguments_are_enough_and_the_same_arguments_give_the_same_verdict() -> None:
    first, second = (evaluate(policy(), [report()], []) for _ in range(2))
    assert first == second
    assert (first.outcome, first.decided_at) == (Outcome.PASS, 60)


def test_an_age_needs_a_moment() -> None:
    aged = policy(require=[{"report": "eval", "younger_than": "1h"}])
    with pytest.raises(ConfigError, match="require:eval asks for an age: give `now`"):
        evaluate(aged, [report()], [])
    assert evaluate(aged, [report()], [], now=3600).outcome is Outcome.PASS
    assert evaluate(aged, [report()], [], now=3661).outcome is Outcome.VOID
