"""What a person sees of a load test: progress, the table of a report, what a profile would send."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from servegate.loadtest.profile import LoadedProfile
from servegate.loadtest.schedule import schedule
from servegate.report.model import Measure, Report

_PLAIN_EVERY = 5.0


def describe(loaded: LoadedProfile) -> list[str]:
    """What a profile would send, one line each."""
    profile = loaded.profile
    rate = profile.arrival.rate
    lines = [f"{profile.name}: {profile.arrival.kind} arrivals, {rate:g} requests/s"]
    if profile.duration is None:
        lines.append("  until stopped")
    else:
        plan = list(schedule(profile, len(loaded.prompts)))
        measured = sum(not item.warm_up for item in plan)
        lines.append(
            f"  {len(plan)} requests in {loaded.finite():g} s: {len(plan) - measured} to warm up, "
            f"{measured} measured; then up to {profile.drain:g} s to drain"
        )
    lines.append(f"  at most {rate * profile.max_tokens:g} output tokens/s, {profile.max_tokens} per answer")
    prompts = f"{len(loaded.prompts)} prompts, sha256 {loaded.prompts_sha256.removeprefix('sha256:')[:12]}"
    lines.append(f"  {prompts}; profile sha256 {loaded.profile_sha256.removeprefix('sha256:')[:12]}")
    if profile.slos is not None:
        slos = profile.slos.model_dump(mode="json", exclude_none=True)
        lines.append("  SLOs: " + ", ".join(f"{name} <= {limit}" for name, limit in slos.items()))
    return lines


@contextmanager
def shown_progress(name: str) -> Iterator[Callable[[str], None]]:
    """Progress on standard error: live on a terminal, a line every few seconds elsewhere or when CI is set."""
    starting = "starting the load process"
    if sys.stderr.isatty() and not os.environ.get("CI"):
        with Console(stderr=True).status(f"{name}: {starting}") as status:
            yield lambda text: status.update(f"{escape(name)}: {escape(text)}")
        return
    sys.stderr.write(f"{name}: {starting}\n")
    last = -_PLAIN_EVERY

    def line(text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PLAIN_EVERY:
            last = now
            sys.stderr.write(f"{name}: {text}\n")
            sys.stderr.flush()

    yield line


def show(report: Report, folder: Path) -> None:
    """Print a load report."""
    slots = sorted({f"@{measure.slot}" for measure in report.measures if measure.slot is not None})
    console = Console(highlight=False)
    console.width = max(console.width, 80 if len(slots) < 2 else 90)  # no number may be cut off
    asked = report.subject.name or ""
    console.print(f"[bold]{escape(report.name)}[/bold] against {escape(asked)}")
    whole = [measure for measure in report.measures if measure.slot is None]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("latency, ms", "p50", "p95", "95 % of p95", "p99", "95 % of p99", "n"):
        table.add_column(heading, justify="left" if heading == "latency, ms" else "right", no_wrap=True)
    by_key = {measure.key: measure for measure in report.measures}
    for name in dict.fromkeys(measure.name for measure in whole if measure.statistic == "p95"):
        for slot in ("", *slots) if len(slots) > 1 else ("",):
            row = [by_key.get(f"{name}.{statistic}{slot}") for statistic in ("p50", "p95", "p99")]
            n = next((str(measure.n) for measure in row if measure), "")
            p50, p95, p99 = row
            table.add_row(f"{name}{slot}", _ms(p50), _ms(p95), _bounds(p95), _ms(p99), _bounds(p99), n)
    console.print(table)
    for measure in whole:
        if measure.unit != "seconds":
            console.print(f"{measure.key}  {_value(measure)}")
    for finding in report.findings:
        mark = "void" if finding.voids else finding.severity
        console.print(f"{mark}: {finding.code}: {escape(finding.message)}")
    console.print(f"report: {escape(str(folder / 'report.json'))}")


def _ms(measure: Measure | None) -> str:
    return "–" if measure is None or measure.value is None else _number(measure.value)


def _bounds(measure: Measure | None) -> str:
    if measure is None or measure.interval is None:
        return "–"
    return f"{_number(measure.interval.low)}–{_number(measure.interval.high)}"


def _number(seconds: float) -> str:
    return f"{seconds * 1000:.{1 if seconds < 0.1 else 0}f}"


def _value(measure: Measure) -> str:
    if measure.value is None:
        return "not measured"
    if measure.unit == "fraction":
        bounds = measure.interval
        around = f" (95 % interval {bounds.low:.2%} to {bounds.high:.2%})" if bounds else ""
        return f"{measure.value:.2%}{around} of {measure.attempted}"
    return f"{measure.value:.2f} {measure.unit}"
