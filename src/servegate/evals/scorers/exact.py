"""The whole answer is one of the targets, once both are normalised (SQuAD's exact match, made fit for Korean).

Rajpurkar et al., arXiv 1606.05250, §6.1, drop articles, punctuation and case before comparing; here articles stay,
because Korean has none and "a" may be an option, and numbers keep their meaning (see normalise.py).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from servegate.config import Config
from servegate.evals.item import Item
from servegate.evals.scorers.base import RIGHT, Score, shown
from servegate.evals.scorers.normalise import Form, Ignore, normalise


class Exact(Config):
    """1 when the whole answer equals a target, else 0."""

    kind: Literal["exact"] = "exact"
    form: Form = Field("NFKC", description="Unicode normalisation form; NFKC also folds width")
    ignore: tuple[Ignore, ...] = Field(
        ("case", "punctuation"), description="differences that do not count: case, punctuation, spacing"
    )

    def check(self, item: Item) -> None:
        """Needs one or more texts as target."""
        if not item.texts:
            raise ValueError("target: exact needs a text or a list of texts")
        if not all(self._plain(target) for target in item.texts):
            raise ValueError("target: nothing is left of it after normalising")

    def request(self, item: Item) -> dict[str, Any]:  # noqa: ARG002  other scorers ask for what the item says
        """Adds nothing."""
        return {}

    def show_choices(self) -> bool:
        """Options are shown when the item has some."""
        return True

    def __call__(self, answer: str, item: Item) -> Score:
        """Compare."""
        said = self._plain(answer)
        if any(said == self._plain(target) for target in item.texts):
            return RIGHT
        return Score(0.0, f"said {shown(answer)}, not {shown(item.texts[0])}" if said else "empty answer")

    def _plain(self, text: str) -> str:
        return normalise(text, self.form, self.ignore)
