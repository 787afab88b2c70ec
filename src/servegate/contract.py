"""What every contract has in common: immutable, versioned, hashed the same way, written without tearing.

A hash names a document in verdicts, pods and history, so it must not depend on who serialised it. The canonical
form is UTF-8 JSON with sorted keys, no blanks and no NaN: the subset of RFC 8785 that holds for our documents,
because floats come from one implementation (Python's shortest repr) and keys are ASCII.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from servegate.errors import ConfigError, InfrastructureError, one_line

Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="sha256: and 64 hex digits")]
Slot = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$", description="name of a slot: blue or green")]


class Contract(BaseModel):
    """Base of all contracts: frozen, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="strings")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, several times as fast: a decision makes hundreds of copies. Contracts hold fields only."""
        if deep:
            return super().model_copy(update=update, deep=True)
        given = self.__pydantic_fields_set__
        if not update:
            return _made(type(self), self.__dict__.copy(), given)
        for name in update:
            if name not in given:
                given = given | update.keys()
                break
        return _made(type(self), {**self.__dict__, **update}, given)

    # The checker's plugin makes a signature of its own for every contract; hence the override.
    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:  # type: ignore[override]
        """As pydantic's, several times as fast: nothing is validated, and defaults are shared, as all are immutable.

        Raises:
            TypeError: a field that has no default was left out.
        """
        template, required, factories = _defaults(cls)
        if missing := required.difference(values):
            raise TypeError(f"{cls.__name__} needs {', '.join(sorted(missing))}")
        fresh = {name: factory() for name, factory in factories if name not in values}
        return _made(cls, template | fresh | values, set(values) if _fields_set is None else _fields_set)

    def canonical(self) -> bytes:
        """The bytes that are hashed."""
        return canonical_json(self.model_dump(mode="json"))

    def identity(self) -> str:
        """`sha256:…` of the canonical form."""
        return sha256(self.canonical())

    def write(self, path: Path) -> str:
        """Write the document (indented, whole or not at all) and return its identity."""
        write_atomic(path, (json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n").encode())
        return self.identity()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a document that `write` made.

        Raises:
            ConfigError: the file is missing, is not JSON, or is not such a document.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            said = one_line(f"{where + ': ' if where else ''}{first['msg']}")
            raise ConfigError(f"{path}: is not a valid {cls.__name__}: {said}") from error


_Model = TypeVar("_Model", bound=BaseModel)
_new, _set = object.__new__, object.__setattr__


def _made(cls: type[_Model], fields: dict[str, Any], given: set[str]) -> _Model:
    made = _new(cls)
    _set(made, "__dict__", fields)
    _set(made, "__pydantic_fields_set__", given)
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made


@cache
def _defaults(
    cls: type[BaseModel],
) -> tuple[dict[str, Any], frozenset[str], tuple[tuple[str, Callable[[], Any]], ...]]:
    """All fields in the order in which they are written, with their defaults; those without; those made anew."""
    fields = cls.model_fields
    required = frozenset(name for name, field in fields.items() if field.is_required())
    factories = {name: field.default_factory for name, field in fields.items() if field.default_factory is not None}
    template = {name: field.default for name, field in fields.items()}
    return template, required, tuple(cast("dict[str, Callable[[], Any]]", factories).items())


def canonical_json(value: Any) -> bytes:
    """Serialise to the canonical form. Raises ValueError on NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    """`sha256:` and the hex digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Digest of a file's bytes, read in pieces. Raises ConfigError when it cannot be read."""
    try:
        with path.open("rb") as stream:
            return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write to a temporary name beside `path`, flush to disk, rename: a reader sees the old file or the new one.

    Raises:
        InfrastructureError: no space, no permission, no such folder.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise InfrastructureError(f"{path}: cannot be written: {error.strerror}") from error
