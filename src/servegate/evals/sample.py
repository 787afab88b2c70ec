"""A suite's items in a random order, none of them twice."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from servegate.evals.suite import Suite, Task


@dataclass(frozen=True)
class Sampler:
    """Draws items without replacement.

    The order follows from the seed and the items' ids alone: whoever knows the seed and how many were drawn goes on
    with the very next item, also in another process.

    Args:
        tasks: the items in the order in which they are drawn.
    """

    tasks: tuple[Task, ...]

    @classmethod
    def of(cls, suite: Suite, seed: str) -> Sampler:
        """The suite's items, shuffled by a hash of seed and id."""

        def key(task: Task) -> bytes:
            return hashlib.sha256(f"{seed}:{task.item.id}".encode()).digest()

        return cls(tuple(sorted(suite.tasks, key=key)))

    def draw(self, position: int, most: int) -> tuple[tuple[int, Task], ...]:
        """Up to `most` items from `position` on, with their positions; empty when all were drawn."""
        return tuple(enumerate(self.tasks[position : position + most], position))
