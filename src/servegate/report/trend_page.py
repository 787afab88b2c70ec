"""A trend as a page."""

from __future__ import annotations

from collections.abc import Sequence

from servegate import __version__
from servegate.report.html import environment
from servegate.report.trend import Trend, said


def trend_page(found: Trend) -> str:
    """The page of a trend: a picture and a sentence per measure, and the table of the runs."""
    pictures = [
        (
            series,
            said(series, found.runs),
            _line(series.values),
            series.scan.after if series.changed and series.scan else 0,
        )
        for series in found.series
    ]
    shown = {"title": f"Trend of {found.name}", "trend": found, "pictures": pictures}
    return environment().get_template("trend.html.j2").render(**shown, tool=f"servegate {__version__}")


def _line(values: Sequence[float | None], width: float = 640, height: float = 120) -> list[tuple[float, float] | None]:
    """Points of a picture, from the top left; None where a run measured nothing."""
    known = [value for value in values if value is not None]
    low, span = min(known, default=0.0), (max(known, default=0.0) - min(known, default=0.0)) or 1.0
    step = width / max(1, len(values) - 1)
    return [
        None if value is None else (round(index * step, 1), round(height - (value - low) / span * height, 1))
        for index, value in enumerate(values)
    ]
