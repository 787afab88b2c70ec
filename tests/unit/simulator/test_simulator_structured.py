"""Constraints: what is honoured is satisfied, the rest is refused, and no pattern or schema can hang the server."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servegate.simulator import structured
from servegate.simulator.structured import UnsupportedError, build, check_schema, example, fits, matching

PATTERNS = [
    r"\d{4}-\d{2}-\d{2}", r"[A-D]", r"(yes|no)", r"[^a]b+",
    r"\w+@\w+", r"[가-힣]+", r"a?b*c+", r"(\d{3},)*\d+", r".{2,5}!",
    r"(?i)ok", r"\S+\s\S+", r"x{0,3}", r"[\d.]+",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_examples_match(pattern: str) -> None:
    assert re.fullmatch(pattern, example(pattern))


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b", "(a|aa)+b", "(a*)*", "a*b*c*d*e*f", "(?=x)y", r"(a)\1", "(", "a{1001}",
        "", "x" * 501, 7, "(a?b)+", "(" * 400,
        "(.*a){20}",
    ],
)  # fmt: skip
def test_explosive_wrong_and_unsupported_patterns_are_refused(pattern: Any) -> None:
    with pytest.raises(UnsupportedError):
        example(pattern)


def test_matching_prefers_a_whole_text_to_a_part() -> None:
    assert matching(r"\d+ days", ["It takes 14 days.", "14 days"]) == "14 days"
    assert matching(r"\d+ days", ["It takes 14 days."]) == "14 days"
    assert matching(r"\d+ weeks", ["It takes 14 days."]) is None


SCHEMAS: list[Any] = [
    {
        "type": "object",
        "properties": {"a": {"type": "string", "minLength": 10}, "b": {"type": "integer", "minimum": 3}},
    },
    {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a", "z"]},
    {"type": "array", "items": {"type": "number", "maximum": -1}, "minItems": 3},
    {"anyOf": [{"type": "null"}, {"type": "string"}]},
    {"$defs": {"p": {"type": "object", "properties": {"n": {"type": "boolean"}}}}, "$ref": "#/$defs/p"},
    {"type": ["string", "null"], "maxLength": 3},
    {"const": {"k": [1, 2]}},
    {"type": "string", "pattern": r"^[A-Z]{2}\d$"},
    {"type": "object", "additionalProperties": False},
    {},
    True,
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_built_values_satisfy_the_schema_and_an_independent_validator_agrees(schema: Any) -> None:
    value = build(schema, {"b": 7, "years": 2}, ["an answer"])
    assert fits(value, schema)
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4) | st.just("AB1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abnz"), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200)
@given(st.sampled_from(SCHEMAS), VALUES)
def test_fits_agrees_with_an_independent_validator(schema: Any, value: Any) -> None:
    assert fits(value, schema) == jsonschema.Draft202012Validator(schema).is_valid(value)


def doubling() -> dict[str, Any]:
    names = [f"n{i}" for i in range(9)]
    two = {name: {"properties": {"l": {"$ref": f"#/$defs/{after}"}, "r": {"$ref": f"#/$defs/{after}"}}}
           for name, after in zip(names, [*names[1:], "end"], strict=True)}  # fmt: skip
    return {"$defs": {**two, "end": {"type": "string"}}, "$ref": "#/$defs/n0"}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "unknown JSON schema type"),
        ({"not": {}}, "'not' is not supported"),
        ({"$ref": "http://elsewhere"}, "only references within"),
        ({"$ref": "#/$defs/none"}, "has no"),
        ({"$defs": {"a": {"properties": {"a": {"$ref": "#/$defs/a"}}}}, "$ref": "#/$defs/a"}, "refers to itself"),
        (doubling(), "too large"),
        ({"type": "array", "minItems": 10**9}, "above"),
        ({"enum": []}, "`enum`"),
        ({"pattern": "(a+)+"}, "variable length"),
        ({"anyOf": 3}, "must be lists"),
        ([], "must be an object"),
    ],
)
def test_schemas_that_are_not_honoured_are_refused(schema: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        check_schema(schema)


def test_arrays_in_arrays_do_not_multiply_without_end() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(5):
        schema = {"type": "array", "minItems": 100, "items": schema}
    with pytest.raises(UnsupportedError, match="too large a value"):
        build(schema, {}, [])


def test_no_value_is_refused_rather_than_faked() -> None:
    with pytest.raises(UnsupportedError, match="no value"):
        build({"type": "integer", "minimum": 3, "maximum": 2}, {}, [])
    with pytest.raises(UnsupportedError):
        structured.build(False, {}, [])
