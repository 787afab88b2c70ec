"""Plots of a canary: who got the traffic, how fast and how well it was answered, and what the checks made of it.

All pictures of a story lie over the same time with the same marks, so that they can be read downwards. Colour is
never the only difference: the candidate is thick and square, stable thin and round, series differ by dashes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from servegate.report.format import clean, clock, plural
from servegate.report.records import RequestRecord
from servegate.report.series import (
    MIN_FOR_P50,
    MIN_FOR_P95,
    bin_width,
    bins,
    nearest_rank,
    rates_by_ticks,
    thin,
    with_gaps,
)
from servegate.report.story import BACKWARD, Facts, ReleaseStory, ratio, within
from servegate.report.svg import DASHES, HEX, NARROW, SERIES, WIDE, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 1500
Curves = dict[str, list[tuple[float, float]]]
Rows = list[tuple[float, float, float]]


@dataclass(frozen=True)
class Key:
    """One entry of a legend: words, CSS colour variable, kind of sign and its dashes."""

    label: str
    colour: str
    sign: str
    dashes: str = ""


@dataclass(frozen=True)
class Plot:
    """One picture in two widths, for screens and for phones, with legend and words for those who do not see it."""

    title: str
    note: str
    alt: str
    legend: tuple[Key, ...]
    wide: str
    narrow: str


def slot_colour(slot: str, slots: Sequence[str]) -> str:
    """The CSS variable of a slot's colour."""
    if slot in ("blue", "green"):
        return "slot-a" if slot == "blue" else "slot-b"
    return "slot-a" if list(slots).index(slot) % 2 == 0 else "slot-b"


def timeline_plots(story: ReleaseStory, known: Facts, prefix: str) -> list[Plot]:
    """Weights, latency, errors and evidence of a story with ticks, all over the same time; else nothing.

    Args:
        prefix: makes the identifiers of these pictures unique on the page.
    """
    if not story.ticks or known.length <= 0:
        return []
    records = within(story.records, known.start, known.start + known.length)
    plots = [_weights(story, known, f"{prefix}-w")]
    if records or any(slot.ttft_p50 is not None for tick in story.ticks for slot in tick.slots.values()):
        plots.append(_latency(story, known, records, f"{prefix}-l"))
    if records or any(slot.requests for tick in story.ticks for slot in tick.slots.values()):
        rates = {slot: _rates(story, known, records, slot) for slot in known.slots}
        plots.append(_requests(story, known, rates, f"{prefix}-e"))
        if any(failed for rows in rates.values() for *_, failed in rows):
            plots.append(_failures(story, known, rates, records, f"{prefix}-f"))
    against, towards = _curves(story, known)
    styles = _styles(against, towards)
    if against:
        note = "1 is the limit: a check that reaches it sends the release back."
        plots.append(
            _evidence(story, known, against, styles, "Evidence against the release", note, "limit", f"{prefix}-r")
        )
    if towards:
        note = "Evidence that the release is not worse. Every check must have reached 1 before promotion."
        title = "Evidence for promotion"
        plots.append(_evidence(story, known, towards, styles, title, note, "enough", f"{prefix}-p"))
    return plots


def _curves(story: ReleaseStory, known: Facts) -> tuple[Curves, Curves]:
    """Per check the evidence against the release and for its promotion, as shares of their limits, over time."""
    against: Curves = {}
    towards: Curves = {}
    for tick in story.ticks:
        at = known.since(tick.at)
        for item in tick.evidence:
            against.setdefault(item.check, []).append((at, ratio(item.log_e, item.log_limit)))
            if item.promote_log_e is not None and item.promote_log_limit is not None:
                towards.setdefault(item.check, []).append((at, ratio(item.promote_log_e, item.promote_log_limit)))
    return against, towards


def _styles(against: Curves, towards: Curves) -> dict[str, int]:
    """Check → index of its colour and dashes, the same in both pictures.

    Where there are more checks than can be told apart, those that came closest to a limit.
    """
    peaks = {check: max((y for _, y in [*line, *towards.get(check, ())]), default=0) for check, line in against.items()}
    ranked = sorted(peaks, key=lambda check: -peaks[check])[: len(SERIES)]
    return {check: index for index, check in enumerate(check for check in against if check in ranked)}


