"""JUnit XML: any test runner's file, such as `pytest --junitxml`. One test case is one item.

Differences from our definitions:

    accuracy     passed / (passed + failed). An `<error>` is no wrong answer: it is left out and counted in error_rate
    skipped      cases were not asked: they are in nothing
    repeats      cases with equal class and name are repeats of one item
    intervals    assume independent cases; the file does not say which belong together

Documents with a DOCTYPE are refused: a result file needs no entities, and an attacker does.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from xml.parsers import expat

from servegate.contract import sha256
from servegate.gates.adapters.common import Adapted, Source, definitions, nothing, number, share
from servegate.report.model import Conditions
from servegate.report.records import EvalRecord

TOOL = "JUnit XML"


def convert(source: Source) -> Adapted:
    """Read one file.

    Raises:
        ConfigError: it is none, or has a DOCTYPE.
    """
    cases, started, length = _parse(source)
    asked = [case for case in cases if case["outcome"] != "skipped"]
    seen: Counter[str] = Counter()
    records = []
    for case in asked:
        id_ = case["id"]
        records.append(
            EvalRecord(
                id=id_,
                repeat=seen[id_],
                item_sha256=sha256(id_.encode("utf-8", "surrogatepass")),
                scorer="junit",
                score={"passed": 1.0, "failure": 0.0}.get(case["outcome"]),
                reason=case["message"][:1000],
                error=case["message"][:1000] or "error" if case["outcome"] == "error" else None,
            )
        )
        seen[id_] += 1
    passed = sum(case["outcome"] == "passed" for case in asked)
    errors = sum(case["outcome"] == "error" for case in asked)
    measures = (
        share("accuracy", "mean", passed, len(asked) - errors, len(asked), "higher"),
        share("error_rate", "rate", errors, len(asked), len(asked), "lower"),
    )
    start = started if started is not None else source.modified
    return Adapted(
        tool=TOOL,
        started=start,
        finished=start + length if started is not None else source.modified,
        measures=measures,
        conditions=Conditions(
            client=TOOL, dataset_sha256=sha256("\n".join(sorted(seen)).encode("utf-8", "surrogatepass"))
        ),
        records=tuple(records),
        findings=(
            definitions("accuracy is passed / (passed + failed); errors and skipped cases are not in it"),
            *(() if asked else (nothing("test case that was run"),)),
        ),
    )


def _parse(source: Source) -> tuple[list[dict[str, str]], float | None, float]:
    cases: list[dict[str, str]] = []
    stack: list[str] = []
    times: list[float] = []
    lengths: list[float] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if not stack and tag not in ("testsuites", "testsuite"):
            raise source.refuse(TOOL, f"its root is <{tag[:40]}>")
        stack.append(tag)
        if tag == "testcase":
            id_ = "::".join(text for text in (attributes.get("classname"), attributes.get("name")) if text)
            cases.append({"id": id_[:500] or "unnamed", "outcome": "passed", "message": ""})
        elif tag in ("failure", "error", "skipped") and len(stack) > 1 and stack[-2] == "testcase":
            # Of several marks the worst says what happened.
            order = ("passed", "skipped", "failure", "error")
            if order.index(tag) > order.index(cases[-1]["outcome"]):
                cases[-1] |= {"outcome": tag, "message": attributes.get("message", "")}
        elif tag == "testsuite":
            times.extend(_time(attributes.get("timestamp")))
            lengths.append(_seconds(attributes.get("time")))

    def refuse(*_: object) -> None:
        raise source.refuse(TOOL, "it has a DOCTYPE")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _tag: stack.pop()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(source.data, True)
    except expat.ExpatError as error:
        raise source.refuse(TOOL, f"not XML ({error})") from error
    return cases, min(times, default=None), sum(lengths)


def _time(text: str | None) -> list[float]:
    try:
        return [datetime.fromisoformat(text or "").astimezone().timestamp()]
    except (ValueError, OverflowError):  # left out; a time is optional in JUnit files
        return []


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, number(float(text or "0")) or 0.0)
    except ValueError:  # adds nothing to the length of the run
        return 0.0
