"""What a plan says about people: when nothing may move, and who is told."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import BeforeValidator, Field, model_validator

from servegate.config import Config

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAILY = re.compile(r"^([01][0-9]|2[0-3]):([0-5][0-9])$")
_WEEKLY = re.compile(rf"^({'|'.join(DAYS)}) ([01][0-9]|2[0-3]):([0-5][0-9])$")
_DATE = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?: ([01][0-9]|2[0-3]):[0-5][0-9])?$")

Kind = Literal["daily", "weekly", "date"]


def _text(value: Any) -> Any:
    # YAML 1.1 reads an unquoted 16:00 as a number of minutes.
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1440:
        return f"{value // 60:02d}:{value % 60:02d}"
    return value


Moment = Annotated[str, BeforeValidator(_text), Field(max_length=20)]


class Freeze(Config):
    """A time in which no release gets more traffic. Rolling back is never frozen.

    Both ends are written alike: `22:00` every day, `fri 16:00` every week, `2026-12-20` or `2026-12-20 18:00` once.
    """

    name: str = Field("", max_length=100, description="what people call it")
    start: Moment = Field(description="first moment, such as `fri 16:00`")
    until: Moment = Field(description="first moment after it, such as `mon 09:00`")
    timezone: str = Field("UTC", description="such as Europe/Berlin; daylight saving is followed")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        kinds = [_kind(self.start), _kind(self.until)]
        for text, kind in zip((self.start, self.until), kinds, strict=True):
            if kind is None:
                raise ValueError(
                    f"{text!r} is no moment; `22:00` is every day, `fri 16:00` every week, `2026-12-20 18:00` once"
                )
        if kinds[0] != kinds[1]:
            raise ValueError(f"start {self.start!r} and until {self.until!r} are of different kinds")
        if self.start == self.until or (kinds[0] == "date" and _date(self.start) >= _date(self.until)):
            raise ValueError(f"until {self.until!r} is not after start {self.start!r}")
        _zone(self.timezone)
        return self

    def active(self, at: float) -> str | None:
        """What is frozen and until when, in words; None outside of it.

        Args:
            at: seconds since the epoch.
        """
        here = datetime.fromtimestamp(at, UTC).astimezone(_zone(self.timezone)).replace(tzinfo=None)
        kind = _kind(self.start)
        if kind == "date":
            inside = _date(self.start) <= here < _date(self.until)
        else:
            now = here.hour * 60 + here.minute + (here.weekday() * 1440 if kind == "weekly" else 0)
            first, last = _minutes(self.start), _minutes(self.until)
            inside = first <= now < last if first < last else now >= first or now < last
        if not inside:
            return None
        return f"frozen{f' ({self.name})' if self.name else ''} until {self.until} {self.timezone}"


Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,100}$")]


class Notification(Config):
    """Somebody who is told by a POST. A failure never holds a rollout up; it is tried again for an hour.

    A message may come twice (the controller died in between); its `Idempotency-Key` is then the same.
    """

    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2000)] | None = Field(
        None, description="where to; kept in the store and shown by `rollout plan`"
    )
    url_env: Variable | None = Field(None, description="environment variable with the URL, where the URL is a secret")
    format: Literal["json", "slack"] = Field("json", description="slack: only `text`, as Slack's webhooks want it")
    level: Literal["info", "warning", "critical"] = Field("info", description="the least that is told")
    secret_env: Variable | None = Field(
        None, description="environment variable with a key; then X-Servegate-Signature is sha256=HMAC of the body"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("give either url or url_env")
        return self


def _kind(text: str) -> Kind | None:
    if _DAILY.match(text):
        return "daily"
    if _WEEKLY.match(text):
        return "weekly"
    if _DATE.match(text):
        try:
            _date(text)
        except ValueError:  # such as 2026-02-30
            return None
        return "date"
    return None


def _minutes(text: str) -> int:
    """Minutes since the beginning of the day or of the week."""
    day, _, clock = text.rpartition(" ")
    hours, minutes = clock.split(":")
    return (DAYS.index(day) * 1440 if day else 0) + int(hours) * 60 + int(minutes)


def _date(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        known = available_timezones()
        if not known:
            raise ValueError("this machine has no time zones; install tzdata, or say UTC") from error
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise ValueError(f"no time zone {name!r}{f'; did you mean {near[0]!r}?' if near else ''}") from error
