"""What an image build asks of its builder, and what the Dockerfile must look like for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from servegate.errors import ConfigError, InfrastructureError
from servegate.image.build import Built, check_room, choose, labels, make_context, markdown
from servegate.image.buildah import Buildah
from servegate.image.buildkit import BuildKit
from servegate.image.job import Job, bases, repository_of
from servegate.image.manifest import pulled_size

DOCKERFILE = Path(__file__).parents[3] / "Dockerfile"


def job(**changed: object) -> Job:
    given: dict[str, Any] = {
        "context": Path("/context"),
        "tag": "ghcr.io/team/chat:v1",
        "variant": "cuda",
        "base": "base@sha256:1",
        "flags_base": "flags@sha256:2",
        "labels": {"a": "x; rm -rf /"},
        "push": True,
        "cache": "ghcr.io/team/chat:buildcache",
        "epoch": 7,
        **changed,
    }
    return Job(**given)


def test_the_dockerfile_pins_both_bases_of_one_version_by_digest() -> None:
    pinned = bases(DOCKERFILE)
    versions = {re.sub(r".*:v([0-9.]+)(-x86_64)?@sha256:.*", r"\1", image) for image in pinned.values()}
    assert set(pinned) == {"cuda", "cpu"}
    assert len(versions) == 1
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", versions.pop())


def test_the_last_stage_unpacks_nothing() -> None:
    last = DOCKERFILE.read_text("utf-8").rpartition("FROM ${BASE}")[2]
    assert "ENTRYPOINT" in last
    assert not re.search(r"^\s*RUN", last, re.MULTILINE)


def test_a_dockerfile_without_digests_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM vllm/vllm-openai:latest AS cuda\n", "utf-8")
    with pytest.raises(ConfigError, match="has no line `FROM IMAGE@sha256:… AS cuda`"):
        bases(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        bases(tmp_path / "none")


@pytest.mark.parametrize(
    ("tag", "repository"),
    [("ghcr.io/team/chat:v1.4.0", "ghcr.io/team/chat"), ("127.0.0.1:5000/a-b/c_d:x", "127.0.0.1:5000/a-b/c_d")],
)
def test_repository(tag: str, repository: str) -> None:
    assert repository_of(tag) == repository


@pytest.mark.parametrize(
    "tag", ["", "chat", "chat:v1", "a/b", "a/B:v1", "a/b:v1\n", "a/b:v1; rm -rf /", "a/b:$(id)", "-a/b:v1"]
)
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(ConfigError, match="is not REGISTRY/NAME:TAG"):
        repository_of(tag)


def test_buildkit_pushes_from_the_builder_with_cache_and_provenance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BuildKit, "_buildx", lambda self: ["docker", "buildx"])
    (command,) = BuildKit().commands(job(), Path("/scratch"))
    assert command[:3] == ["docker", "buildx", "build"]
    assert "--load" not in command
    assert command[-1] == "/context"
    text = " ".join(command)
    assert "--build-arg VARIANT=cuda --build-arg BASE=base@sha256:1 --build-arg FLAGS_BASE=flags@sha256:2" in text
    assert "--cache-to type=registry,ref=ghcr.io/team/chat:buildcache,mode=max,ignore-error=true" in text
    assert "--provenance mode=max --output type=image,push=true,rewrite-timestamp=true" in text
    assert "a=x; rm -rf /" in command  # one argument, whatever is in it
    (dry,) = BuildKit().commands(job(push=False), Path("/scratch"))
    assert dry[dry.index("--output") + 1] == "type=cacheonly"
    assert "--cache-to" not in dry


def test_buildah_builds_and_pushes() -> None:
    build, push = Buildah().commands(job(), Path("/scratch"))
    assert build[:2] == ["buildah", "build"]
    assert build[build.index("--timestamp") + 1] == "7"
    assert build[build.index("--cache-to") + 1] == "ghcr.io/team/chat"
    assert push[-2:] == ["ghcr.io/team/chat:v1", "docker://ghcr.io/team/chat:v1"]
    assert "--tls-verify=false" not in push
    assert all("--tls-verify=false" in command for command in Buildah(insecure=True).commands(job(), Path("/scratch")))
    assert len(Buildah().commands(job(push=False), Path("/scratch"))) == 1


class _Nothing(Buildah):
    def available(self) -> bool:
        return False


def test_no_builder_is_said_with_what_to_install() -> None:
    with pytest.raises(InfrastructureError, match="buildah is not installed; BuildKit comes with Docker"):
        choose([_Nothing()], "buildah")


class _Here(Buildah):
    place = Path("/")

    def storage(self) -> Path:
        return self.place / "not" / "yet"


def test_the_disk_is_looked_at_where_the_layers_go(tmp_path: Path) -> None:
    builder = _Here()
    builder.place = tmp_path
    check_room(builder, "cuda", 1)
    with pytest.raises(InfrastructureError, match=f"the cpu image needs 1000000000 GB of disk at {tmp_path}, found"):
        check_room(builder, "cpu", 10**18)


def test_the_context_has_the_entry_point_and_nothing_else(tmp_path: Path) -> None:
    make_context(DOCKERFILE, tmp_path / "context")
    files = {
        str(path.relative_to(tmp_path / "context")) for path in (tmp_path / "context").rglob("*") if path.is_file()
    }
    assert {"Dockerfile", "src/servegate/serving/__main__.py"} < files
    assert all(name == "Dockerfile" or re.fullmatch(r"src/servegate/serving/\w+\.py", name) for name in files)


def test_the_size_is_what_a_node_pulls() -> None:
    manifest = {"config": {"size": 5}, "layers": [{"size": 100}, {"size": 20}]}
    index = {
        "manifests": [
            {"digest": "sha256:a", "platform": {"architecture": "unknown"}},
            {"digest": "sha256:b", "platform": {"architecture": "amd64"}},
        ]
    }
    registry = {"r@sha256:i": json.dumps(index), "r@sha256:b": json.dumps(manifest), "r@sha256:x": "<html>"}
    assert pulled_size(registry.__getitem__, "r", "sha256:b") == 125
    assert pulled_size(registry.__getitem__, "r", "sha256:i") == 125
    with pytest.raises(InfrastructureError, match="is no manifest"):
        pulled_size(registry.__getitem__, "r", "sha256:x")
    with pytest.raises(InfrastructureError, match="no image for amd64"):
        pulled_size(lambda _: '{"manifests": []}', "r", "sha256:i")


def test_labels_come_from_github_where_it_runs_there() -> None:
    github = {"GITHUB_SHA": "abc", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "team/chat"}
    found = labels("v1", "vllm:v0@sha256:1", github)
    assert {name.rpartition(".")[2]: value for name, value in found.items()} == {
        "version": "v1",
        "revision": "abc",
        "source": "https://github.com/team/chat",
        "name": "vllm:v0",
        "digest": "sha256:1",
    }
    assert "org.opencontainers.image.source" not in labels("v1", "vllm:v0@sha256:1", {})


def test_the_summary_says_time_and_size() -> None:
    built = Built(
        "ghcr.io/team/chat", "ghcr.io/team/chat:v1", "sha256:1", 12_340_000_000, 61.2, "buildkit", "cuda", "b"
    )
    assert "| image | `ghcr.io/team/chat@sha256:1` |" in markdown(built)
    assert "| to pull | 12.34 GB |" in markdown(built)
    assert "| build | 61 s with buildkit |" in markdown(built)
