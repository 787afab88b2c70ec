"""The tables and the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rollout_bench import cells, peers
from rollout_bench.traffic import RATES, SECONDS, TICK, Floats

Settings = list[tuple[str, "peers.Thresholds | peers.Judge"]]


def row(cell: cells.Cell, tuned: Settings) -> dict[str, Any]:
    """What the tables say of a cell; seconds count from the onset of the defect."""
    onset = cell.scenario.onset
    ours = cell.detected
    best = min(
        ((float(np.median(cells.judge(tool, how, cell))) - onset, tool) for tool, how in tuned),
        default=(np.inf, ""),
    )
    found: dict[str, Any] = {
        "scenario": cell.scenario.name,
        "broken": cell.scenario.broken,
        "rate": cell.rate,
        "rolled_back": float(np.isfinite(ours).mean()),
        "by": {check: float(np.isfinite(when).mean()) for check, when in cell.ours.items()},
        "documented": {
            tool: float(np.isfinite(cells.judge(tool, how, cell)).mean()) for tool, how in peers.DOCUMENTED.items()
        },
        "tuned": {
            tool: max(
                (float(np.isfinite(cells.judge(name, how, cell)).mean()) for name, how in tuned if name == tool),
                default=None,
            )
            for tool in peers.DOCUMENTED
        },
    }
    if cell.scenario.broken:
        found |= {
            "median": _median(ours, onset),
            "known": _median(cell.known, onset),
            "fair": _median(cell.fair, onset),
            "quiet": _median(cell.quiet, onset),
            "peer": None if np.isinf(best[0]) else best[0],
            "peer_tool": best[1] if np.isfinite(best[0]) else "",
        }
        found["misses"] = misses(found)
    return found


def misses(found: dict[str, Any]) -> list[str]:
    """Which targets a cell of a broken release misses."""
    median, fair, peer = found["median"], found["fair"], found["peer"]
    missed = []
    if fair is not None and fair < SECONDS / 3 and found["rolled_back"] < 0.99:
        missed.append("power")
    if peer is not None and (median is None or median > peer / 2):
        missed.append("peer")
    if fair is not None and fair > 4 * TICK and (median is None or median > 2 * fair):
        missed.append("limit")
    return missed


def _median(when: Floats, onset: float) -> float | None:
    value = float(np.median(when)) - onset
    return value if np.isfinite(value) else None


def tables(rows: list[dict[str, Any]], tuned: dict[float, Settings]) -> str:
    """All tables as Markdown."""
    heads = " | ".join(f"{rate:g}/s" for rate in RATES)
    rule = "|---" * (len(RATES) + 1) + "|"
    lines = [f"| healthy: rolled back, % | {heads} |", rule]
    lines += _lines(rows, False, lambda found: f"{100 * found['rolled_back']:.1f}")
    lines += ["", f"| broken: median s (power %) | {heads} |", rule]
    lines += _lines(rows, True, lambda found: f"{_s(found['median'])} ({100 * found['rolled_back']:.0f}){_mark(found)}")
    lines += ["", f"| limits, s: all known / fair / fair and known to be quiet | {heads} |", rule]
    lines += _lines(rows, True, lambda found: "/".join(_s(found[key]) for key in ("known", "fair", "quiet")))
    lines += ["", f"| best tuned peer, s | {heads} |", rule]
    lines += _lines(rows, True, lambda found: _s(found["peer"]) + _short(found["peer_tool"]))
    lines += ["", f"| healthy, documented settings: Flagger/Argo/Kayenta, % | {heads} |", rule]
    lines += _lines(
        rows, False, lambda found: "/".join(f"{100 * found['documented'][t]:.0f}" for t in peers.DOCUMENTED)
    )
    lines += ["", "Tuned settings:", ""]
    lines += [f"* {rate:g}/s {tool}: {how}" for rate, found in tuned.items() for tool, how in found]
    return "\n".join(lines)


def _lines(rows: list[dict[str, Any]], broken: bool, text: Any) -> list[str]:
    names = list(dict.fromkeys(found["scenario"] for found in rows if found["broken"] == broken))
    by = {(found["scenario"], found["rate"]): found for found in rows}
    return [f"| {name} | " + " | ".join(text(by[name, rate]) for rate in RATES) + " |" for name in names]


def _s(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _short(tool: str) -> str:
    return f" {tool[0]}" if tool else ""


def _mark(found: dict[str, Any]) -> str:
    signs = {"power": "ᵖ", "peer": "ʷ", "limit": "ˡ"}
    return "".join(signs[miss] for miss in found["misses"])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Medians over the rate, one panel per broken scenario: ours, fair limit, best tuned peer."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(found["scenario"] for found in rows if found["broken"]))
    figure, axes = pyplot.subplots(4, 4, figsize=(12, 11), sharex=True, sharey=True)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        mine = [found for found in rows if found["scenario"] == name]
        for key, style, label in (
            ("median", "o-", "servegate"),
            ("fair", "--", "fair limit"),
            ("peer", "s:", "best tuned peer"),
        ):
            values = [np.nan if found[key] is None else max(found[key], TICK) for found in mine]
            axis.plot([found["rate"] for found in mine], values, style, label=label, markersize=4)
        axis.set(xscale="log", yscale="log", title=name, ylim=(4, SECONDS))
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    figure.supxlabel("requests/s on both slots")
    figure.supylabel("median seconds until rollback")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
