"""The release a tag stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from servegate.cli.release import command
from servegate.errors import ConfigError
from servegate.release import Engine, Model, Release, pinned

DIGEST = "sha256:" + "a" * 64
RELEASE = Release(
    name="unreleased", model=Model(uri="hf://a/b", served_name="b"), engine=Engine(name="vllm", version="0.29.0")
)


def test_it_has_the_tags_name_and_the_image_by_digest() -> None:
    found = pinned(RELEASE, image=f"ghcr.io/team/chat@{DIGEST}", tag="v1.4.0-rc.1", commit="b" * 40)
    assert found.name == "v1.4.0-rc.1"
    assert found.image is not None
    assert (found.image.repository, found.image.digest) == ("ghcr.io/team/chat", DIGEST)
    assert found.git is not None
    assert (found.git.tag, found.git.commit) == ("v1.4.0-rc.1", "b" * 40)
    assert found.identity() != RELEASE.identity()
    assert Release.model_validate(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    "tag",
    [
        "v1.4",
        "1.4.0",
        "v01.4.0",
        "v1.4.0+build",
        "v1.4.0-",
        "v1.4.0-01",
        "v1.4.0\n",
        "v1.4.0; rm -rf /",
        "v" + "1" * 99,
    ],
)
def test_a_tag_that_is_no_version_is_refused(tag: str) -> None:
    with pytest.raises(ConfigError, match="is not v and a semantic version"):
        pinned(RELEASE, image=f"r@{DIGEST}", tag=tag, commit=None)


@pytest.mark.parametrize("image", ["", "ghcr.io/team/chat:v1", "@" + DIGEST, "r@sha256:abc", f"r@{DIGEST}\n", "r@"])
def test_an_image_without_digest_is_refused(image: str) -> None:
    with pytest.raises(ConfigError, match="a tag moves, a digest does not"):
        pinned(RELEASE, image=image, tag="v1.0.0", commit=None)


def test_a_short_commit_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a full commit hash"):
        pinned(RELEASE, image=f"r@{DIGEST}", tag="v1.0.0", commit="abc")


def test_the_command_writes_what_can_be_read_again(tmp_path: Path) -> None:
    file, output = Path(__file__).parents[3] / "examples/release.yaml", tmp_path / "release.json"
    said = ["pin", str(file), "--image", f"r@{DIGEST}", "--tag", "v2.0.0", "--output", str(output)]
    done = CliRunner().invoke(command, said)
    assert done.exit_code == 0
    assert done.output == f"v2.0.0  {Release.read(output).identity()}\n"
