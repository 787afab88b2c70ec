"""Evals: suite → answers → scores."""
