"""What a person sees of an eval: progress, what a suite holds, the answers that were wrong."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console

from servegate.evals.runner import Progress
from servegate.evals.suite import Suite
from servegate.report.format import clean, duration, plural
from servegate.report.records import EvalRecord
from servegate.report.terminal import interactive

_PLAIN_EVERY = 5.0
_WORST = 10


@contextmanager
def shown_progress(name: str) -> Iterator[Callable[[Progress], None]]:
    """Progress on standard error: a bar on a terminal, a line every few seconds elsewhere or when CI is set."""
    console = Console(stderr=True)
    if interactive(console):
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        with Bar(*columns, console=console, transient=True) as bar:
            task = bar.add_task(name, total=None, text="")
            yield lambda progress: bar.update(
                task, total=progress.total, completed=progress.done, text=progress_text(progress)
            )
        return
    last = 0.0

    def line(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PLAIN_EVERY or progress.done == progress.total:
            last = now
            sys.stderr.write(f"{name}: {progress_text(progress)}\n")
            sys.stderr.flush()

    yield line


def progress_text(progress: Progress) -> str:
    """One line: how far, how good so far, how long still."""
    parts = [f"{progress.done} of {progress.total} questions"]
    if progress.score is not None:
        parts.append(f"score {progress.score:.1%}")
    if progress.unscored:
        parts.append(f"{progress.unscored} without a score")
    if progress.left is not None and progress.done < progress.total:
        parts.append(f"about {duration(progress.left)} left")
    return ", ".join(parts)


def describe(suite: Suite) -> list[str]:
    """What a suite holds, one line each."""
    config, items = suite.config, [task.item for task in suite.tasks]
    asked = len(items) * config.repeats
    clusters = {item.cluster for item in items if item.cluster is not None}
    kinds = Counter(task.scorer.kind for task in suite.tasks)
    tags = Counter(tag for item in items for tag in item.tags)
    lines = [f"{config.name}: {plural(len(items), 'item')}, {plural(asked, 'question')}"]
    if config.description:
        lines.append(f"  {clean(config.description, 200)}")
    lines.append(f"  dataset {suite.dataset_sha256}")
    lines.append(f"  suite   {suite.sha256}")
    lines.append("  scorers " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
    lines.append("  tags    " + (", ".join(f"{tag} {count}" for tag, count in tags.most_common()) or "none"))
    if clusters:
        inside = sum(item.cluster is not None for item in items)
        lines.append(f"  {plural(inside, 'item')} in {plural(len(clusters), 'cluster')}; the others stand alone")
    return lines


def listing(suite: Suite) -> Iterator[str]:
    """One line per item: id, scorer, tags, the question."""
    width = max(len(task.item.id) for task in suite.tasks)
    for task in suite.tasks:
        messages = task.item.conversation(None, suite.config.prompt, show_choices=False)
        tags = ",".join(task.item.tags)
        yield f"{task.item.id:<{width}}  {task.scorer.kind:<6}  {tags}  {clean(messages[-1]['content'], 100)}"


def wrong(records: Iterable[EvalRecord]) -> list[str]:
    """The first answers that were not wholly right, one line each, and how many more there are."""
    missed = [record for record in records if record.score is not None and record.score < 1]
    lines = [f"  {record.score:.2f}  {clean(record.id, 60)}: {clean(record.reason, 160)}" for record in missed[:_WORST]]
    if len(missed) > _WORST:
        lines.append(f"  and {len(missed) - _WORST} more in records.jsonl")
    return lines
