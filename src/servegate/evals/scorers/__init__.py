"""Scorers: each one small file, each a model whose fields are its options."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from servegate.evals.scorers.base import Score, Scorer, ScoringError
from servegate.evals.scorers.choice import Choice
from servegate.evals.scorers.exact import Exact
from servegate.evals.scorers.json_answer import Json
from servegate.evals.scorers.regex import Regex

AnyScorer = Annotated[Exact | Regex | Choice | Json, Field(discriminator="kind")]
KINDS = ("exact", "regex", "choice", "json")

__all__ = ["KINDS", "AnyScorer", "Choice", "Exact", "Json", "Regex", "Score", "Scorer", "ScoringError"]
