"""The list of what an image holds, from a program that stands in for syft."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servegate.errors import ConfigError, InfrastructureError
from servegate.image.sbom import check_room, markdown, read, split, write

DIGEST = "sha256:" + "a" * 64
IMAGE = f"ghcr.io/team/chat@{DIGEST}"


def bill(**changed: Any) -> dict[str, Any]:
    libraries = [("pkg:pypi/vllm@0.33.0", "0.33.0"), ("pkg:deb/debian/bash@5.2", "5.2"), ("pkg:pypi/a@1", "1")]
    return {
        "bomFormat": "CycloneDX",
        "metadata": {
            "component": {"type": "container", "name": "ghcr.io/team/chat", "version": DIGEST},
            "tools": {"components": [{"name": "syft", "version": "1.57.0"}]},
        },
        "components": [{"purl": purl, "version": version} for purl, version in libraries] + [{"type": "file"}],
        **changed,
    }


def test_it_is_read_by_kind_with_the_engine() -> None:
    listed = read(json.dumps(bill()).encode(), "ghcr.io/team/chat", DIGEST)
    assert listed.packages == {"deb": 1, "pypi": 2}
    assert (listed.engine, listed.tool) == ("0.33.0", "syft 1.57.0")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no JSON", "no CycloneDX document"),
        (b"[" * 100_000, "no CycloneDX document"),
        (b'{"bomFormat": "CycloneDX"}', "no CycloneDX document"),
        (b'{"metadata": {"component": [], "tools": {"components": []}}}', "no CycloneDX document"),
        (json.dumps(bill(components=[])).encode(), "no package was found"),
        (json.dumps(bill()).replace("a" * 64, "b" * 64).encode(), "and not of sha256:aaaa"),
    ],
)
def test_what_is_no_list_of_this_image_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(InfrastructureError, match=said):
        read(data, "ghcr.io/team/chat", DIGEST)


@pytest.mark.parametrize("reference", ["ghcr.io/team/chat:v1", "chat", f"--config@{DIGEST}", f"{IMAGE}\n", ""])
def test_an_image_is_named_by_its_digest(reference: str) -> None:
    with pytest.raises(ConfigError, match="listed by its digest"):
        split(reference)


def test_the_room_for_the_unpacked_image_is_looked_at_first(tmp_path: Path) -> None:
    check_room(1, tmp_path)
    with pytest.raises(InfrastructureError, match=r"needs 3000000000\.0 GB of disk"):
        check_room(10**18, tmp_path)


def test_what_an_image_says_of_itself_is_no_markup() -> None:
    hostile = [{"purl": "pkg:pypi/vllm@1", "version": "1 | [x](http://evil.test) <img src=x>"}, {"purl": "pkg:<b>/a@1"}]
    shown = markdown(read(json.dumps(bill(components=hostile)).encode(), "ghcr.io/team/chat", DIGEST))
    rows = shown.replace("\\|", "").splitlines()[2:]
    assert {row.count("|") for row in rows} == {3}
    assert "<img" not in shown
    assert "<b>" not in shown
    assert "](http" not in shown


def program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "syft"
    path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    path.chmod(0o755)
    return str(path)


def test_the_command_writes_the_list_and_a_summary(tmp_path: Path) -> None:
    (tmp_path / "made.json").write_text(json.dumps(bill()), "utf-8")
    syft = program(
        tmp_path, f'for last; do :; done; cp {tmp_path}/made.json "${{last#*=}}"; echo "$@" > {tmp_path}/call'
    )
    output, summary = tmp_path / "out/sbom.json", tmp_path / "summary.md"
    output.parent.mkdir()
    servegate = str(Path(sys.executable).with_name("servegate"))
    arguments = ["image", "sbom", IMAGE, "--syft", syft, "--output", str(output), "--summary", str(summary), "--json"]
    done = subprocess.run([servegate, *arguments], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["packages"] == {"deb": 1, "pypi": 2}
    assert json.loads(output.read_text("utf-8")) == bill()
    assert "| packages | 1 deb, 2 pypi |" in summary.read_text("utf-8")
    assert (tmp_path / "call").read_text("utf-8").startswith(f"scan registry:{IMAGE} ")


@pytest.mark.parametrize(("script", "said"), [("exit 1", "ended with status 1"), ("exit 0", "wrote no list")])
def test_a_program_that_fails_or_writes_nothing_leaves_no_list(tmp_path: Path, script: str, said: str) -> None:
    with pytest.raises(InfrastructureError, match=said):
        write(IMAGE, tmp_path / "sbom.json", program(tmp_path, script))
    assert not (tmp_path / "sbom.json").exists()


def test_without_the_program_it_says_where_it_comes_from() -> None:
    with pytest.raises(InfrastructureError, match="go install github"):
        write(IMAGE, Path("sbom.json"), "no-such-syft")
