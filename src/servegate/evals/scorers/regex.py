"""A pattern occurs in the answer.

A dataset may come from elsewhere, and Python's `re` takes exponential time on some pattern and text; it cannot be
interrupted from another thread. Refusing suspicious patterns misses some and refuses good ones, so matching happens in
a helper process with a time limit (bounded.py): a pattern that takes too long gives no score, never a 0.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from typing import Any, Literal

from pydantic import Field

from servegate.config import Config
from servegate.evals.item import Item
from servegate.evals.scorers import bounded
from servegate.evals.scorers.base import RIGHT, Score, shown

LONGEST_PATTERN = 2_000


class Regex(Config):
    """1 when any of the target's patterns is found anywhere in the answer, else 0."""

    kind: Literal["regex"] = "regex"
    ignore_case: bool = Field(False, description="as (?i) in the pattern")

    def check(self, item: Item) -> None:
        """Needs one or more patterns of Python's `re` as target."""
        if not item.texts:
            raise ValueError("target: regex needs a pattern or a list of patterns")
        for pattern in item.texts:
            if len(pattern) > LONGEST_PATTERN:
                raise ValueError(f"target: a pattern of {len(pattern)} characters; {LONGEST_PATTERN} are allowed")
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    compiled = re.compile(unicodedata.normalize("NFC", pattern))
            except (re.error, OverflowError, RecursionError, Warning) as error:
                raise ValueError(f"target: not a regular expression: {error}") from error
            if compiled.pattern == "":
                raise ValueError("target: an empty pattern is found in every answer")

    def request(self, item: Item) -> dict[str, Any]:  # noqa: ARG002  other scorers ask for what the item says
        """Adds nothing."""
        return {}

    def show_choices(self) -> bool:
        """Options are shown when the item has some."""
        return True

    def __call__(self, answer: str, item: Item) -> Score:
        """Search. Raises ScoringError when it takes too long."""
        text = unicodedata.normalize("NFC", answer)
        for pattern in item.texts:
            if bounded.search(unicodedata.normalize("NFC", pattern), text, self.ignore_case):
                return RIGHT
        if not answer.strip():
            return Score(0.0, "empty answer")
        return Score(0.0, f"{shown(answer)} has nothing like {shown(item.texts[0])}")
