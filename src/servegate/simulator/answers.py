"""What the simulated model says: a fact in the shape that was asked for, or fluent words about nothing.

Pure: the same question, seed and mistakes give the same answer, so that two runs of an evaluation can be compared item
by item. How the shape follows from the question is written down in knowledge.yaml.
"""

from __future__ import annotations

import random
import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from servegate.simulator import structured, tokens
from servegate.simulator.knowledge import Knowledge
from servegate.simulator.phrases import ELABORATION, SMALL_TALK

SHORTEST_TALK, LONGEST_TALK = 30, 80
LONGEST_QUESTION = 8_000

_OPTION_LINE = re.compile(r"^[ \t]*\(?([A-H])[).:][ \t]*(\S[^\n]*)$", re.MULTILINE)
_OPTION_INLINE = re.compile(r"(?:^|(?<=[\s:,;]))\(?([A-H])[).][ \t]*(?=\S)")
_QUOTED = re.compile(r"[\"“「『]([^\"”」』]{6,2000})[\"”」』]")
_JSON = re.compile(r"(?<![a-z])json(?![a-z])|제이슨", re.IGNORECASE)
_CLASSIFY = re.compile(r"\bclassif|\bcategor|\bwhich topic\b|분류|카테고리", re.IGNORECASE)
_BRIEF = re.compile(
    r"\bonly\b|\bjust the\b|\bone word\b|\bshort answer\b|\byes or no\b|"
    r"만 답|만 대답|만 출력|만 말|단답|짧게|한 단어|숫자만|예/아니|예 또는 아니",
    re.IGNORECASE,
)
_LONG = re.compile(r"\bexplain|\bdescribe|\bin detail\b|\bstep by step\b|설명|자세히|알려 ?주시겠", re.IGNORECASE)
_HANGUL = re.compile(r"[가-힣]")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A question and the shape its answer must have; at most one of the last four is set."""

    question: str
    choice: tuple[str, ...] | None = None
    regex: str | None = None
    schema: Any = None
    json_object: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said, the fact it comes from (None: nothing is known), and whether it is wrong on purpose."""

    text: str
    fact: str | None
    mistaken: bool


def answer(wanted: Wanted, knowledge: Knowledge, *, seed: int = 0, mistaken: bool = False) -> Answer:
    """Answer a question. Raises structured.UnsupportedError if the shape cannot be honoured.

    `mistaken` asks for a plausible wrong answer; where nothing is known there is none, and the answer says so.
    """
    question = wanted.question[-LONGEST_QUESTION:]
    stem, options = split_options(question)
    classify = bool(_CLASSIFY.search(stem))
    quoted = _QUOTED.search(stem) if classify else None
    fact = knowledge.find(quoted.group(1) if quoted else stem)
    draw = random.Random(zlib.crc32(question.encode("utf-8", "replace")) ^ seed)
    if fact is None:
        return Answer(_unknown(wanted, question, options, draw), None, False)
    label = knowledge.label(fact.topic, fact.lang)
    if mistaken:
        others = [topic for topic in knowledge.topics if topic != fact.topic] or ["other"]
        wrong_topic = draw.choice(others)
        said = fact.mistaken(draw.randrange(len(fact.wrong)))
        said_label = knowledge.label(wrong_topic, fact.lang)
    else:
        said, said_label, wrong_topic = fact, label, fact.topic
    right_names = [fact.topic, label] if classify else [fact.short, *fact.accept, fact.topic, label]
    if wanted.choice is not None or options:
        # Choices that are letters of the options in the text stand for those options.
        lettered = options and (wanted.choice is None or set(wanted.choice) <= options.keys())
        choices = list(options if wanted.choice is None else wanted.choice)
        right = _pick([options[choice] for choice in choices] if lettered else choices, right_names)
        index = draw.randrange(len(choices)) if right is None else right
        if mistaken and len(choices) > 1:
            index = (index + 1 + draw.randrange(len(choices) - 1)) % len(choices)
        return Answer(choices[index], fact.id, mistaken and len(choices) > 1)
    names = [said_label, wrong_topic] if classify else [said.short, *said.accept, said.answer, said_label, wrong_topic]
    if wanted.regex is not None:
        found = structured.matching(wanted.regex, names)
        return Answer(found or structured.example(wanted.regex), fact.id, mistaken)
    if wanted.schema is not None:
        return Answer(_dump(structured.build(wanted.schema, said.data, names)), fact.id, mistaken)
    if wanted.json_object or _JSON.search(stem):
        data = _asked_for(stem, {**said.data, "answer": said.short, "topic": wrong_topic}) or dict(said.data)
        return Answer(_dump({"topic": wrong_topic} if classify else data), fact.id, mistaken)
    if classify:
        return Answer(said_label, fact.id, mistaken)
    if _BRIEF.search(stem):
        return Answer(said.short, fact.id, mistaken)
    text = said.answer
    if _LONG.search(stem):
        text = " ".join([text, *draw.sample(ELABORATION[fact.lang], 3)])
    return Answer(text, fact.id, mistaken)


