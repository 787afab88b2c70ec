"""Smoke: is it up, is it this release, does it stream, does it refuse nonsense?"""

from servegate.smoke.runner import Result, run

__all__ = ["Result", "run"]
