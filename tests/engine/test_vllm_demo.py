"""The demo on two real vLLM servers: a promotion and a rollback, by the same code path as with the simulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from servegate.report.records import CanaryTick, RequestRecord, read_records

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(2400)
def test_a_real_release_is_promoted_and_a_worse_one_rolled_back(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "from servegate.cli import main; main()",
            "demo",
            "--engine",
            "vllm",
            "--output",
            output,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CI": "true"},
        check=False,
    )
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout
    text = (output / "summary.json").read_text()
    print(text)
    summary = json.loads(text)
    healthy, worse = summary["releases"]
    assert (healthy["outcome"], worse["outcome"]) == ("promoted", "rolled_back")
    assert healthy["run"]["failed_requests"] == 0
    assert healthy["candidate"]["requests"] > 20
    assert worse["largest_weight_percent"] <= 95
    assert "first token" in worse["reason"]
    ticks = list(read_records(output / worse["name"] / "timeline.jsonl", CanaryTick))
    assert ticks[-1].phase == "ROLLED_BACK"
    records = list(read_records(output / "traffic" / "records.jsonl", RequestRecord))
    assert {record.slot for record in records if record.ok} == {"blue", "green"}
