"""Invented LLM traffic, the decision rules of other tools and the limits of what any rule could do, all vectorised."""
