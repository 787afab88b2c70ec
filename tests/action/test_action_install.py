"""The install step of `action.yml` on a machine that has only Python: pinned wheels, then this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_it_installs_from_its_own_checkout(tmp_path: Path) -> None:
    step = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"][0]
    script = tmp_path / "script.sh"
    script.write_text(step["run"])
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("PIP_")}
    env = {**kept, "HOME": str(tmp_path), "RUNNER_TEMP": str(tmp_path), "SOURCE": str(ROOT), "PYTHON": sys.executable}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    subprocess.run(command, env=env, check=True, timeout=500)
    servegate = tmp_path / "servegate" / "bin" / "servegate"
    ended = subprocess.run(
        [servegate, "gate", "check", "--policy", ROOT / "gates" / "release.yaml", tmp_path / "none.json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ended.returncode == 2
    assert "none.json: cannot be read" in ended.stderr