def continuation(text: str, at_least: int, seed: int) -> list[str]:
    """The tokens of `text`, followed by as much more talk as it takes to have `at_least` of them."""
    out = tokens.split(text)
    draw = random.Random(zlib.crc32(text.encode("utf-8", "replace")) ^ seed)
    lang = language(text)
    while len(out) < at_least:
        out += tokens.split(" " + draw.choice(SMALL_TALK[lang]))
    return out


def language(text: str) -> str:
    """`ko` if the text has Hangul, else `en`."""
    return "ko" if _HANGUL.search(text) else "en"


def split_options(question: str) -> tuple[str, Mapping[str, str]]:
    """A question without its options, and the options A, B, … it offers (none, or at least two in order)."""
    lines = {match.group(1): match for match in _OPTION_LINE.finditer(question)}
    if len(lines) > 1 and list(lines) == list("ABCDEFGH"[: len(lines)]):
        options = {letter: match.group(2).strip() for letter, match in lines.items()}
        return _OPTION_LINE.sub(" ", question), options
    marks = list(_OPTION_INLINE.finditer(question))
    for start, mark in enumerate(marks):
        run = marks[start : start + 8]
        count = next((i for i, found in enumerate(run) if found.group(1) != "ABCDEFGH"[i]), len(run))
        if count > 1:
            ends = [found.start() for found in run[1:count]]
            ends.append(question.find("\n", run[count - 1].end()) % (len(question) + 1))
            pieces = [question[found.end() : end] for found, end in zip(run, ends, strict=False)]
            options = {found.group(1): piece.strip(" \t,;/") for found, piece in zip(run, pieces, strict=False)}
            return question[: mark.start()] + " " + question[ends[-1] :], options
    return question, {}


def _unknown(wanted: Wanted, question: str, options: Mapping[str, str], draw: random.Random) -> str:
    """Nothing is known: guess where one must choose, fill in what a schema wants, talk otherwise."""
    if wanted.choice is not None:
        return draw.choice(wanted.choice)
    if wanted.regex is not None:
        return structured.example(wanted.regex)
    if wanted.schema is not None:
        return _dump(structured.build(wanted.schema, {}, []))
    if options:
        return draw.choice(list(options))
    if wanted.json_object or _JSON.search(question):
        return _dump({"answer": None})
    lang = language(question)
    length = draw.randint(SHORTEST_TALK, LONGEST_TALK - 20)
    sentences: list[str] = []
    for sentence in draw.sample(SMALL_TALK[lang], len(SMALL_TALK[lang])):
        sentences.append(sentence)
        if len(tokens.split(" ".join(sentences))) >= length:
            break
    return " ".join(sentences)


def _pick(choices: Sequence[str], names: Sequence[str]) -> int | None:
    """The choice that says one of the names: first equal, then containing it, then contained in it."""
    plain_choices = [_plain(choice) for choice in choices]
    plain_names = [_plain(name) for name in names]
    for name in plain_names:
        if name in plain_choices:
            return plain_choices.index(name)
    for name in plain_names:
        found = re.compile(rf"(?<!\d){re.escape(name)}(?!\d)")
        holding = [index for index, choice in enumerate(plain_choices) if found.search(choice)]
        if len(holding) == 1:
            return holding[0]
    for name in plain_names:
        inside = [index for index, choice in enumerate(plain_choices) if len(choice) > 1 and choice in name]
        if len(inside) == 1:
            return inside[0]
    return None


def _asked_for(stem: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The entries whose key the question names as such: quoted, after the word JSON, or with an underscore."""
    folded = stem.casefold()
    mention = _JSON.search(folded)
    after = folded[mention.end() :] if mention else ""
    return {
        key: value
        for key, value in data.items()
        if re.search(rf"[\"'`“]{re.escape(key.casefold())}[\"'`”]", folded)
        or _word(key, after)
        or ("_" in key and _word(key, folded))
    }


def _word(key: str, text: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(key.casefold())}(?![a-z0-9_])", text))


def _plain(text: str) -> str:
    return re.sub(r"[^\w%]+", "", unicodedata.normalize("NFKC", text).casefold())


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()
