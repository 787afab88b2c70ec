"""Stands in for vLLM."""

__version__ = "0.32.0+cpu"
