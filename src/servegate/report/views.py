"""A verdict in files, one per format that was asked for."""

from __future__ import annotations

from pathlib import Path

from servegate.contract import write_atomic
from servegate.report.backing import Backing
from servegate.report.verdict import Verdict


def write_views(
    verdict: Verdict,
    backing: Backing,
    *,
    summary: Path | None = None,
    junit: Path | None = None,
    html: Path | None = None,
) -> None:
    """Write Markdown, JUnit XML and a page. Raises InfrastructureError when one cannot be written."""
    if summary is not None:
        from servegate.report.markdown import SUMMARY_BYTES, verdict_markdown

        write_atomic(summary, verdict_markdown(verdict, SUMMARY_BYTES, backing).encode())
    if junit is not None:
        from servegate.report.junit import verdict_junit

        write_atomic(junit, verdict_junit(verdict).encode())
    if html is not None:
        from servegate.report.html import document

        write_atomic(html, document(verdict, backing).encode())
