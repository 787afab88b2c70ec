"""Somebody else's clock, as it stands in the Date header of an answer."""

from __future__ import annotations

from email.utils import parsedate_to_datetime


def skew(date: str | None, now: float) -> float | None:
    """Seconds by which a clock that says `date` (RFC 9110, whole seconds, cut) is ahead of one that says `now`.

    None when there is no date: then nothing is known of that clock.
    """
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp() - now
    except (ValueError, OverflowError):  # no date
        return None
