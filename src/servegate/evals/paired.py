"""One item asked of two endpoints at the same time, for a comparison of two models while both serve."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from servegate.evals.ask import Client, Failure
from servegate.evals.scorers import ScoringError
from servegate.evals.suite import Suite, Task
from servegate.report.format import clean


@dataclass(frozen=True)
class Scored:
    """What one endpoint made of an item: a score in [0, 1], or why there is none. No answer is never a wrong one."""

    score: float | None
    error: str = ""


async def ask_both(suite: Suite, task: Task, clients: tuple[Client, Client]) -> tuple[Scored, Scored]:
    """Ask both clients the item as the suite says, and score the answers."""
    first, second = await asyncio.gather(*(_ask(suite, task, client) for client in clients))
    return first, second


async def _ask(suite: Suite, task: Task, client: Client) -> Scored:
    config, item, scorer = suite.config, task.item, task.scorer
    messages = item.conversation(config.system, config.prompt, scorer.show_choices())
    answer = await client.ask(messages, config.request.model_dump(), scorer.request(item))
    if isinstance(answer, Failure):
        return Scored(None, answer.error)
    try:
        score = await asyncio.to_thread(scorer, answer.text, item)
    except ScoringError as error:
        return Scored(None, f"scorer: {clean(error, 300)}")
    return Scored(score.value)
