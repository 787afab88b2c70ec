"""The flags one version of vLLM has, recorded when the image is built.

Importing vLLM takes many seconds and, without a GPU, may fail: asking it at every start would be slow and
fragile, and a wrong flag would show only after that. The record is a small JSON file beside the entry point.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

Values = Literal["none", "one", "optional", "many"]
FILE = Path("/opt/servegate/flags.json")


class FlagsError(Exception):
    """The record of the flags cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Flag:
    """One flag: its spellings, the long one first, and how many values follow it."""

    names: tuple[str, ...]
    values: Values
    repeatable: bool = False
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Flags:
    """All flags of one version of the engine."""

    version: str
    flags: tuple[Flag, ...]

    def find(self, name: str) -> Flag | None:
        """The flag of that spelling; vLLM takes `_` for `-`."""
        wanted = name.replace("_", "-") if name.startswith("--") else name
        return next((flag for flag in self.flags if wanted in flag.names), None)

    def near(self, name: str) -> str | None:
        """The most similar flag there is."""
        known = [spelling for flag in self.flags for spelling in flag.names if spelling.startswith("--")]
        found = difflib.get_close_matches(name.replace("_", "-"), known, n=1, cutoff=0.6)
        return found[0] if found else None

    def to_json(self) -> str:
        """The record's text."""
        return json.dumps({"engine": "vllm", "version": self.version, "flags": [asdict(flag) for flag in self.flags]})


def from_parser(version: str, actions: Iterable[argparse.Action]) -> Flags:
    """Flags of an `argparse` parser."""
    found = []
    for action in actions:
        if not action.option_strings:
            continue
        names = sorted(action.option_strings, key=lambda name: (not name.startswith("--"), name.startswith("--no-")))
        choices = tuple(str(choice) for choice in action.choices) if action.choices else None
        repeatable = isinstance(action, argparse._AppendAction)  # there is no public name for it
        found.append(Flag(tuple(names), _values(action.nargs), repeatable, choices))
    return Flags(version, tuple(found))


def read(path: Path) -> Flags:
    """Read a record.

    Raises:
        FlagsError: it is missing or no record.
    """
    try:
        data: Any = json.loads(path.read_text("utf-8"))
        return Flags(str(data["version"]), tuple(_flag(item) for item in data["flags"]))
    except OSError as error:
        raise FlagsError(f"{path}: {error.strerror}; build the image again, it records vLLM's flags") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FlagsError(f"{path}: is no record of vLLM's flags; build the image again") from error


def installed() -> str | None:
    """The version of the vLLM beside us; None where it is installed under another name."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        return None


def check_version(flags: Flags, found: str | None) -> None:
    """Refuse a record of another version; CPU and CUDA builds of one version have the same flags.

    Raises:
        FlagsError: the image was put together from two versions.
    """
    if found is not None and found.partition("+")[0] != flags.version.partition("+")[0]:
        raise FlagsError(
            f"the image has vLLM {found}, but its flags were recorded from {flags.version}; "
            "build it with both bases of one version"
        )


def _flag(item: dict[str, Any]) -> Flag:
    choices = item["choices"]
    return Flag(tuple(item["names"]), item["values"], item["repeatable"], tuple(choices) if choices else None)


def _values(nargs: int | str | None) -> Values:
    if nargs == 0:
        return "none"
    if nargs is None:
        return "one"
    return "optional" if nargs == "?" else "many"
