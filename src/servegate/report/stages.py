"""The stages before the canary: one line each, with the time they took.

On a terminal the present stage is a line that moves; in a log a stage is announced, speaks up now and then, and
ends with its result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from servegate.report.format import clean, duration
from servegate.report.terminal import encodable, glyphs, interactive, say

QUIET_SECONDS = 5.0


class Stages:
    """Prints stages as they come. One stage at a time; a stage that is started ends the one before as failed.

    Args:
        console: where to; standard output when None.
        now: a monotonic clock, seconds.
    """

    def __init__(self, console: Console | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.console = console or Console()
        self._now = now
        self._watched = interactive(self.console)
        self._signs = glyphs(self.console)
        self._stage = self._text = ""
        self._began = self._said = 0.0
        self._live: Live | None = None

    def start(self, stage: str) -> None:
        """A stage begins."""
        if self._stage:
            self.done(self._stage, ok=False, summary="did not finish")
        self._stage, self._text = clean(stage, 60), ""
        self._began = self._said = self._now()
        if self._watched:
            self._live = Live(get_renderable=self._line, console=self.console, refresh_per_second=8, transient=True)
            self._live.start()
        else:
            say(self.console, [f"{self._stage} {self._signs.dot * 3}"])

    def update(self, text: str) -> None:
        """What the stage is doing, such as `43/80`."""
        self._text = clean(text, 200)
        if not self._watched and self._stage and self._now() - self._said >= QUIET_SECONDS:
            self._said = self._now()
            say(self.console, [f"{self._stage} {self._text}, {duration(self._now() - self._began)}"])

    def done(self, stage: str, ok: bool, summary: str = "") -> None:
        """The stage ends; `summary` such as `6/6`."""
        self._stop()
        seconds = f" {duration(self._now() - self._began)}" if self._stage else ""
        self._stage = ""
        sign = self._signs.done if ok else self._signs.failed
        text = " ".join(part for part in (clean(stage, 60), sign, clean(summary, 400)) if part)
        if self._watched:
            line = Text(f"{sign} ", "green" if ok else "bold red")
            line.append(clean(stage, 60), "bold").append(f"  {clean(summary, 400)}").append(seconds, "dim")
            line.plain = encodable(line.plain, self.console)
            self.console.print(line, soft_wrap=True)
        else:
            say(self.console, [text + seconds])

    def note(self, text: str) -> None:
        """A line between the stages."""
        if self._watched:
            self.console.print(Text(encodable(clean(text), self.console)), soft_wrap=True)
        else:
            say(self.console, [clean(text)])

    def close(self) -> None:
        """Give the terminal back; a stage still running is left without a result."""
        self._stop()
        self._stage = ""

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._stage:
            self.done(self._stage, ok=False, summary="interrupted" if kind is KeyboardInterrupt else "stopped")
        self.close()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self) -> Table:
        table = Table.grid(padding=(0, 1))
        line = Text(encodable(f"{self._stage}  {self._text}".rstrip(), self.console), no_wrap=True, overflow="ellipsis")
        spinner = Spinner("dots" if self._signs.done == "✓" else "line")
        table.add_row(spinner, line, Text(duration(self._now() - self._began), "dim"))
        return table
