"""servegate decides whether a new LLM version may serve traffic, and takes it back when it may not."""

__version__ = "0.1.0"
