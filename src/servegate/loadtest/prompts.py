"""Prompts of a profile: JSON Lines (one object per line) or YAML (`prompts:` with a list)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from servegate.config import Config, load, validate
from servegate.errors import ConfigError

MAX_BYTES = 64 * 1024 * 1024
MAX_PROMPTS = 100_000

Text = Annotated[str, Field(min_length=1, max_length=1_000_000)]


class Message(Config):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Prompt(Config):
    """What one request asks: `prompt` is short for one user message."""

    id: Annotated[str, Field(min_length=1, max_length=200)] = Field(description="unique in the file")
    prompt: Text | None = None
    messages: Annotated[tuple[Message, ...], Field(min_length=1)] | None = None
    tags: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Prompt:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def as_messages(self) -> list[dict[str, str]]:
        """Messages of the request body."""
        if self.prompt is not None:
            return [{"role": "user", "content": self.prompt}]
        return [message.model_dump() for message in self.messages or ()]


class PromptFile(Config):
    """Prompts as YAML."""

    version: Literal[1] = 1
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1)]


def load_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read all prompts of a `.jsonl`, `.yaml` or `.yml` file.

    Raises:
        ConfigError: one line per problem, each as `file:line: key: what is wrong`.
    """
    if path.suffix in (".yaml", ".yml"):
        prompts = load(path, PromptFile).prompts
        places = [str(path)] * len(prompts)
    elif path.suffix == ".jsonl":
        rows = list(_lines(path))
        prompts = tuple(validate(data, Prompt, place) for place, data in rows)
        places = [place for place, _ in rows]
    else:
        raise ConfigError(f"{path}: prompts must be a .jsonl, .yaml or .yml file")
    if not prompts:
        raise ConfigError(f"{path}: holds no prompt")
    first: dict[str, str] = {}
    for place, prompt in zip(places, prompts, strict=True):
        if prompt.id in first:
            raise ConfigError(f"{place}: id {prompt.id!r} stands twice; first in {first[prompt.id]}")
        first[prompt.id] = place
    return prompts


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        raw = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if raw is None:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes")
    count = 0
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        count += 1
        if count > MAX_PROMPTS:
            raise ConfigError(f"{place}: more than {MAX_PROMPTS} prompts")
        try:
            yield place, json.loads(line.decode("utf-8"), parse_constant=_refuse)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{place}: not UTF-8: byte 0x{line[error.start]:02x}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{place}: not JSON: {error}") from error


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
