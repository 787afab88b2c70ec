"""Structured output: values that satisfy a JSON Schema, and texts that satisfy a regular expression.

A subset of both. What is outside is refused with a reason, because an answer that only looks constrained would be
worse than none. Patterns come from clients, so those that could take Python's matcher exponential time are refused too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

LONGEST_PATTERN = 500
LONGEST_CANDIDATE = 160
DEEPEST_SCHEMA = 20
MOST_ITEMS = 200
LARGEST = 2_000  # schema nodes looked at, and values built, per request
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_IGNORED = {
    *("title", "description", "default", "examples", "strict"),
    *("$schema", "$id", "$defs", "$comment", "definitions"),
}
_UNDERSTOOD = {
    *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "oneOf", "$ref"),
    *("minLength", "maxLength", "pattern", "minimum", "maximum", "minItems", "maxItems"),
}
_ANSWER_NAMES = {"answer", "response", "reply", "message", "text", "result", "content", "답변", "응답"}
_TOPIC_NAMES = {"topic", "category", "intent", "class", "label", "분류", "주제"}


class UnsupportedError(Exception):
    """The simulator cannot honour this constraint; the message is for the client."""


# ---------------------------------------------------------------- JSON Schema


def check_schema(schema: Any) -> None:
    """Raise UnsupportedError unless every keyword of `schema` is one that `build` honours."""
    _check(schema, schema, 0, iter(range(LARGEST)))


def _check(schema: Any, root: Any, depth: int, budget: Iterator[int]) -> None:
    if next(budget, None) is None:
        raise UnsupportedError("the JSON schema is too large")
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise UnsupportedError("a JSON schema must be an object")
    if depth > DEEPEST_SCHEMA:
        raise UnsupportedError(f"the JSON schema is nested deeper than {DEEPEST_SCHEMA} levels or refers to itself")
    unknown = [key for key in schema if key not in _UNDERSTOOD and key not in _IGNORED]
    if unknown:
        raise UnsupportedError(f"JSON schema keyword {unknown[0]!r} is not supported")
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in _TYPES:
            raise UnsupportedError(f"unknown JSON schema type {kind!r}")
    if not isinstance(schema.get("properties", {}), dict) or not isinstance(schema.get("required", []), list):
        raise UnsupportedError("`properties` must be an object and `required` a list")
    if not isinstance(schema.get("enum", [None]), list) or schema.get("enum") == []:
        raise UnsupportedError("`enum` must be a list that is not empty")
    for key in ("minLength", "maxLength", "minItems", "maxItems"):
        bound = schema.get(key, 0)
        if not isinstance(bound, int) or isinstance(bound, bool) or bound < 0:
            raise UnsupportedError(f"`{key}` must be a whole number, 0 or more")
    if max(schema.get("minItems", 0), schema.get("minLength", 0)) > MOST_ITEMS:
        raise UnsupportedError(f"`minItems` and `minLength` above {MOST_ITEMS} are not supported")
    for key in ("minimum", "maximum"):
        if key in schema and (not isinstance(schema[key], int | float) or isinstance(schema[key], bool)):
            raise UnsupportedError(f"`{key}` must be a number")
    if "pattern" in schema:
        compile_safely(schema["pattern"])
    if "$ref" in schema:
        _check(_resolve(schema["$ref"], root), root, depth + 1, budget)
    parts: list[Any] = [*schema.get("properties", {}).values(), *_alternatives(schema)]
    parts += [schema[key] for key in ("items", "additionalProperties") if key in schema]
    for part in parts:
        _check(part, root, depth + 1, budget)


def fits(value: Any, schema: Any, root: Any = None) -> bool:
    """Whether a value satisfies a schema that passed `check_schema`."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and not fits(value, _resolve(schema["$ref"], root), root):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
        return False
    if _alternatives(schema):
        matches = sum(fits(value, part, root) for part in _alternatives(schema))
        if not matches or ("oneOf" in schema and matches > 1):
            return False
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if kinds and not any(_is(value, kind) for kind in kinds):
        return False
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            return False
        if "pattern" in schema:
            return len(value) <= LONGEST_CANDIDATE and bool(compile_safely(schema["pattern"]).search(value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return False
        return all(fits(item, schema.get("items", True), root) for item in value)
    elif isinstance(value, dict):
        properties = schema.get("properties", {})
        if any(name not in value for name in schema.get("required", [])):
            return False
        return all(
            fits(part, properties.get(name, schema.get("additionalProperties", True)), root)
            for name, part in value.items()
        )
    return True


def build(schema: Any, data: Mapping[str, Any], texts: Iterable[str]) -> Any:
    """A value that satisfies `schema`, with what is known in the places that ask for it.

    `data` is looked up by property name; `texts` are tried where a string or one of several choices is wanted.
    Raises UnsupportedError if no value was found.
    """
    check_schema(schema)
    value = _Builder(schema, data).build(schema, list(texts))
    if not fits(value, schema):
        raise UnsupportedError("no value for this JSON schema was found")
    return value


class _Builder:
    """Builds one value, of limited size."""

    def __init__(self, root: Any, data: Mapping[str, Any]) -> None:
        self._root, self._data = root, data
        self._budget = iter(range(LARGEST))

    def build(self, schema: Any, texts: list[str]) -> Any:
        if next(self._budget, None) is None:
            raise UnsupportedError("the JSON schema asks for too large a value")
        if isinstance(schema, bool):
            return {}
        if "$ref" in schema:
            return self.build(_resolve(schema["$ref"], self._root), texts)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            folded = {choice.casefold(): choice for choice in schema["enum"] if isinstance(choice, str)}
            named = next((folded[text.casefold()] for text in texts if text.casefold() in folded), None)
            return schema["enum"][0] if named is None else named
        if _alternatives(schema):
            return self.build(_alternatives(schema)[0], texts)
        kinds = schema.get("type", "object")
        kind = kinds if isinstance(kinds, str) else (kinds[0] if kinds else "object")
        if kind == "object":
            return self._object(schema, texts)
        if kind == "array":
            length = max(schema.get("minItems", 0), min(1, schema.get("maxItems", 1)))
            return [self.build(schema.get("items", {"type": "string"}), texts) for _ in range(length)]
        if kind == "string":
            return _string(schema, texts)
        if kind in ("integer", "number"):
            known = [value for value in self._data.values() if _is(value, kind) and fits(value, schema, self._root)]
            low, high = schema.get("minimum"), schema.get("maximum")
            return known[0] if known else (low if low is not None else min(0, high) if high is not None else 0)
        return False if kind == "boolean" else None

    def _object(self, schema: Any, texts: list[str]) -> dict[str, Any]:
        properties, extra = schema.get("properties", {}), schema.get("additionalProperties", True)
        names = dict.fromkeys([*properties, *schema.get("required", [])])
        if not names:
            return dict(self._data if extra is not False else {})
        return {name: self._property(name, properties.get(name, extra), texts) for name in names}

    def _property(self, name: str, schema: Any, texts: list[str]) -> Any:
        wanted = _plain(name)
        for key, value in self._data.items():
            if _plain(key) == wanted and fits(value, schema, self._root):
                return value
        if wanted in _TOPIC_NAMES:
            texts = texts[::-1]
        elif wanted not in _ANSWER_NAMES and not (isinstance(schema, dict) and {"enum", "properties"} & schema.keys()):
            texts = []  # a name that says nothing about the answer gets a neutral value
        return self.build(schema, texts)


def _string(schema: Mapping[str, Any], texts: list[str]) -> str:
    for text in texts:
        if fits(text, {**schema, "type": "string"}):
            return text
    if "pattern" in schema:
        return example(schema["pattern"])
    text = "unknown"[: schema.get("maxLength", 7)]
    return text.ljust(schema.get("minLength", 0), ".")


def _alternatives(schema: Mapping[str, Any]) -> list[Any]:
    options = schema.get("anyOf", schema.get("oneOf", []))
    if not isinstance(options, list):
        raise UnsupportedError("`anyOf` and `oneOf` must be lists")
    return options


def _resolve(reference: Any, root: Any) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#/"):
        raise UnsupportedError("only references within the schema (`#/…`) are supported")
    for part in reference[2:].split("/"):
        if not isinstance(root, dict) or part not in root:
            raise UnsupportedError(f"the JSON schema has no {reference!r}")
        root = root[part]
    return root


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


# ---------------------------------------------------------------- regular expressions

_parser: Any = import_module("re._parser")
_LAZY = {"MIN_REPEAT", "MAX_REPEAT", "POSSESSIVE_REPEAT"}
_SETS = {"CATEGORY_DIGIT": "1", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " ", "CATEGORY_NOT_SPACE": "a"}


def compile_safely(pattern: Any) -> re.Pattern[str]:
    """Compile a pattern that is cheap to match. Raises UnsupportedError for wrong, long or explosive ones."""
    if not isinstance(pattern, str) or not pattern or len(pattern) > LONGEST_PATTERN:
        raise UnsupportedError(f"a regular expression must be a text of 1 to {LONGEST_PATTERN} characters")
    try:
        parsed = _parser.parse(pattern)
        if _repeats(parsed) > 4:
            raise UnsupportedError("the regular expression has more than four open repeats")
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UnsupportedError(f"not a regular expression: {error}") from None


def _repeats(parsed: Any) -> int:
    """How many repeats of variable length there are; raises UnsupportedError if one is around something ambiguous."""
    total = 0
    for operator, argument in parsed:
        name = str(operator)
        if name in _LAZY:
            low, high, body = argument
            width = body.getwidth()
            inner = _repeats(body)
            if high != low and high > 1:
                if inner or width[0] != width[1] or width[0] == 0 or _branches(body):
                    raise UnsupportedError("the regular expression repeats something of variable length")
                inner = 1
            total += inner * min(int(high), 5) if high == low else inner
        elif name == "BRANCH":
            total += sum(_repeats(option) for option in argument[1])
        elif name == "SUBPATTERN":
            total += _repeats(argument[3])
        elif name not in ("LITERAL", "NOT_LITERAL", "IN", "ANY", "AT", "CATEGORY"):
            raise UnsupportedError("the regular expression looks around or back, which is not supported")
    return total


def _branches(parsed: Any) -> bool:
    return any(
        str(operator) == "BRANCH" or (str(operator) == "SUBPATTERN" and _branches(argument[3]))
        for operator, argument in parsed
    )


def matching(pattern: str, texts: Iterable[str]) -> str | None:
    """The first text, or part of a text, that the whole pattern matches."""
    compiled = compile_safely(pattern)
    candidates = [text[:LONGEST_CANDIDATE] for text in texts]
    for text in candidates:
        if compiled.fullmatch(text):
            return text
    for text in candidates:
        found = compiled.search(text)
        if found and found.group() and compiled.fullmatch(found.group()):
            return found.group()
    return None


def example(pattern: str) -> str:
    """A short text that the whole pattern matches. Raises UnsupportedError if none was found."""
    compiled = compile_safely(pattern)
    text = _example(_parser.parse(pattern))
    if not compiled.fullmatch(text):
        raise UnsupportedError("no text for this regular expression was found")
    return text


def _example(parsed: Any) -> str:
    out = []
    for operator, argument in parsed:
        name = str(operator)
        if name == "LITERAL":
            out.append(chr(argument))
        elif name == "NOT_LITERAL":
            out.append("b" if argument == ord("a") else "a")
        elif name == "ANY":
            out.append("a")
        elif name == "IN":
            out.append(_member(argument))
        elif name == "BRANCH":
            out.append(_example(argument[1][0]))
        elif name == "SUBPATTERN":
            out.append(_example(argument[3]))
        elif name in _LAZY:
            low, high, body = argument
            times = max(low, 1) if high and low == 0 and str(high) == "MAXREPEAT" else low
            if times > MOST_ITEMS:
                raise UnsupportedError(f"the regular expression repeats something more than {MOST_ITEMS} times")
            out.append(_example(body) * times)
    return "".join(out)[: LONGEST_CANDIDATE * 4]


def _member(choices: Any) -> str:
    """A character of a set; the first it names, or the first letter or digit it does not exclude."""
    if str(choices[0][0]) == "NEGATE":
        return next((letter for letter in "a1 -가" if not _in_set(letter, choices[1:])), "~")
    name, argument = str(choices[0][0]), choices[0][1]
    if name == "LITERAL":
        return chr(argument)
    return chr(argument[0]) if name == "RANGE" else _SETS.get(str(argument), "-")


def _in_set(letter: str, choices: Any) -> bool:
    return any(
        (str(name) == "LITERAL" and ord(letter) == argument)
        or (str(name) == "RANGE" and argument[0] <= ord(letter) <= argument[1])
        or (str(name) == "CATEGORY" and _SETS.get(str(argument)) == letter)
        for name, argument in choices
    )
