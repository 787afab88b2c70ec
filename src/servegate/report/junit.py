"""A verdict as JUnit XML, which every continuous-integration server can show.

A check that failed is a failure; one that was not validly measured is an error, because somebody must repair it; one
that could not tell is skipped. XML 1.0 cannot hold control characters at all, escaped or not: they are shown as codes.
"""

from __future__ import annotations

from xml.etree import ElementTree

from servegate.report.format import clean
from servegate.report.rows import row
from servegate.report.verdict import CheckResult, Outcome, Verdict

_TAG = {Outcome.FAIL: "failure", Outcome.VOID: "error", Outcome.INCONCLUSIVE: "skipped"}


def verdict_junit(verdict: Verdict) -> str:
    """One suite with one case per check; what counts is the effect, after severity."""
    effects = [result.effect for result in verdict.results]
    counts = {
        "tests": len(effects),
        "failures": effects.count(Outcome.FAIL),
        "errors": effects.count(Outcome.VOID),
        "skipped": effects.count(Outcome.INCONCLUSIVE),
    }
    numbers = {name: str(number) for name, number in counts.items()}
    suites = ElementTree.Element("testsuites", {"name": "servegate", **numbers})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": clean(verdict.policy, 200), **numbers})
    facts = {
        "outcome": str(verdict.outcome),
        "release": verdict.release or "",
        "release_name": verdict.release_name or "",
        "policy_sha256": verdict.policy_sha256,
        "decided_by": verdict.decided_by,
        "tool": verdict.tool,
    }
    _properties(suite, facts)
    for result in verdict.results:
        _case(suite, verdict, result)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, verdict: Verdict, result: CheckResult) -> None:
    attributes = {
        "name": clean(result.check, 200),
        "classname": f"servegate.{clean(verdict.policy, 200)}",
        "file": clean(verdict.policy_file or "", 400),
        "line": str(result.line or ""),
    }
    case = ElementTree.SubElement(suite, "testcase", {key: value for key, value in attributes.items() if value})
    _properties(
        case,
        {
            "measure": result.measure or "",
            "value": "" if result.value is None else repr(result.value),
            "baseline": "" if result.baseline is None else repr(result.baseline),
            "delta": "" if result.delta is None else repr(result.delta),
            "threshold": "" if result.threshold is None else f"{result.comparison or ''} {result.threshold!r}".strip(),
            "unit": result.unit or "",
            "n": "" if result.n is None else str(result.n),
            "mde": "" if result.mde is None else repr(result.mde),
            "severity": result.severity,
            "outcome": str(result.outcome),
        },
    )
    message = clean(result.message)
    detail = _detail(result)
    if result.effect in _TAG:
        found = ElementTree.SubElement(case, _TAG[result.effect], message=message, type=str(result.outcome))
        found.text = detail
    elif result.outcome is not Outcome.PASS:
        out = ElementTree.SubElement(case, "system-out")
        out.text = f"{result.outcome}, counts as PASS: {message} ({detail})"


def _properties(parent: ElementTree.Element, facts: dict[str, str]) -> None:
    properties = ElementTree.SubElement(parent, "properties")
    for name, value in facts.items():
        if value:
            ElementTree.SubElement(properties, "property", name=name, value=clean(value, 400))


def _detail(result: CheckResult) -> str:
    """The numbers in a line."""
    cells = row(result)
    parts = {
        "": cells.candidate,
        "baseline ": cells.baseline,
        "Δ ": cells.delta,
        "limit ": cells.limit,
        "n ": cells.n,
        "MDE ": cells.mde,
    }
    return ", ".join(word + cell for word, cell in parts.items() if cell)
