"""A plot of how soon regressions are found: share of rollouts rolled back, over time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from servegate.contract import write_atomic
from servegate.errors import ConfigError

FORMATS = (".svg", ".png", ".pdf")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")


def check(path: Path) -> None:
    """Refuse a file that no plot can be written to, before anything long is done.

    Raises:
        ConfigError: its format is not one of `FORMATS`.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: a plot is written as {', '.join(FORMATS)}")


def write_plot(path: Path, detected: Mapping[str, tuple[Sequence[float], int]], title: str) -> None:
    """Write the plot; its format follows from the file's name.

    Args:
        detected: per scenario the seconds from the defect to the rollback, rising, and the number of rollouts.

    Raises:
        ConfigError: another format.
    """
    check(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    longest = max((times[-1] for times, _ in detected.values() if times), default=1.0)
    for number, (name, (times, runs)) in enumerate(detected.items()):
        share = [100 * (index + 1) / runs for index in range(len(times))]
        end = share[-1] if share else 0.0
        axes.step(
            [0.0, *times, longest * 1.02],
            [0.0, *share, end],
            where="post",
            label=f"{name} ({end:.0f} %)",
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=("-", "--", ":")[number // len(_COLOURS) % 3],
        )
    axes.set(xlabel="seconds since the defect", ylabel="rolled back, % of rollouts", ylim=(-2, 102), xlim=(0, None))
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.lower()[1:], dpi=150)
    write_atomic(path, drawn.getvalue())
