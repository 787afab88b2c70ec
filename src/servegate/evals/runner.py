"""Ask every question of a suite, score the answers, write the report.

The endpoint's failures and the model's mistakes are kept apart all the way: a failure never becomes a score, and an
endpoint that has died ends the run instead of filling hours with errors.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servegate import __version__
from servegate.endpoint import Endpoint, EndpointFacts
from servegate.evals.ask import Answer, Client, Failure, client_version
from servegate.evals.journal import RECORDS, REPORT, Journal, RunState, key_of, opened
from servegate.evals.scorers import ScoringError
from servegate.evals.suite import Suite, Task
from servegate.report.format import clean
from servegate.report.model import Conditions, Finding, Report, Samples, Subject
from servegate.report.records import EvalRecord

FEWEST_FAILURES = 5
Clock = Callable[[], float]


@dataclass(frozen=True)
class Progress:
    """How far a run is: questions done of all, those without a score, the mean score, seconds since the start and
    seconds left (None: not known yet).
    """

    done: int
    total: int
    unscored: int
    score: float | None
    elapsed: float
    left: float | None


def run(
    suite: Suite,
    endpoint: Endpoint,
    output: Path,
    *,
    subject: Subject | None = None,
    resume: bool = False,
    extend: bool = False,
    progress: Callable[[Progress], None] | None = None,
    clock: Clock | None = None,
) -> Report:
    """Run a suite; call it outside of any event loop.

    Args:
        suite: what to ask.
        endpoint: whom to ask.
        output: folder for report.json, records.jsonl and run.json; an earlier run there is replaced.
        subject: what is judged; None: the endpoint, by what it says of itself.
        resume: keep the scores an earlier run left in `output`, and ask the rest.
        extend: the same for a run that asked for fewer items or repeats (see `Suite.answering`).
        progress: called after each question.
        clock: seconds since the Unix epoch; must not go back.

    Returns:
        The report, which is also written. It is void (see `Report.void`) when too little could be measured.

    Raises:
        InfrastructureError: nobody answers at the endpoint, or `output` cannot be written.
        ConfigError: `resume` or `extend` where another run was, `extend` where more was asked, or another run is
            writing there.
        KeyboardInterrupt: after a void report of what was measured was written; `resume` goes on from there.
    """
    from servegate.evals.measures import findings, measures  # brings numpy and scipy

    now = clock or anchored_clock()
    facts = endpoint.describe()
    config = suite.config
    conditions = Conditions(
        dataset_sha256=suite.dataset_sha256,
        seed=config.request.seed,
        temperature=config.request.temperature,
        concurrency=config.concurrency,
        client=client_version(),
        other={
            "suite_sha256": suite.sha256,
            "max_tokens": str(config.request.max_tokens),
            "repeats": str(config.repeats),
            **({} if suite.limit is None else {"limit": str(suite.limit)}),
        },
    )
    state = RunState(
        suite=config.name,
        conditions=conditions,
        release=subject.release if subject else None,
        model=facts.model,
        engine_version=facts.version,
    )
    wanted = [_blank(task, repeat) for repeat in range(config.repeats) for task in suite.tasks]
    with opened(output, state, resume, extend) as journal:
        started = now()
        session = _Session(suite, endpoint, facts, journal, progress, now)
        interrupted = False
        try:
            asyncio.run(session.ask_all())
        except KeyboardInterrupt:
            interrupted = True
        found = findings(journal.records, len(wanted), config.max_unanswered, session.died)
        if interrupted:
            message = f"interrupted after {len(journal.records)} of {len(wanted)} questions"
            found.insert(0, Finding(severity="error", code="interrupted", message=message, voids=True))
        digest = journal.finish([key_of(record) for record in wanted])
        records = journal.records
        report = Report(
            kind="eval",
            name=config.name,
            subject=_subject(subject, facts),
            conditions=conditions,
            # A resumed run began when its first question was sent.
            started=min([started, *(record.sent for record in records if record.sent is not None)]),
            finished=now(),
            tool=f"servegate {__version__}",
            measures=measures(records, wanted),
            samples=(Samples(path=RECORDS, sha256=digest, record="EvalRecord", n=len(records)),),
            findings=tuple(found),
        )
        report.write(output / REPORT)
    if interrupted:
        raise KeyboardInterrupt
    return report


def _unless_interrupted(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An interrupt that hit a task is raised by `asyncio.run` anyway; the task it ended is no second piece of news."""
    if not isinstance(context.get("exception"), KeyboardInterrupt):
        loop.default_exception_handler(context)


