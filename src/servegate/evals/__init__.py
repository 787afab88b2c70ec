"""Evals: suite → answers → scores."""

from servegate.evals.runner import Progress, run
from servegate.evals.suite import Suite, load_suite

__all__ = ["Progress", "Suite", "load_suite", "run"]
