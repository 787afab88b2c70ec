"""A canary as it happens: a panel for a person who watches, lines for a log.

The view is fed with the ticks the controller writes anyway and reads no clock: what it shows is what was decided
on, and a recorded timeline can be shown again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from servegate.report.format import clean, clock, count, duration, number, percent
from servegate.report.records import CanaryTick, Evidence, SlotTick
from servegate.report.story import BACKWARD, FORWARD, ratio
from servegate.report.terminal import ASCII, bar, encodable, glyphs, interactive, say

QUIET_SECONDS = 5.0
WINDOW = 15
FULL_WIDTH = 100


@dataclass(frozen=True)
class PlanFacts:
    """What the view must know of the plan.

    Args:
        steps: the candidate's weight at each step, per cent, ascending, such as (1, 10, 50, 95, 100).
        releases: slot → name of the release in it.
        step_seconds: least length of each step; empty when there is none.
        name: what is rolled out, for the title.
    """

    steps: tuple[float, ...]
    releases: Mapping[str, str]
    step_seconds: tuple[float, ...] = ()
    name: str = ""


@dataclass
class _Totals:
    """What a slot did since the rollout began, and of late."""

    requests: int = 0
    failures: int = 0
    recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    last: SlotTick = field(default_factory=SlotTick)
    ttft: tuple[float | None, float | None] = (None, None)

    def add(self, at: float, tick: SlotTick) -> None:
        self.last = tick
        if tick.requests is not None:
            self.requests += tick.requests
            self.failures += tick.failures or 0
            self.recent.append((at, tick.requests))
        if tick.ttft_p50 is not None:
            self.ttft = (tick.ttft_p50, tick.ttft_p95)

    @property
    def rate(self) -> float | None:
        """Requests per second over the last ticks."""
        if len(self.recent) < 2 or self.recent[-1][0] <= self.recent[0][0]:
            return None
        # The first entry counts what came before the stretch that is looked at.
        return (sum(n for _, n in self.recent) - self.recent[0][1]) / (self.recent[-1][0] - self.recent[0][0])

    @property
    def error_rate(self) -> float | None:
        """Share of failed requests so far."""
        return self.failures / self.requests if self.requests else None


class CanaryView:
    """Call it with each tick. Use as a context manager, or call `close`, so that the terminal is given back.

    Args:
        plan: steps and names.
        console: where to; standard output when None.
    """

    def __init__(self, plan: PlanFacts, console: Console | None = None) -> None:
        self.plan = plan
        self.console = console or Console()
        self._watched = interactive(self.console)
        self._signs = glyphs(self.console)
        self._live: Live | None = None
        self._totals: dict[str, _Totals] = {}
        self._reasons: deque[tuple[float, str]] = deque(maxlen=3)
        self._need: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._start: float | None = None
        self._tick: CanaryTick | None = None
        self._step_at = self._said_at = 0.0
        self._reached = 0
        self._candidate: str | None = None

    def __call__(self, tick: CanaryTick) -> None:
        """Show one tick."""
        changed = self._take(tick)
        if self._watched:
            if self._live is None:
                self._live = Live(console=self.console, auto_refresh=False)
                self._live.start()
            self._live.update(self.panel(), refresh=True)
            return
        lines = []
        if changed or (tick.reason and self._reasons and self._reasons[-1][0] == tick.at):
            lines.append(self._plain_change(tick))
        if tick.at - self._said_at >= QUIET_SECONDS or changed:
            self._said_at = tick.at
            if not changed:
                lines.append(self._plain_status(tick))
        if lines:
            say(self.console, lines)

    def close(self) -> None:
        """Leave the last picture and give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> CanaryView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def panel(self) -> Panel:
        """The picture of the last tick. Raises ValueError before the first."""
        tick = self._tick
        if tick is None:
            raise ValueError("no tick yet")
        parts: list[Text | Table] = [self._ribbon(tick), self._status(tick), Text(), self._weights(tick)]
        if self._totals:
            parts += [Text(), self._slots(tick)]
        if tick.evidence:
            parts += [Text(), self._evidence(tick)]
        parts += [Text(), *(Text(self._fit(f"{clock(self._since(at))}  {why}"), "dim") for at, why in self._reasons)]
        title = Text(self._fit(f"canary {clean(self.plan.name, 60)}".strip()), "bold")
        style = "red" if tick.phase in BACKWARD else "green" if tick.phase in FORWARD else "cyan"
        return Panel(
            Group(*parts), title=title, title_align="left", border_style=style, width=min(self.console.width, 120)
        )

    def _take(self, tick: CanaryTick) -> bool:
        """Remember a tick; whether phase or step changed."""
        before = self._tick
        if self._start is None:
            self._start = self._step_at = tick.at
        self._tick = tick
        self._candidate = tick.candidate or self._candidate
        for slot, did in tick.slots.items():
            self._totals.setdefault(slot, _Totals()).add(tick.at, did)
        if tick.reason and (not self._reasons or self._reasons[-1][1] != clean(tick.reason)):
            self._reasons.append((tick.at, clean(tick.reason)))
        changed = before is None or (before.phase, before.step) != (tick.phase, tick.step)
        if changed:
            self._step_at = tick.at
            self._need.clear()
        missing = self._missing(tick.evidence)
        if missing is not None:
            self._need.append((tick.at, missing))
        self._reached = self._position(tick)
        return changed

    def _position(self, tick: CanaryTick) -> int:
        """Index in the ribbon: 0 is preparing, 1 the first step. A rollback stays where it happened."""
        if tick.phase in FORWARD:
            return len(self.plan.steps)
        if tick.phase in BACKWARD:
            return self._reached
        if tick.step is not None and tick.phase not in ("PENDING", "PREPARING"):
            return min(tick.step + 1, len(self.plan.steps))
        weight = tick.weights.get(self._candidate or "", 0.0)
        return sum(step <= weight for step in self.plan.steps) if weight > 0 else 0

    @staticmethod
    def _missing(evidence: tuple[Evidence, ...]) -> float | None:
        """How much of the evidence for promotion the slowest check still lacks, as a share."""
        wanted = [(item.promote_log_e, item.promote_log_limit) for item in evidence]
        lacks = [1 - ratio(e, limit) for e, limit in wanted if e is not None and limit is not None]
        return max(0.0, max(lacks)) if lacks else None

    def time_left(self) -> str:
        """Until promotion: an estimate where evidence grows steadily, else what the plan takes at least."""
        tick = self._tick
        if tick is None or tick.phase in FORWARD or tick.phase in BACKWARD:
            return ""
        if tick.phase == "HELD":
            return "held"
        now = max(0, self._reached - 1)
        rest = self.plan.step_seconds[now:]
        least = max(0.0, sum(rest) - (tick.at - self._step_at if self._reached else 0.0)) if rest else 0.0
        if len(self._need) >= 5:
            (t0, n0), (t1, n1) = self._need[0], self._need[-1]
            if n1 > 0 and n0 > n1 and t1 > t0:
                return f"about {duration(max(least, n1 * (t1 - t0) / (n0 - n1)))} left"
        return f"at least {duration(least)} left" if rest else ""

    # --- a person watches -------------------------------------------------------------------------------------

    def _ribbon(self, tick: CanaryTick) -> Text:
        names = ["PREPARING", *(f"{number(step)} %" for step in self.plan.steps)]
        line = Text(no_wrap=True)
        for index, name in enumerate(names):
            if index:
                line.append(f" {self._signs.arrow} ", "dim")
            if index == self._reached and tick.phase in BACKWARD:
                line.append(f"[{self._signs.failed} {name}]", "bold red")
            elif index < self._reached or tick.phase in FORWARD:
                line.append(f"{self._signs.done} {name}", "green")
            elif index == self._reached:
                line.append(f"[{name}]", "bold reverse")
            else:
                line.append(name, "dim")
        return line

    def _status(self, tick: CanaryTick) -> Text:
        line = Text(tick.phase.replace("_", " "), "bold", no_wrap=True)
        line.append(
            f"  for {duration(tick.at - self._step_at)}, {clock(self._since(tick.at))} since the start", "default"
        )
        left = self.time_left()
        return line.append(f", {left}" if left else "", "default")

    def _weights(self, tick: CanaryTick) -> Table:
        table = Table.grid(padding=(0, 2))
        width = 30 if self.console.width >= FULL_WIDTH else 22
        for slot in self._order(tick):
            weight = tick.weights.get(slot, 0.0)
            name = Text(self._name(slot), no_wrap=True, overflow="ellipsis")
            table.add_row(
                Text(slot, "bold"),
                name,
                self._role(tick, slot),
                bar(weight / 100, width, self._signs),
                f"{number(weight)} %",
            )
        return table

    def _slots(self, tick: CanaryTick) -> Table:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        full = self.console.width >= FULL_WIDTH
        names = ["slot", "requests", "req/s", "failed", "errors", "TTFT p50/p95 ms", "run/wait", "ready"]
        for index, name in enumerate((["slot", "release", "role", *names[1:]]) if full else names):
            table.add_column(name, justify="left" if index == 0 or (full and index < 3) else "right", no_wrap=True)
        for slot in self._order(tick):
            did = self._totals.get(slot, _Totals())
            ready = {True: self._signs.done, False: self._signs.failed, None: self._signs.doubt}[did.last.ready]
            rate = did.rate
            p50, p95 = did.ttft
            cells = [
                self._dash(count(did.requests) if did.recent else None),
                self._dash(None if rate is None else number(round(rate, 1))),
                self._dash(count(did.failures) if did.recent else None),
                self._dash(None if did.error_rate is None else percent(did.error_rate)),
                self._dash(None if p50 is None else f"{number(p50 * 1000)}/{self._ms(p95)}"),
                f"{self._gauge(did.last.running)}/{self._gauge(did.last.waiting)}",
                ready,
            ]
            lead = [slot, self._name(slot), self._role(tick, slot)] if full else [slot]
            style = "bold red" if did.failures and slot == self._candidate else ""
            table.add_row(*lead, *cells, style=style)
        return table

    def _evidence(self, tick: CanaryTick) -> Table:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        width = 18 if self.console.width >= FULL_WIDTH else 10
        table.add_column("evidence", no_wrap=True, overflow="ellipsis", max_width=26)
        for name in ("to roll back", "to promote"):
            table.add_column(name, no_wrap=True)
        for item in tick.evidence:
            against = ratio(item.log_e, item.log_limit)
            table.add_row(
                self._fit(clean(item.check, 40)),
                self._gauge_bar(against, width, "red", "LIMIT"),
                self._promote(item, width),
            )
        return table

    def _promote(self, item: Evidence, width: int) -> Text:
        if item.promote_log_e is None or item.promote_log_limit is None:
            return Text(self._dash(None), "dim")
        return self._gauge_bar(ratio(item.promote_log_e, item.promote_log_limit), width, "green", "enough")

    def _gauge_bar(self, share: float, width: int, style: str, full: str) -> Text:
        line = Text(bar(share, width, self._signs), style if share > 0 else "dim")
        note = f" {max(0, share) * 100:.0f} %" if share < 1 else f" {full}"
        return line.append(note, f"bold {style}" if share >= 1 else "default")

    # --- a log ------------------------------------------------------------------------------------------------

    def _plain_change(self, tick: CanaryTick) -> str:
        weights = ", ".join(f"{slot} {number(tick.weights.get(slot, 0.0))} %" for slot in self._order(tick))
        step = f" {self._reached}/{len(self.plan.steps)}" if tick.phase == "STEP" else ""
        why = f": {clean(tick.reason)}" if tick.reason else ""
        return f"[{clock(self._since(tick.at))}] {tick.phase}{step}, weights {weights}{why}"

    def _plain_status(self, tick: CanaryTick) -> str:
        parts = []
        for slot in self._order(tick):
            did = self._totals.get(slot)
            if did is None:
                continue
            p50, p95 = did.ttft
            ttft = f", TTFT {self._ms(p50)}/{self._ms(p95)} ms" if p50 is not None else ""
            parts.append(f"{slot} {count(did.requests)} requests, {count(did.failures)} failed{ttft}")
        against = [
            f"{clean(item.check, 40)} {max(0, ratio(item.log_e, item.log_limit)) * 100:.0f} %" for item in tick.evidence
        ]
        if against:
            parts.append("of the rollback limit: " + ", ".join(against))
        left = self.time_left()
        told = "; ".join([*parts, *([left] if left else [])])
        return f"[{clock(self._since(tick.at))}] {tick.phase}" + (f": {told}" if told else "")

    # --- words ------------------------------------------------------------------------------------------------

    def _order(self, tick: CanaryTick) -> list[str]:
        slots = {*tick.weights, *tick.slots, *self.plan.releases}
        return sorted(slots, key=lambda slot: (slot == self._candidate, slot))

    def _role(self, tick: CanaryTick, slot: str) -> str:
        return "stable" if slot == tick.stable else "candidate" if slot == tick.candidate else "idle"

    def _name(self, slot: str) -> str:
        return self._fit(clean(self.plan.releases.get(slot, ""), 24))

    def _since(self, at: float) -> float:
        return at - (self._start or 0.0)

    def _ms(self, seconds: float | None) -> str:
        return self._dash(None if seconds is None else number(seconds * 1000))

    def _gauge(self, value: float | None) -> str:
        return self._dash(None if value is None else number(value))

    def _dash(self, text: str | None) -> str:
        return text if text is not None else "-" if self._signs is ASCII else "–"

    def _fit(self, text: str) -> str:
        return encodable(text, self.console)
