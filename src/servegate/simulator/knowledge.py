"""What the simulator knows, read from a file, and how a question finds its answer.

Evaluations of a stand-in mean something only if it is right for a reason: the file holds facts, and a question is
matched to a fact by the terms it contains. knowledge.yaml next to this file describes the format.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_FILE = Path(__file__).with_name("knowledge.yaml")
LARGEST_FILE = 16 * 1024 * 1024
# Only so much of a message is searched for terms; more is a document, not a question. Characters.
LONGEST_QUESTION = 8_000
_YES_NO = {"yes": "no", "no": "yes", "예": "아니요", "네": "아니요", "아니요": "예", "아니오": "예"}
_KEYS = ("id", "lang", "topic", "ask", "priority", "short", "answer", "data", "accept", "wrong")


class KnowledgeError(Exception):
    """The knowledge file is wrong; the message starts with `file:line:`."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing the shop can be asked. `data` is the same as JSON."""

    id: str
    lang: str
    topic: str
    ask: tuple[tuple[tuple[str, ...], ...], ...]
    priority: int
    short: str
    answer: str
    data: Mapping[str, Any]
    accept: tuple[str, ...]
    wrong: tuple[str, ...]

    def mistaken(self, choice: int) -> Fact:
        """The same fact as a worse model would have it: one of `wrong` in place of what is right."""
        short = self.wrong[choice % len(self.wrong)]
        answer = self.answer.replace(self.short, short, 1 if self.short.casefold() in _YES_NO else -1)
        data = {key: _mistaken_value(value, self.short, short) for key, value in self.data.items()}
        return Fact(self.id, self.lang, self.topic, (), 0, short, answer, data, (), ())


@dataclass(frozen=True, slots=True)
class Knowledge:
    """All facts, and the names of topics per language."""

    facts: tuple[Fact, ...]
    topics: Mapping[str, Mapping[str, str]]

    def find(self, question: str) -> Fact | None:
        """The fact that answers the question best, or None. Ties go to the earlier one."""
        words, letters = _searchable(question[-LONGEST_QUESTION:])
        best: Fact | None = None
        best_score = (-1, 0, 0)
        found: dict[str, bool] = {}
        for fact in self.facts:
            for pattern in fact.ask:
                length = 0
                for alternatives in pattern:
                    for term in alternatives:
                        if term not in found:
                            found[term] = " " + term in words if term[0].isascii() else term in letters
                        if found[term]:
                            length += len(term)
                            break
                    else:
                        break
                else:
                    score = (fact.priority, len(pattern), length)
                    if score > best_score:
                        best, best_score = fact, score
        return best

    def label(self, topic: str, lang: str) -> str:
        """What a topic is called in a language."""
        return self.topics.get(topic, {}).get(lang, topic)


