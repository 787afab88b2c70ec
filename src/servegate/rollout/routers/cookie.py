"""The cookie by which users keep their slot: `<name>=<slot>.<salt>`."""

from __future__ import annotations

import re

from servegate.rollout.ports import Sticky

SLOT_HEADER = "x-servegate-slot"
"""Header of an answer that names its slot."""
SECONDS = 30 * 24 * 3600


def header(slot: str, sticky: Sticky) -> str:
    """Value of `set-cookie`."""
    return f"{sticky.name}={_value(slot, sticky)}; Path=/; Max-Age={SECONDS}; HttpOnly; SameSite=Lax"


def pattern(slot: str, sticky: Sticky) -> str:
    """Regular expression (RE2) that a whole `cookie` header matches when it has the slot's cookie."""
    pair = re.escape(f"{sticky.name}={_value(slot, sticky)}")
    return rf"(?:.*;\s*)?{pair}(?:\s*;.*)?"


def _value(slot: str, sticky: Sticky) -> str:
    return f"{slot}.{sticky.salt}" if sticky.salt else slot
