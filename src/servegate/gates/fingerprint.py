"""Whether two reports were measured alike. Numbers of unlike runs are never compared silently."""

from __future__ import annotations

from collections.abc import Collection

from servegate.report.format import clean, short_hash
from servegate.report.model import Report


def differences(candidate: Report, baseline: Report, allow: Collection[str] = ()) -> list[str]:
    """What differs, each as `name: baseline's → candidate's`, without what a policy allows by name."""
    new, old = _facts(candidate), _facts(baseline)
    return [
        f"{clean(name, 80)}: {_shown(old.get(name))} → {_shown(new.get(name))}"
        for name in sorted({*new, *old})
        if new.get(name) != old.get(name) and name not in allow
    ]


def _facts(report: Report) -> dict[str, object]:
    facts = report.conditions.model_dump(exclude={"other"}, exclude_none=True)
    facts |= {f"other.{key}": value for key, value in report.conditions.other.items()}
    endpoint = report.subject.endpoint
    if endpoint is not None:
        facts |= {"model": endpoint.model, "engine_version": endpoint.version}
    return {name: value for name, value in facts.items() if value is not None}


def _shown(value: object) -> str:
    if value is None:
        return "not stated"
    text = str(value)
    return short_hash(text) if text.startswith("sha256:") else clean(text, 60)