def load(path: Path) -> Knowledge:
    """Read a YAML file, or JSON Lines with one fact a line. Raises KnowledgeError."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise KnowledgeError(f"{path}:1: larger than {LARGEST_FILE // 1024 // 1024} MiB")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise KnowledgeError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise KnowledgeError(f"{path}: not UTF-8 at byte {error.start}") from None
    topics: dict[str, dict[str, str]] = {}
    if path.suffix in (".jsonl", ".ndjson"):
        entries = list(_json_lines(text, path))
    elif path.suffix in (".yaml", ".yml"):
        entries, topics = _yaml(text, path)
    else:
        raise KnowledgeError(f"{path}: the name must end with .yaml, .yml or .jsonl")
    if not entries:
        raise KnowledgeError(f"{path}:1: no facts")
    seen: dict[str, int] = {}
    facts = []
    for line, entry in entries:
        fact = _fact(entry, f"{path}:{line}")
        if fact.id in seen:
            raise KnowledgeError(f"{path}:{line}: id {fact.id!r} was used in line {seen[fact.id]}")
        if topics and fact.topic not in topics:
            raise KnowledgeError(f"{path}:{line}: topic {fact.topic!r} is not one of {', '.join(topics)}")
        seen[fact.id] = line
        facts.append(fact)
    return Knowledge(tuple(facts), topics)


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    import orjson

    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise KnowledgeError(f"{path}:{number}: not JSON: {error}") from None


def _yaml(text: str, path: Path) -> tuple[list[tuple[int, Any]], dict[str, dict[str, str]]]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        document = loader.construct_document(root) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise KnowledgeError(f"{path}:{mark.line + 1 if mark else 1}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise KnowledgeError(f"{path}:1: not YAML: {str(error).splitlines()[0]}") from None
    finally:
        loader.dispose()
    if root is None or not isinstance(document, dict) or not isinstance(document.get("facts"), list):
        raise KnowledgeError(f"{path}:1: expected a mapping with `facts`, a list")
    node = next(value for key, value in root.value if key.value == "facts")
    lines = [item.start_mark.line + 1 for item in node.value]
    for key_node, _value in root.value:
        if key_node.value not in ("version", "shop", "topics", "facts"):
            raise KnowledgeError(f"{path}:{key_node.start_mark.line + 1}: unknown key {key_node.value!r}")
    if document.get("version") != 1:
        raise KnowledgeError(f"{path}:1: version must be 1, not {document.get('version')!r}")
    topics = document.get("topics", {})
    if not isinstance(topics, dict) or not all(_is_labels(labels) for labels in topics.values()):
        raise KnowledgeError(f"{path}:1: `topics` must map names to labels per language")
    return list(zip(lines, document["facts"], strict=True)), topics


def _is_labels(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)


def _fact(entry: Any, where: str) -> Fact:
    if not isinstance(entry, dict):
        raise KnowledgeError(f"{where}: a fact must be a mapping")
    for key in entry:
        if key not in _KEYS:
            raise KnowledgeError(f"{where}: unknown key {key!r}; known are {', '.join(_KEYS)}")
    texts = {}
    for key in ("id", "lang", "topic", "short", "answer"):
        value = entry.get(key)
        if not isinstance(value, str) or not value.strip():
            raise KnowledgeError(f"{where}: `{key}` must be a text that is not empty (quote yes, no and numbers)")
        texts[key] = value
    lists = {}
    for key in ("ask", "accept", "wrong"):
        value = entry.get(key, [] if key == "accept" else None)
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise KnowledgeError(f"{where}: `{key}` must be a list of texts (quote numbers and commas)")
        if not value and key != "accept":
            raise KnowledgeError(f"{where}: `{key}` must not be empty")
        lists[key] = tuple(value)
    priority, data = entry.get("priority", 0), entry.get("data", {})
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise KnowledgeError(f"{where}: `priority` must be a whole number")
    if not isinstance(data, dict) or not data or not all(isinstance(key, str) for key in data):
        raise KnowledgeError(f"{where}: `data` must be a mapping with at least one key")
    if not all(isinstance(value, str | int | float | bool) for value in data.values()):
        raise KnowledgeError(f"{where}: values in `data` must be texts, numbers or true/false")
    if texts["short"] not in texts["answer"]:
        raise KnowledgeError(f"{where}: `answer` does not contain `short` ({texts['short']!r})")
    ask = tuple(_pattern(pattern, where) for pattern in lists["ask"])
    fact = Fact(ask=ask, priority=priority, data=data, accept=lists["accept"], wrong=lists["wrong"], **texts)
    for index, wrong in enumerate(fact.wrong):
        mistaken = fact.mistaken(index)
        if mistaken.data == fact.data or mistaken.short == fact.short:
            raise KnowledgeError(f"{where}: with {wrong!r} in place of `short` nothing in `data` would be wrong")
    return fact


def _pattern(text: str, where: str) -> tuple[tuple[str, ...], ...]:
    terms = tuple(tuple(part for part in term.split("|") if part) for term in _fold(text).split())
    if not all(terms):
        raise KnowledgeError(f"{where}: empty term in pattern {text!r}")
    return terms


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _searchable(text: str) -> tuple[str, str]:
    """The text with words separated by one space, for Latin terms; and without any space, for the others."""
    folded = _fold(text)
    words = re.sub(r"\w*_\w*", " ", folded)  # names of JSON keys are not what the question is about
    words = re.sub(r"([^\x00-\x7f])([a-z0-9])", r"\1 \2", words)
    words = " " + re.sub(r"[^\w.%:-]+", " ", words)
    return words, re.sub(r"\s+", "", folded)


def _mistaken_value(value: Any, right: str, wrong: str) -> Any:
    """A value of `data` after `right` was replaced by `wrong`, where it says the same thing."""
    flips = right.casefold() in _YES_NO
    if isinstance(value, bool):
        return not value if flips else value
    if isinstance(value, str) and (flips or right in value):
        return value if flips else value.replace(right, wrong)
    # A value that is a part of `right`, such as the end of a range, becomes the same part of `wrong`.
    parts, others = re.findall(r"\d[\d:.,]*", right), re.findall(r"\d[\d:.,]*", wrong)
    for index, part in enumerate(parts[: len(others)]):
        if isinstance(value, str):
            if value == part:
                return others[index]
        elif _number(part) == value and _number(others[index]) is not None:
            return type(value)(_number(others[index]))
    return value


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
