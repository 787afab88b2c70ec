"""The option an answer names is the right one.

The option is read, never guessed: a letter counts where it stands as a letter ("B", "B) 5 days", "The answer is B",
"정답은 B입니다"), or the whole answer is an option's text. "A refund takes a week" names nothing, "A) or B)" names two,
and "B) 3 days" where 3 days is option A contradicts itself: all three score 0, with the reason. Scores from letters
and from texts, structured or not, are different measurements; the scorer's options are part of an item's identity.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field

from servegate.config import Config
from servegate.evals.item import LETTERS, Item
from servegate.evals.scorers.base import RIGHT, Score, shown
from servegate.evals.scorers.normalise import normalise

LONGEST = 20_000
# A lone letter, with brackets, emphasis or a full stop around it; here lower case will do.
_ALONE = re.compile(r"[\s(\[{*\"'`]*([A-Za-z])[\s)\]}*\"'`.:번]*")
# A letter that opens a line and is marked as such: "B) …", "**C.** …", "(D) …".
_MARKED = re.compile(
    r"^[ \t]{0,8}[(\[*]{0,3}([A-Z])(?:[)\]]|[.:](?=\s|\*|$)|\*\*)[*)\].:]{0,3}[ \t]?([^\n]*)", re.MULTILINE
)
# "answer: B", "the correct option is (C).", "정답은 D입니다", "답: A번"; not "the answer is A matter of taste".
_DECLARED = re.compile(
    r"(?:\b(?:answer|option|choice)\b|정답|답|선택)[ \t*]{0,4}(?:\bis\b|[:=은는이]){0,2}[ \t(\[*\"'`]{0,6}"
    r"([A-Z])(?![A-Za-z0-9'’])"
    r"(?=[)\]*\"'`]{0,4}[ \t]?(?:[.,;:!)(]|$|번|입니다|이에요|예요|이다|(?:because|since|as)\b))",
    re.IGNORECASE | re.MULTILINE,
)


class Choice(Config):
    """1 when the answer names the right option and no other, else 0."""

    kind: Literal["choice"] = "choice"
    structured: Literal["off", "letters", "texts"] = Field(
        "off", description="let the engine allow only these answers (vLLM's structured_outputs.choice)"
    )

    def check(self, item: Item) -> None:
        """Needs options, and as target the text or the letter of one."""
        if item.choices is None:
            raise ValueError("choices: choice needs options")
        plain = [_plain(choice) for choice in item.choices]
        if len(set(plain)) < len(plain) or not all(plain):
            raise ValueError("choices: two options are the same once normalised, or one is empty")
        if right(item) is None:
            raise ValueError("target: choice needs the text or the letter of one of the choices")

    def request(self, item: Item) -> dict[str, Any]:
        """`structured_outputs.choice`, when wanted."""
        options = item.choices or ()
        if self.structured == "off":
            return {}
        allowed = list(options) if self.structured == "texts" else list(LETTERS[: len(options)])
        return {"structured_outputs": {"choice": allowed}}

    def show_choices(self) -> bool:
        """Letters need the lettered list; texts too, or a model could not know them."""
        return True

    def __call__(self, answer: str, item: Item) -> Score:
        """Read the option and compare."""
        options = item.choices or ()
        wanted = right(item)
        named = read(answer, options)
        if len(named) == 1:
            index = next(iter(named))
            if index == wanted:
                return RIGHT
            return Score(0.0, f"chose {LETTERS[index]}, not {LETTERS[wanted or 0]}")
        if named:
            return Score(0.0, f"ambiguous: names {' and '.join(LETTERS[index] for index in sorted(named))}")
        return Score(0.0, f"names no option: {shown(answer)}" if answer.strip() else "empty answer")


def right(item: Item) -> int | None:
    """Position of the right option; None when the target is no option or could be two."""
    target = item.target
    if not isinstance(target, str) or item.choices is None:
        return None
    found = {index for index, choice in enumerate(item.choices) if choice == target}
    if len(target) == 1 and target in LETTERS[: len(item.choices)]:
        found.add(LETTERS.index(target))
    return found.pop() if len(found) == 1 else None


def read(answer: str, options: tuple[str, ...]) -> set[int]:
    """Positions of the options an answer names: none, one, or several when it is ambiguous."""
    # Only the form is folded here: line ends tell where a letter stands.
    text = "\n".join(normalise(line, "NFKC", ()) for line in answer[:LONGEST].splitlines()).strip()
    whole = _plain(text)
    texts = {_plain(option): index for index, option in enumerate(options)}
    if whole in texts:
        return {texts[whole]}
    letters = LETTERS[: len(options)]
    alone = _ALONE.fullmatch(text)
    if alone:
        letter = alone.group(1).upper()
        return {letters.index(letter)} if letter in letters else set()
    named: set[int] = set()
    for match in _MARKED.finditer(text):
        if match.group(1) in letters:
            named.add(letters.index(match.group(1)))
            said = texts.get(_plain(match.group(2)))
            if said is not None:
                named.add(said)
    for match in _DECLARED.finditer(text):
        # The letter itself must be upper case: "the answer is a." names nothing.
        if match.group(1) in letters:
            named.add(letters.index(match.group(1)))
    return named


def _plain(text: str) -> str:
    return normalise(text, "NFKC", ("case", "punctuation"))
