"""The answer is JSON, optionally of a given schema and with given values.

JSON is what RFC 8259 says: NaN is refused, and so is a key that stands twice, because readers disagree about which
counts. A schema comes with the dataset and may be hostile (a pattern that never ends, a reference to an address), so
it is applied in the helper process with a time limit, and references outside the schema are not followed.
"""

from __future__ import annotations

import importlib.util
import json
import re
import unicodedata
from typing import Any, Literal

from pydantic import ConfigDict, Field

from servegate.config import Config
from servegate.contract import canonical_json
from servegate.errors import InfrastructureError
from servegate.evals.item import Item
from servegate.evals.scorers import bounded
from servegate.evals.scorers.base import RIGHT, Score, shown

LARGEST_SCHEMA = 100_000
_FENCE = "```"


class Json(Config):
    """1 when the answer is JSON that fits the schema and has the target's values, else 0."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    kind: Literal["json"] = "json"
    fenced: bool = Field(False, description="allow one Markdown code block around the JSON, and text around the block")
    json_schema: dict[str, Any] | None = Field(None, alias="schema", description="JSON Schema, draft 2020-12")
    structured: bool = Field(False, description="let the engine allow only such answers (response_format)")

    def check(self, item: Item) -> None:
        """Needs a schema that is one, and as target nothing or the fields that are expected."""
        if item.target is not None and not isinstance(item.target, dict):
            raise ValueError("target: json needs an object with the expected fields, or nothing")
        if self.json_schema is not None:
            if importlib.util.find_spec("jsonschema") is None:
                raise InfrastructureError("a JSON Schema needs jsonschema: pip install 'servegate[evals]'")
            if len(canonical_json(self.json_schema)) > LARGEST_SCHEMA:
                raise ValueError(f"scorer.schema: larger than {LARGEST_SCHEMA} bytes")
            problem = bounded.schema_problem(self.json_schema)
            if problem is not None:
                raise ValueError(f"scorer.schema: not a JSON Schema: {problem}")

    def request(self, item: Item) -> dict[str, Any]:
        """`response_format`, when wanted."""
        if not self.structured:
            return {}
        if self.json_schema is None:
            return {"response_format": {"type": "json_object"}}
        name = re.sub(r"[^A-Za-z0-9_-]", "_", item.id)[:64]
        schema = {"name": name, "schema": self.json_schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    def show_choices(self) -> bool:
        """Options are shown when the item has some."""
        return True

    def __call__(self, answer: str, item: Item) -> Score:
        """Parse, validate, compare. Raises ScoringError when validating takes too long."""
        text = answer.strip()
        if not text:
            return Score(0.0, "empty answer")
        if self.fenced:
            blocks = text.split(_FENCE)[1::2]
            if len(blocks) > 1:
                return Score(0.0, f"ambiguous: {len(blocks)} code blocks")
            # The rest of a block's first line names the language.
            text = blocks[0].partition("\n")[2] if blocks else text
        try:
            value = parse(text)
            problem = None if self.json_schema is None else bounded.mismatch(self.json_schema, value)
            if problem is not None:
                return Score(0.0, f"does not fit the schema: {shown(problem, 120)}")
            return _compare(value, item.target if isinstance(item.target, dict) else {})
        except ValueError as error:
            return Score(0.0, f"not JSON: {shown(str(error), 80)}")
        except RecursionError:
            return Score(0.0, "nested too deeply to be an answer")


def parse(text: str) -> Any:
    """Read JSON. Raises ValueError (also for NaN and keys that stand twice) or RecursionError."""
    return json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)


def _compare(value: Any, expected: dict[str, Any]) -> Score:
    if expected and not isinstance(value, dict):
        return Score(0.0, "not an object")
    for key, wanted in expected.items():
        if key not in value:
            return Score(0.0, f"key {shown(key)} is missing")
        if not same(value[key], wanted):
            return Score(0.0, f"{shown(key)} is {shown(repr(value[key]))}, not {shown(repr(wanted))}")
    return RIGHT


def same(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 equals 1.0 but not true; texts are compared in NFC."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, str) and isinstance(right, str):
        return unicodedata.normalize("NFC", left) == unicodedata.normalize("NFC", right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands twice")
        found[key] = value
    return found
