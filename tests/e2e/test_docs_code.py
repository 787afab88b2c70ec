"""What the docs tell people to write in Python, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted((ROOT / "docs").glob("*.md"))
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S))
]


def run(block: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", BLOCKS)
def test_it_runs_and_says_something(block: str) -> None:
    assert run(block).strip()


def test_somebody_elses_traffic_is_decided_on() -> None:
    block = next(str(each.values[0]) for each in BLOCKS if "def counted" in str(each.values[0]))
    assert re.match(r"ROLLED_BACK after \d+ s: .*fail", run(block)), run(block)
    healthy = block.replace('if slot == "green" else 0', "if slot == 'nobody' else 0")
    assert healthy != block
    assert "the engine of green does not export ttft" in run(healthy)  # errors alone are not all that the plan judges