def _weights(story: ReleaseStory, known: Facts, prefix: str) -> Plot:
    def draw(axes: Axes, wide: bool) -> None:
        lower = [0.0] * len(story.ticks)
        times = [known.since(tick.at) for tick in story.ticks]
        # The candidate at the bottom: its share is read from zero.
        for slot in reversed(known.slots):
            upper = [low + tick.weights.get(slot, 0) for low, tick in zip(lower, story.ticks, strict=True)]
            colour = HEX[slot_colour(slot, known.slots)]
            mine = slot == known.candidate
            axes.fill_between(times, lower, upper, step="post", color=colour, alpha=0.75 if mine else 0.2, linewidth=0)
            if mine:
                axes.step(times, upper, where="post", color=colour, linewidth=1.8)
            lower = upper
        axes.set_ylim(0, 100)
        axes.set_yticks([0, 25, 50, 75, 100], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        _marks(axes, story, known, wide, labels=True)

    legend = tuple(
        Key(
            f"{_who(story, known, slot)}",
            slot_colour(slot, known.slots),
            "area" if slot == known.candidate else "faint",
        )
        for slot in reversed(known.slots)
    )
    alt = f"Traffic weights over {clock(known.length)} minutes. The candidate had at most {known.share:g} per cent."
    return _plot("Share of traffic", "", alt, legend, draw, 2.1, prefix, head=0.3 + 0.2 * len(_moments(story, known)))


def _latency(story: ReleaseStory, known: Facts, records: Sequence[RequestRecord], prefix: str) -> Plot:
    width = bin_width(known.length)

    def draw(axes: Axes, wide: bool) -> None:
        top = 0.0
        for slot in known.slots:
            colour, mine = HEX[slot_colour(slot, known.slots)], slot == known.candidate
            if records:
                points = [
                    (known.since(r.sent), r.ttft * 1000) for r in records if r.slot == slot and r.ttft is not None
                ]
                _dots(axes, thin(points, MAX_POINTS // len(known.slots) // (1 if wide else 3)), colour, square=mine)
                lines = [(b.middle, b.p50, b.p95) for b in bins(records, known, slot, width)]
                values = sorted(y for _, y in points)
                top = max(top, nearest_rank(values, 0.995) if values else 0)
            else:
                lines = [
                    (known.since(tick.at), tick.slots[slot].ttft_p50, tick.slots[slot].ttft_p95)
                    for tick in story.ticks
                    if slot in tick.slots
                ]
            for which, dashes in ((1, ()), (2, (5, 2.5))):
                line = [(row[0], row[which]) for row in lines]
                xs = [x for x, _ in line]
                ys = [math.nan if y is None else y * 1000 for _, y in line]
                top = max([top, *(y for y in ys if not math.isnan(y))])
                axes.plot(xs, ys, color=colour, linewidth=2.2 if mine else 1.4, dashes=dashes or (None, None), zorder=3)
        axes.set_ylim(0, (top or 1) * 1.08)
        _unit(axes, "ms")
        _marks(axes, story, known, wide)

    legend = []
    for slot in known.slots:
        colour, who = slot_colour(slot, known.slots), _who(story, known, slot)
        legend.append(Key(f"{who}: p50", colour, "thick" if slot == known.candidate else "line"))
        legend.append(Key("p95", colour, "thick" if slot == known.candidate else "line", "5 2.5"))
        if records:
            legend.append(Key("one request", colour, "square" if slot == known.candidate else "dot"))
    note = (
        f"As clients measured it; per {width:g} s, p50 of at least {MIN_FOR_P50} answers, p95 of {MIN_FOR_P95}."
        if records
        else "From the bucket edges of the engines' histograms, for showing only."
    )
    alt = f"Time to first token of {' and '.join(known.slots)} over time: medians, 95th percentiles" + (
        " and single requests." if records else "."
    )
    return _plot("Time to first token", note, alt, tuple(legend), draw, 2.5, prefix)


def _rates(story: ReleaseStory, known: Facts, records: Sequence[RequestRecord], slot: str) -> Rows:
    """Middle of the bin, requests per second, failed requests: by the clients if they were there."""
    width = bin_width(known.length)
    if records:
        return [(b.middle, b.requests / b.seconds, b.failed) for b in bins(records, known, slot, width)]
    return rates_by_ticks(story.ticks, known, slot, width)


def _requests(story: ReleaseStory, known: Facts, rates: dict[str, Rows], prefix: str) -> Plot:
    width = bin_width(known.length)

    def draw(axes: Axes, wide: bool) -> None:
        for slot in known.slots:
            colour, mine = HEX[slot_colour(slot, known.slots)], slot == known.candidate
            line = with_gaps(rates[slot], width, known.length)
            xs, ys = [x for x, *_ in line], [y for _, y, _ in line]
            axes.step(xs, ys, where="mid", color=colour, linewidth=2.2 if mine else 1.4)
        axes.set_ylim(bottom=0)
        axes.margins(y=0.1)
        _unit(axes, "requests/s")
        _marks(axes, story, known, wide)

    legend = tuple(
        Key(_who(story, known, slot), slot_colour(slot, known.slots), "thick" if slot == known.candidate else "line")
        for slot in known.slots
    )
    alt = f"Requests per second on {' and '.join(known.slots)} over time, averages over {width:g} seconds."
    return _plot("Requests", f"Averages over {width:g} s.", alt, legend, draw, 1.7, prefix)


def _failures(
    story: ReleaseStory, known: Facts, rates: dict[str, Rows], records: Sequence[RequestRecord], prefix: str
) -> Plot:
    width = bin_width(known.length)
    nowhere = sum(record.slot not in known.slots and not record.ok for record in records)
    bad = {slot: [(x, failed) for x, _, failed in rates[slot] if failed] for slot in known.slots}

    def draw(axes: Axes, wide: bool) -> None:
        # Side by side, the candidate filled and the others hollow: told apart without colour.
        part = width * 0.8 / len(known.slots)
        for index, slot in enumerate(known.slots):
            mine = slot == known.candidate
            colour = HEX["bad"] if mine else HEX["ink"]
            xs = [x + part * (index + 0.5 - len(known.slots) / 2) for x, _ in bad[slot]]
            face = colour if mine else "none"
            axes.bar(xs, [n for _, n in bad[slot]], part, facecolor=face, edgecolor=colour, linewidth=1.2, zorder=3)
        axes.set_ylim(0, max(n for rows in bad.values() for _, n in rows) * 1.15)
        _unit(axes, f"failed per {width:g} s", whole=True)
        _marks(axes, story, known, wide)

    legend = tuple(
        Key(_who(story, known, slot), "bad" if mine else "ink", "area" if mine else "hollow")
        for slot in known.slots
        for mine in [slot == known.candidate]
        if bad[slot]
    )
    note = f"{plural(nowhere, 'request')} failed before a slot answered, not drawn." if nowhere else ""
    counts = ", ".join(f"{served.failed:,} on {served.slot}" for served in known.served if served.slot)
    alt = f"Failed requests per {width:g} seconds over time: {counts}."
    return _plot("Failed requests", note, alt, legend, draw, 1.2, prefix)


def _evidence(
    story: ReleaseStory,
    known: Facts,
    curves: Curves,
    styles: dict[str, int],
    title: str,
    note: str,
    limit: str,
    prefix: str,
) -> Plot:
    shown = [check for check in curves if check in styles]
    if len(shown) < len(curves):
        note += f" {len(curves) - len(shown)} further checks stayed lower and are not drawn."
    floor, ceiling = -0.5, 1.6
    if any(not floor <= y <= ceiling for check in shown for _, y in curves[check]):
        note += f" Curves are cut at {floor:g} and {ceiling:g}."

    def draw(axes: Axes, wide: bool) -> None:
        for check in shown:
            index = styles[check]
            line = [(x, min(max(y, floor), ceiling)) for x, y in curves[check]]
            dashes = DASHES[index][1]
            axes.step([x for x, _ in line], [y for _, y in line], where="post", color=HEX[SERIES[index]],
                      linewidth=2, dashes=dashes or (None, None), zorder=3)  # fmt: skip
            over = next(((x, y) for x, y in line if y >= 1), None)
            if over is not None:
                axes.plot(*over, marker="o", markersize=7, color=HEX[SERIES[index]], zorder=5)
        lowest = min((y for check in shown for _, y in curves[check]), default=0)
        highest = max((y for check in shown for _, y in curves[check]), default=1)
        axes.set_ylim(max(floor, min(0, lowest)) - 0.05, max(1.2, min(ceiling, highest) + 0.08))
        axes.axhline(1, color=HEX["ink"], linewidth=1.2, zorder=2)
        axes.annotate(limit, (0, 1), (3, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                      color=HEX["ink"], fontsize=9 if wide else 8, va="bottom")  # fmt: skip
        _unit(axes, "share of what is needed")
        axes.set_yticks([0, 0.5, 1])
        _marks(axes, story, known, wide)

    legend = tuple(Key(check, SERIES[styles[check]], "line", DASHES[styles[check]][0]) for check in shown)
    reached = [check for check in curves if any(y >= 1 for _, y in curves[check])]
    alt = f"{title} as a share of its limit, per check. Reached the limit: {', '.join(reached) or 'none'}."
    return _plot(title, note, alt, legend, draw, 2.1, prefix)


def _marks(axes: Axes, story: ReleaseStory, known: Facts, wide: bool, labels: bool = False) -> None:
    """Phases as bands, the defect and the decision as lines; words only on the first picture."""
    size = 9 if wide else 8
    room = known.length * (0.045 if wide else 0.1)
    above: dict[str, Any] = {
        "xycoords": ("data", "axes fraction"),
        "textcoords": "offset points",
        "va": "bottom",
        "fontsize": size,
    }
    for index, span in enumerate(known.spans):
        if index % 2:
            axes.axvspan(span.start, span.end, color=HEX["shade"], linewidth=0, zorder=-2)
        if labels and span.end - span.start > room * max(1, len(span.label) / 5):
            middle = (span.start + span.end) / 2
            axes.annotate(clean(span.label, 24), (middle, 1), (0, 3), ha="center", color=HEX["muted"], **above)
    for row, (at, words, name, dashes) in enumerate(_moments(story, known), 1):
        if not 0 <= at <= known.length:
            continue
        colour = HEX[name]
        axes.axvline(at, color=colour, linewidth=1.4, dashes=dashes or (None, None), zorder=4)
        if labels:
            right = at > known.length / 2
            pointer: dict[str, Any] = {
                "arrowstyle": "-",
                "color": colour,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (float(right), 0),
            }
            offset = (0, 4 + 14 * row)
            side = "right" if right else "left"
            axes.annotate(words, (at, 1), offset, ha=side, color=colour, fontweight="bold", arrowprops=pointer, **above)
    axes.set_xlim(0, known.length)


def _moments(story: ReleaseStory, known: Facts) -> list[tuple[float, str, str, tuple[float, ...]]]:
    """What is marked on every picture: when, words, colour, dashes."""
    found: list[tuple[float, str, str, tuple[float, ...]]] = []
    if story.defect is not None:
        found.append((known.since(story.defect.first_effect), "defect takes effect", "ink", (2, 2)))
    if known.decided is not None:
        back, at = known.decided.phase in BACKWARD, known.since(known.decided.at)
        found.append((at, f"{'rolled back' if back else 'promoted'} {clock(at)}", "bad" if back else "ink", ()))
    return found


def _plot(
    title: str,
    note: str,
    alt: str,
    legend: tuple[Key, ...],
    draw: Callable[[Axes, bool], None],
    height: float,
    prefix: str,
    head: float = 0.27,
) -> Plot:
    wide, narrow = (
        draw_svg(draw, width, height, head, f"{prefix}{tag}") for width, tag in ((WIDE, "w"), (NARROW, "n"))
    )
    return Plot(title, note, alt, legend, wide, narrow)


def _who(story: ReleaseStory, known: Facts, slot: str) -> str:
    mine = slot == known.candidate
    name = story.name if mine else story.stable
    role = "candidate" if mine else "stable"
    return f"{name} ({role}, {slot})" if name else f"{slot} ({role})"


def _unit(axes: Axes, text: str, whole: bool = False) -> None:
    """The unit above the axis, where it can be read without turning the head; large numbers with separators."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.annotate(text, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", ha="left", va="bottom",
                  color=HEX["muted"])  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=whole))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _dots(axes: Axes, points: Sequence[tuple[float, float]], colour: str, square: bool) -> None:
    """Many points as one path of zero-length strokes: a tenth of the size of one element per point."""
    xs = [value for x, _ in points for value in (x, x, math.nan)]
    ys = [value for _, y in points for value in (y, y, math.nan)]
    cap: Any = "projecting" if square else "round"
    # Few points must be found among many, many must not cover the lines.
    alpha = 0.85 if len(points) <= 200 else 0.35
    axes.plot(xs, ys, color=colour, alpha=alpha, linewidth=2.6, solid_capstyle=cap, zorder=2 if square else 1)
