"""The published schemas speak the language of the files: an editor that uses them agrees with servegate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from servegate.pipeline.schemas import rendered

ROOT = Path(__file__).parents[3]
FILES = [
    (schema, path)
    for schema, pattern in {
        "plan": "rollout/[!km]*.yaml",
        "site": "rollout/machine.yaml",
        "cluster-site": "rollout/kubernetes*.yaml",
        "policy": "gates/*.yaml",
        "profile": "loadtest/profiles/*.yaml",
        "suite": "evals/suites/*.yaml",
        "release": "examples/*release*.yaml",
    }.items()
    for path in sorted(ROOT.glob(pattern))
]


def test_every_kind_of_file_has_an_example() -> None:
    assert {schema for schema, _ in FILES} == {"plan", "site", "cluster-site", "policy", "profile", "suite", "release"}


@pytest.mark.parametrize(("schema", "path"), FILES, ids=lambda value: getattr(value, "name", value))
def test_our_own_files_are_valid_and_a_typing_error_is_not(schema: str, path: Path) -> None:
    validator = Draft202012Validator(json.loads(rendered()[schema]))
    document = yaml.safe_load(path.read_text())
    assert [error.message for error in validator.iter_errors(document)] == []
    assert list(validator.iter_errors({**document, "nmae": "x"}))


def test_every_line_of_the_data_sets_is_an_item() -> None:
    validator = Draft202012Validator(json.loads(rendered()["item"]))
    for path in sorted(ROOT.glob("evals/datasets/*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert [error.message for error in validator.iter_errors(json.loads(line))] == [], (path.name, number)


@pytest.mark.parametrize("name", list(rendered()))
def test_the_files_in_docs_are_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / "schemas" / f"{name}.json").read_text() == rendered()[name]
