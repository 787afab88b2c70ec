"""Configuration files: YAML into pydantic models, with errors that name file, line, key and the nearest valid key.

YAML is parsed into nodes first, because only nodes know their line. Everything a hostile file can do with YAML
beyond plain data is refused: tags, duplicate keys, aliases that grow without bound, files of absurd size.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from servegate.errors import ConfigError, one_line

MAX_BYTES = 4 * 1024 * 1024
MAX_NODES = 200_000

Path_ = tuple[str | int, ...]
Lines = dict[Path_, tuple[int, int]]
M = TypeVar("M", bound=BaseModel)


class Config(BaseModel):
    """Base of everything that is read from a YAML file: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def load(path: Path, model: type[M]) -> M:
    """Read one YAML file into `model`.

    Raises:
        ConfigError: with every problem found, one line each, as `file:line:column: key: what is wrong`.
    """
    data, lines = parse(path)
    return validate(data, model, str(path), lines)


def parse(path: Path) -> tuple[Any, Lines]:
    """Read a YAML file into plain data and the (line, column), counted from 1, of every key path.

    Raises:
        ConfigError: unreadable, not UTF-8, not YAML, or YAML beyond plain data.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes; a configuration file may have {MAX_BYTES}")
    try:
        root = yaml.compose(raw.decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: byte 0x{raw[error.start]:02x}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not YAML: {one_line(str(error.problem or error.context))}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {one_line(str(error))}") from error
    if root is None:
        raise ConfigError(f"{path}: is empty")
    lines: Lines = {}
    return _Builder(path, lines).build(root, ()), lines


def validate(data: Any, model: type[M], source: str, lines: Lines | None = None) -> M:
    """Validate plain data; `source` and `lines` place the errors.

    Raises:
        ConfigError: with every problem found, one line each.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [one_line(_problem(source, lines or {}, model, item)) for item in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from error


class _Builder:
    """Turns nodes into data and remembers where each came from."""

    def __init__(self, path: Path, lines: Lines) -> None:
        self.path, self.lines, self.nodes = path, lines, 0
        self.scalars = yaml.SafeLoader("")

    def build(self, node: yaml.Node, at: Path_) -> Any:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self.lines.setdefault(at, (line, column))
        self.nodes += 1
        if self.nodes > MAX_NODES or len(at) > 64:
            raise ConfigError(f"{self.path}:{line}:{column}: too large or nested too deeply")
        if isinstance(node, yaml.MappingNode):
            return dict(self._pairs(node, at))
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*at, index)) for index, item in enumerate(node.value)]
        if not node.tag.startswith("tag:yaml.org,2002:"):
            raise ConfigError(f"{self.path}:{line}:{column}: tag {one_line(node.tag)} is not plain data")
        try:
            value = self.scalars.construct_object(node, deep=True)
        except (ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"{self.path}:{line}:{column}: {one_line(str(error))}") from error
        # A date is text to us: YAML 1.1 guesses too much.
        return value if isinstance(value, str | int | float | bool | None) else node.value

    def _pairs(self, node: yaml.MappingNode, at: Path_) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for key_node, value_node in node.value:
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{self.path}:{line}:{column}: a key must be text")
            key = str(key_node.value)
            if key in seen:
                raise ConfigError(f"{self.path}:{line}:{column}: key {key!r} stands twice")
            seen.add(key)
            self.lines[(*at, key)] = (line, column)
            yield key, self.build(value_node, (*at, key))


def _problem(source: str, lines: Lines, model: type[BaseModel], item: Any) -> str:
    location: Path_ = tuple(item["loc"])
    known = location
    # Union members and validators add parts to the location that are not in the file.
    while known and known not in lines:
        known = known[:-1]
    line, column = lines.get(known, (0, 0))
    where = f"{source}:{line}:{column}" if line else source
    key = ".".join(str(part) for part in (known if lines else location))
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        valid = _fields(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; valid: {', '.join(sorted(valid))}" if valid else ""
        return f"{where}: {key}: unknown key{hint}"
    if item["type"] == "missing":
        return f"{where}: {'.'.join(str(part) for part in location)}: is required"
    shown = repr(item["input"]) if isinstance(item["input"], str | int | float | bool | None) else ""
    found = f" (found {shown if len(shown) <= 80 else shown[:77] + '…'})" if shown else ""
    return f"{where}: {key + ': ' if key else ''}{message}{found}"


def _fields(model: type[BaseModel], path: Path_) -> list[str]:
    """Names a model accepts at a key path; through lists, mappings and unions."""
    candidates: set[type[BaseModel]] = {model}
    for part in path:
        found: set[type[BaseModel]] = set()
        for candidate in candidates:
            for name, field in candidate.model_fields.items():
                if part in (name, field.alias):
                    found |= _models(field.annotation)
        candidates = found or candidates
    return sorted({field.alias or name for candidate in candidates for name, field in candidate.model_fields.items()})


def _models(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for argument in get_args(annotation) for model in _models(argument)}
