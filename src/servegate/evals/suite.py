"""A suite: which questions, how they are asked, how the answers are scored.

Everything that can be wrong with a suite is found before the first question is sent, with file and line.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from servegate.config import Config, load, validate
from servegate.contract import canonical_json, sha256
from servegate.errors import ConfigError
from servegate.evals.item import Item, Text
from servegate.evals.scorers import KINDS, AnyScorer, Exact, Scorer, ScoringError

LARGEST_FILE = 256 * 1024 * 1024
LONGEST_LINE = 4 * 1024 * 1024
MOST_REPEATS = 1000
MOST_PROBLEMS = 20


class RequestParameters(Config):
    """What every request of a suite carries."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] = Field(256, description="tokens an answer may have")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="of the engine's sampling, plus the number of the repeat; also draws the items of --limit"
    )


class SuiteConfig(Config):
    """A suite file."""

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")] = Field(description="of the report")
    description: str = Field("", description="for people")
    dataset: Text = Field(description="JSON Lines file, relative to the suite")
    system: Text | None = Field(None, description="system prompt of items that bring none")
    prompt: Text = Field("{input}", description="template of the last turn; {input} stands for the item's text")
    request: RequestParameters = Field(default_factory=RequestParameters, description="parameters of every request")
    concurrency: Annotated[int, Field(ge=1, le=256)] = Field(8, description="questions asked at the same time")
    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS)] = Field(1, description="times each item is asked")
    timeout: Annotated[float, Field(gt=0, le=3_600)] = Field(
        60.0, description="seconds for one answer, with its retries"
    )
    retries: Annotated[int, Field(ge=0, le=10)] = Field(
        2, description="after no connection, 408, 409, 429 and 5xx; an answer is never asked for again"
    )
    max_unanswered: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.05, description="fraction of questions without an answer above which the report is void"
    )
    scorer: AnyScorer = Field(default_factory=Exact, description="of items that name none")

    @field_validator("prompt")
    @classmethod
    def _has_input(cls, value: str) -> str:
        if "{input}" not in value:
            raise ValueError("must contain {input}, or no question would ever be asked")
        return value


@dataclass(frozen=True)
class Task:
    """An item ready to be asked: with its scorer and its identity."""

    item: Item
    scorer: Scorer
    sha256: str


@dataclass(frozen=True)
class Suite:
    """A suite and its items.

    Attributes:
        config: the file.
        tasks: the items, in the order of the dataset.
        dataset_sha256: of all rows in canonical form: neither spacing nor line ends count.
        sha256: of how questions are asked and scored: prompts, parameters, repeats, default scorer. The seed and the
            concurrency are conditions of their own.
        limit: how many items are drawn; None: all.
    """

    config: SuiteConfig
    tasks: tuple[Task, ...]
    dataset_sha256: str
    sha256: str
    limit: int | None = None

    def with_seed(self, seed: int) -> Suite:
        """The same suite with another seed. Raises ConfigError when it is not one."""
        if not 0 <= seed < 2**31:
            raise ConfigError(f"seed {seed} is not between 0 and {2**31 - 1}")
        request = self.config.request.model_copy(update={"seed": seed})
        return replace(self, config=self.config.model_copy(update={"request": request}))

    def limited(self, limit: int) -> Suite:
        """A sample of `limit` items, drawn by the seed and kept in order.

        Items are drawn by a hash of seed and id, so a larger limit keeps the items of a smaller one, and a row added
        to the dataset changes at most one of them. The first rows would be a biased sample: files are sorted by topic.
        """
        if limit < 1:
            raise ConfigError(f"a limit of {limit} items leaves nothing to ask")
        seed = self.config.request.seed
        drawn = sorted(self.tasks, key=lambda task: hashlib.sha256(f"{seed}:{task.item.id}".encode()).digest())[:limit]
        kept = {task.item.id for task in drawn}
        return replace(self, tasks=tuple(task for task in self.tasks if task.item.id in kept), limit=limit)

    def answering(self, answers: int) -> Suite:
        """The same suite asked for at least so many answers: more of its items first, then more repeats of all.

        What a smaller number asks for a larger one asks for too, so a run can be extended. Raises ConfigError when the
        number is not positive, or the items would have to be repeated more than 1,000 times.
        """
        repeats = self.config.repeats
        if answers <= repeats * (len(self.tasks) - 1):
            return self.limited(math.ceil(answers / repeats))
        most = math.ceil(answers / len(self.tasks))
        if most > MOST_REPEATS:
            raise ConfigError(f"{answers} answers are more than {MOST_REPEATS:,} to each of {len(self.tasks)} items")
        return replace(self, config=self.config.model_copy(update={"repeats": max(repeats, most)}))


