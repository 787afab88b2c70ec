"""What every scorer is: an answer and an item in, a score and its reason out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from servegate.evals.item import Item


@dataclass(frozen=True)
class Score:
    """A score in [0, 1] and, for people, why it is not 1."""

    value: float
    reason: str = ""


RIGHT = Score(1.0)


class ScoringError(Exception):
    """The answer could not be scored, which says nothing about the answer: there is no score then, not 0."""


class Scorer(Protocol):
    """Judges one answer. Scorers are configuration: their options are their fields."""

    @property
    def kind(self) -> str:
        """Name used in suites, datasets and reports."""

    def check(self, item: Item) -> None:
        """Raise ValueError when the item lacks what this scorer needs."""

    def request(self, item: Item) -> dict[str, Any]:
        """Fields this scorer adds to the request, such as a structured output."""

    def show_choices(self) -> bool:
        """Whether the question must list the options."""

    def __call__(self, answer: str, item: Item) -> Score:
        """Score an answer. Raises ScoringError when that is impossible."""


def shown(text: str, limit: int = 60) -> str:
    """A piece of untrusted text for a reason: one line, printable, short."""
    line = "".join(char if char.isprintable() else "·" for char in text.strip()[: limit + 1])
    return repr(line if len(line) <= limit else line[: limit - 1] + "…")
