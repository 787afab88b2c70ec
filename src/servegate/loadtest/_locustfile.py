"""Entry for Locust where a pipeline has no `loadtest/locustfile.py` of its own."""

from __future__ import annotations

from servegate.loadtest.user import ChatUser

__all__ = ["ChatUser"]
