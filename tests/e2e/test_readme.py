"""What the README tells people to type works, word for word but for the port."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from servegate.endpoint import request
from servegate.errors import InfrastructureError
from servegate.process import Child, free_ports

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(name: str) -> list[str]:
    return BLOCK.findall((ROOT / name).read_text())


def commands(name: str) -> list[str]:
    return [line for block in blocks(name) for line in block.splitlines() if line.strip()]


def test_both_languages_show_the_same_commands() -> None:
    assert commands("README.md") == commands("README.ko.md")


def test_every_make_target_that_is_named_is_there() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "README.ko.md").read_text()
    named = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert {"demo", "test", "test-all", "bench", "check"} <= named
    for target in named:
        ended = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr


def test_every_link_into_the_repository_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "README.ko.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.timeout(240)
def test_the_parts_can_be_used_as_the_readme_says(tmp_path: Path) -> None:
    block = next(block for block in blocks("README.md") if "servegate gate check" in block)
    activate, start, *rest = block.splitlines()
    assert activate == "source .venv/bin/activate"
    assert start.endswith(" &")
    port = free_ports(1)[0]
    for folder in ("evals", "gates", "loadtest", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "CI": "true"}
    command = start.removesuffix(" &").replace("8000", str(port)).split()
    server = Child("simulator", [str(Path(sys.executable).parent / command[0]), *command[1:]], tmp_path / "log")
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            server.check()
            try:
                if request("GET", f"http://127.0.0.1:{port}/health", timeout=1)[0] == 200:
                    break
            except InfrastructureError:
                time.sleep(0.05)
        script = "set -euo pipefail\n" + "\n".join(rest).replace("8000", str(port))
        ended = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env={**os.environ, **path}, capture_output=True, text=True
        )
    finally:
        server.stop()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "PASS" in ended.stdout
    assert {"smoke", "evals", "load"} <= {folder.name for folder in (tmp_path / "out").iterdir()}
