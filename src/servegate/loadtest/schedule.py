"""When each request is sent and what it asks: decided before the first one is sent, from the seed alone.

An absolute schedule keeps the loop open. A sender that waits for an answer before it plans the next request asks a
slow server fewer questions, and so measures it kindly ("coordinated omission").
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from servegate.loadtest.profile import Profile


class Planned(NamedTuple):
    """One request to be sent.

    Attributes:
        id: position in the schedule, from 0.
        offset: seconds after the start.
        prompt: index into the prompts.
        warm_up: sent before the measured time.
    """

    id: int
    offset: float
    prompt: int
    warm_up: bool


def schedule(profile: Profile, prompts: int) -> Iterator[Planned]:
    """All requests of a profile in order of time; without end when the profile has none.

    Arrival times and prompts draw from streams of their own, so adding a prompt does not move the arrivals.

    Args:
        profile: rate, kind, seed, warm-up and duration.
        prompts: how many there are; at least 1.
    """
    length = profile.length
    choices = _choices(prompts, random.Random(f"prompts {profile.seed}"))
    for number, offset in enumerate(_offsets(profile)):
        if length is not None and offset >= length:
            return
        yield Planned(number, offset, next(choices), offset < profile.warm_up)


def _offsets(profile: Profile) -> Iterator[float]:
    rate = profile.arrival.rate
    if profile.arrival.kind == "constant":
        number = 0
        while True:
            yield number / rate
            number += 1
    generator = random.Random(f"arrivals {profile.seed}")
    at = 0.0
    while True:
        at += generator.expovariate(rate)
        yield at


def _choices(prompts: int, generator: random.Random) -> Iterator[int]:
    """Every prompt once in random order, then again in another: lengths are mixed alike in any part of a run."""
    if prompts < 1:
        raise ValueError("there must be a prompt")
    order = list(range(prompts))
    while True:
        generator.shuffle(order)
        yield from order