class _Session:
    """One run while it runs."""

    def __init__(
        self,
        suite: Suite,
        endpoint: Endpoint,
        facts: EndpointFacts,
        journal: Journal,
        progress: Callable[[Progress], None] | None,
        now: Clock,
    ) -> None:
        self.suite, self.endpoint, self.facts, self.journal, self.now = suite, endpoint, facts, journal, now
        self.progress = progress
        self.died: str | None = None
        self._failures_in_a_row = 0
        self._started = now()
        self._resumed = len(journal.records)

    async def ask_all(self) -> None:
        """Ask what is not done yet, `concurrency` at a time, until all is done or the endpoint is dead."""
        asyncio.get_running_loop().set_exception_handler(_unless_interrupted)
        config = self.suite.config
        done = self.journal.done
        pending = (
            (task, repeat)
            for repeat in range(config.repeats)
            for task in self.suite.tasks
            if (task.item.id, repeat, task.sha256) not in done
        )
        model = self.facts.model or self.endpoint.model or ""
        self._tell()
        client = Client(self.endpoint, model, config.timeout, config.retries, config.concurrency)
        try:
            async with client, asyncio.TaskGroup() as group:
                workers = [group.create_task(self._work(client, pending)) for _ in range(config.concurrency)]
                for worker in workers:
                    # The first to see the end of the endpoint ends the others: what they wait for will not come.
                    worker.add_done_callback(lambda _: self.died and [other.cancel() for other in workers])
        except ExceptionGroup as group_of_errors:
            raise group_of_errors.exceptions[0] from None

    async def _work(self, client: Client, pending: Iterator[tuple[Task, int]]) -> None:
        for task, repeat in pending:
            record, endpoint_at_fault = await self._one(client, task, repeat)
            self.journal.append(record)
            self._failures_in_a_row = self._failures_in_a_row + 1 if endpoint_at_fault else 0
            self._tell()
            if self._failures_in_a_row >= max(FEWEST_FAILURES, self.suite.config.concurrency):
                self.died = f"{self._failures_in_a_row} failures in a row, the last: {record.error}"
            if self.died is not None:
                return

    async def _one(self, client: Client, task: Task, repeat: int) -> tuple[EvalRecord, bool]:
        config, item, scorer = self.suite.config, task.item, task.scorer
        messages = item.conversation(config.system, config.prompt, scorer.show_choices())
        parameters = config.request.model_dump()
        # At a temperature above 0 the same seed would give the same answer each time.
        parameters["seed"] += repeat
        blank = _blank(task, repeat).model_copy(update={"sent": self.now()})
        answer = await client.ask(messages, parameters, scorer.request(item))
        if isinstance(answer, Failure):
            return blank.model_copy(update={"error": answer.error, "reason": "no answer"}), answer.endpoint_at_fault
        return await _scored(blank, answer, task), False

    def _tell(self) -> None:
        if self.progress is None:
            return
        records = self.journal.records
        scores = [record.score for record in records if record.score is not None]
        total = len(self.suite.tasks) * self.suite.config.repeats
        elapsed = self.now() - self._started
        fresh = len(records) - self._resumed
        self.progress(
            Progress(
                done=len(records),
                total=total,
                unscored=len(records) - len(scores),
                score=sum(scores) / len(scores) if scores else None,
                elapsed=elapsed,
                left=elapsed / fresh * (total - len(records)) if fresh else None,
            )
        )


async def _scored(blank: EvalRecord, answer: Answer, task: Task) -> EvalRecord:
    heard = {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "output_tokens": answer.output_tokens,
        "e2e_latency": answer.latency,
    }
    try:
        # In a thread: an expensive scorer must not delay the answers others wait for.
        score = await asyncio.to_thread(task.scorer, answer.text, task.item)
    except ScoringError as error:
        return blank.model_copy(update={**heard, "error": f"scorer: {clean(error, 300)}", "reason": "not scored"})
    return blank.model_copy(update={**heard, "score": score.value, "reason": score.reason})


def _blank(task: Task, repeat: int) -> EvalRecord:
    item = task.item
    target = (
        item.target
        if isinstance(item.target, str) or item.target is None
        else json.dumps(item.target, ensure_ascii=False)
    )
    return EvalRecord(
        id=item.id,
        cluster=item.cluster,
        tags=item.tags,
        repeat=repeat,
        item_sha256=task.sha256,
        scorer=task.scorer.kind,
        score=None,
        target=target,
    )


def _subject(subject: Subject | None, facts: EndpointFacts) -> Subject:
    if subject is None:
        return Subject(name=facts.model, endpoint=facts)
    return subject.model_copy(update={"endpoint": facts})


def anchored_clock() -> Clock:
    """Seconds since the epoch that never go back: the wall clock once, then the monotonic one."""
    wall, anchor = time.time(), time.monotonic()
    return lambda: wall + (time.monotonic() - anchor)
