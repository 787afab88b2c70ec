"""The rules of component monitoring, and the queries of the autoscalers, by promtool."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import K8S, of_kind

TESTS = Path(__file__).with_name("llm-rules.test.yaml")


def promtool(folder: Path, *arguments: str) -> tuple[int, str]:
    run = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout + run.stderr


@pytest.fixture
def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = of_kind("production", "PrometheusRule", "monitoring")["llm"]["spec"]["groups"]
    return found


def written(folder: Path, groups: list[dict[str, Any]]) -> Path:
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    (folder / TESTS.name).write_text(TESTS.read_text())
    return folder


def test_the_rules_are_rules(tmp_path: Path, groups: list[dict[str, Any]]) -> None:
    status, said = promtool(written(tmp_path, groups), "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
    assert status == 0, said


def test_the_rules_say_what_they_should_of_traffic_we_know(tmp_path: Path, groups: list[dict[str, Any]]) -> None:
    status, said = promtool(written(tmp_path, groups), "test", "rules", TESTS.name)
    assert status == 0, said


def test_every_rule_is_tested(groups: list[dict[str, Any]]) -> None:
    text = TESTS.read_text()
    for rule in (rule for group in groups for rule in group["rules"]):
        name = rule.get("alert") or rule["record"]
        assert f"alertname: {name}\n" in text or f"expr: {name}\n" in text, name


def test_every_alert_says_what_it_means_and_what_to_look_at(groups: list[dict[str, Any]]) -> None:
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} <= set(rule["annotations"])


@pytest.mark.parametrize("alert", ["LlmFaults", "LlmQueueGrows", "LlmNothingServes", "LlmCacheFull"])
def test_a_wrong_threshold_is_found(tmp_path: Path, groups: list[dict[str, Any]], alert: str) -> None:
    for rule in (rule for group in groups for rule in group["rules"] if rule.get("alert") == alert):
        rule["expr"] = f"({rule['expr']}) * 0 > 1"
    status, said = promtool(written(tmp_path, groups), "test", "rules", TESTS.name)
    assert status != 0
    assert alert in said


def test_the_autoscalers_ask_in_promql(tmp_path: Path) -> None:
    queries = {
        trigger["metadata"]["query"]
        for item in of_kind("production", "ScaledObject", "autoscaling-keda").values()
        for trigger in item["spec"]["triggers"]
        if trigger["type"] == "prometheus"
    }
    adapter = yaml.safe_load((K8S / "components" / "autoscaling-hpa" / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["external"]
    queries |= {
        rule["seriesQuery"],
        rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="llm",slot="blue"'),
    }
    assert len(queries) == 3  # what KEDA asks of a slot is what the adapter makes of it
    rules = [{"record": f"asked:{number}", "expr": query} for number, query in enumerate(sorted(queries))]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    status, said = promtool(tmp_path, "check", "rules", "rules.yaml")
    assert status == 0, said
    for item in of_kind("production", "HorizontalPodAutoscaler", "autoscaling-hpa").values():
        (metric,) = item["spec"]["metrics"]
        assert metric["external"]["metric"]["name"] == rule["name"]["as"]
