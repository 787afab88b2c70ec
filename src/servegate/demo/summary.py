"""The numbers of a demo: for each release its outcome, how fast a defect was undone, and who was hurt.

They come from the clients' own records and from the timeline; the page shows the same facts.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from servegate import __version__
from servegate.report.records import RequestRecord
from servegate.report.story import ReleaseStory, facts


def machine_facts() -> dict[str, str]:
    """Label → value: what the numbers were measured on."""
    model = "unknown"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = f"{pages / 2**30:.0f} GiB"
    except (OSError, ValueError):
        memory = "unknown"
    return {
        "CPU": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": memory,
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "servegate": __version__,
    }


def summary(
    engine: str, stories: Sequence[ReleaseStory], records: Sequence[RequestRecord], wall_seconds: float
) -> dict[str, Any]:
    """The document `summary.json`. A number that was not measured is null."""
    return {
        "schema_version": 1,
        "engine": engine,
        "machine": machine_facts(),
        "wall_seconds": round(wall_seconds, 1),
        "requests": len(records),
        "failed_requests": sum(not record.ok for record in records),
        "releases": [_release(story) for story in stories],
    }


def _release(story: ReleaseStory) -> dict[str, Any]:
    known = facts(story)
    candidate = known.of(known.candidate) if known.candidate else None
    everything = known.of(None)
    to_zero = None
    if story.defect is not None and known.zero is not None:
        to_zero = round(known.zero - known.since(story.defect.first_effect), 2)
    return {
        "name": story.name,
        "release": story.release.identity() if story.release else None,
        "outcome": story.outcome,
        "reason": story.reason,
        "verdict": story.verdict.outcome if story.verdict else None,
        "defect": story.defect.what if story.defect else None,
        "seconds_from_first_effect_to_weight_zero": to_zero,
        "largest_weight_percent": known.share if story.ticks else None,
        "seconds": round(known.length, 1) if story.ticks else None,
        "candidate": {
            "requests": candidate.requests if candidate else None,
            "failed_requests": candidate.failed if candidate else None,
        },
        "run": {
            "requests": everything.requests if everything else None,
            "failed_requests": everything.failed if everything else None,
        },
    }