def load_suite(path: Path) -> Suite:
    """Read a suite and its dataset.

    Raises:
        ConfigError: with every problem found (of a dataset the first 20), one line each, as `file:line: …`.
    """
    config = load(path, SuiteConfig)
    dataset = path.parent / config.dataset
    tasks: list[Task] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    digest = hashlib.sha256()
    for number, row in _rows(dataset, problems):
        digest.update(canonical_json(row) + b"\n")
        try:
            task = _task(row, config, f"{dataset}:{number}")
            first = seen.setdefault(task.item.id, number)
            if first != number:
                raise ConfigError(f"{dataset}:{number}: id {task.item.id!r} is already on line {first}")
            tasks.append(task)
        except ConfigError as error:
            problems.append(str(error))
        if len(problems) >= MOST_PROBLEMS:
            break
    if len(problems) >= MOST_PROBLEMS:
        problems.append(f"{dataset}: and perhaps more")
    if problems:
        raise ConfigError("\n".join(problems))
    if not tasks:
        raise ConfigError(f"{dataset}: has no items")
    asked = config.model_dump(mode="json", include={"system", "prompt", "request", "repeats", "scorer"})
    del asked["request"]["seed"]
    return Suite(config, tuple(tasks), "sha256:" + digest.hexdigest(), sha256(canonical_json(asked)))


def _rows(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their line number; what is no row goes to `problems`."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path}: larger than {LARGEST_FILE} bytes")
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise ConfigError(f"{path}:{number}: a line may have {LONGEST_LINE} bytes")
                try:
                    row = _row(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                except (ValueError, RecursionError) as error:
                    problems.append(f"{path}:{number}: {_why(error)}")
                    row = None
                if row is not None:
                    yield number, row
                if len(problems) >= MOST_PROBLEMS:
                    return
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _row(line: bytes) -> dict[str, Any] | None:
    text = line.decode("utf-8").strip()
    if not text:
        return None
    row = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object, not {type(row).__name__}")
    canonical_json(row)  # a lone surrogate is no text
    return row


def _task(row: dict[str, Any], config: SuiteConfig, where: str) -> Task:
    given = row.get("scorer")
    if isinstance(given, str):
        if given not in KINDS:
            near = difflib.get_close_matches(given, KINDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(KINDS)}"
            raise ConfigError(f"{where}: scorer: unknown scorer {given!r}; {hint}")
        # Naming the suite's own kind means the suite's own options.
        given = None if given == config.scorer.kind else {"kind": given}
    item = validate({**row, "scorer": given}, Item, where)
    scorer: Scorer = config.scorer if given is None else validate({"scorer": given}, _Named, where).scorer
    try:
        scorer.check(item)
    except (ValueError, ScoringError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return Task(item, scorer, sha256(canonical_json(row)))


class _Named(Config):
    """Gives a scorer of a row a place in error messages."""

    scorer: AnyScorer


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}"
    if isinstance(error, UnicodeEncodeError):
        return "text with half a surrogate pair (an escape such as \\ud83d alone)"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return row
