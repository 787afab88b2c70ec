"""What of the pipeline is configured, what is missing or wrong, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from servegate import evals, loadtest
from servegate.config import load
from servegate.endpoint import Endpoint
from servegate.errors import ConfigError, InfrastructureError, ServegateError
from servegate.gates.files import load_policy
from servegate.github.api import Client, RefusedError
from servegate.image.buildah import Buildah
from servegate.image.buildkit import BuildKit
from servegate.image.job import bases
from servegate.metrics.names import known, preflight, read
from servegate.release import Release
from servegate.rollout.plan import load_plan

_PINNED = re.compile(r"^[^@]+@[0-9a-f]{40}$")
_USES = re.compile(r"^\s*(?:-\s+)?uses:\s*(\S+)", re.MULTILINE)
_BASE_VERSION = re.compile(r":v(\d+\.\d+\.\d+)")


ENVIRONMENTS: Mapping[str, bool | None] = {
    "release": True,
    "production": True,
    "staging": None,
    "production-rollback": False,
    "staging-rollback": False,
}
"""Environments that the workflows use, and whether they must have reviewers."""
LIMITED: Mapping[str, str] = {
    "release": "selected, tags v*",
    "production": "selected, tags v*",
    "production-rollback": "selected, the default branch",
}
"""Environments whose identity may change what users get, and what may run in them."""
STORE = "SERVEGATE_STORE"


class State(StrEnum):
    """How it is."""

    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, and what to do about it."""

    area: str
    what: str
    state: State
    found: str
    todo: str = ""


def files(root: Path) -> Iterator[Finding]:
    """Suites, profiles, policies and plans: there, and valid."""
    kinds: tuple[tuple[str, str, Callable[[Path], object]], ...] = (
        ("suite", "evals/suites", evals.load_suite),
        ("profile", "loadtest/profiles", loadtest.load_profile),
        ("policy", "gates", load_policy),
        ("plan", "rollout", load_plan),
    )
    for kind, folder, reader in kinds:
        found = [path for path in sorted((root / folder).glob("*.yaml")) if not _is_place(path)]
        if not found:
            yield Finding("files", kind, State.MISSING, f"no {kind} in {folder}", "servegate init writes an example")
        for path in found:
            yield _valid("files", str(path.relative_to(root)), partial(reader, path))


def image(root: Path) -> Iterator[Finding]:
    """The Dockerfile, the release, and that both mean one version of vLLM."""
    dockerfile, file = root / "Dockerfile", root / "release.yaml"
    versions = set()
    if dockerfile.exists():
        yield _valid("image", "Dockerfile", partial(bases, dockerfile))
        try:
            versions = {found[1] for found in map(_BASE_VERSION.search, bases(dockerfile).values()) if found}
        except ConfigError:  # told above
            versions = set()
    else:
        yield Finding("image", "Dockerfile", State.MISSING, "not there", "servegate init writes it")
    if not file.exists():
        yield Finding("image", "release.yaml", State.MISSING, "not there", "servegate init writes it")
        return
    yield _valid("image", "release.yaml", partial(load, file, Release))
    try:
        engine = load(file, Release).engine
    except ConfigError:  # told above
        return
    if engine.name == "vllm" and versions and versions != {engine.version}:
        yield Finding(
            "image",
            "version of vLLM",
            State.WRONG,
            f"release.yaml says {engine.version}, the Dockerfile {', '.join(sorted(versions))}",
            "make them the same: arguments and metrics are those of a version",
        )


def builder() -> Finding:
    """Whether this machine can build the image."""
    for found in (BuildKit(), Buildah()):
        if found.available():
            return Finding("image", "builder", State.OK, found.name)
    todo = "only needed to build here: install Docker, or buildah and skopeo"
    return Finding("image", "builder", State.UNKNOWN, "no builder on this machine", todo)


def workflows(root: Path) -> Iterator[Finding]:
    """That pull request and release workflows are there and everything foreign is pinned by commit."""
    found = sorted((root / ".github/workflows").glob("*.y*ml"))
    texts = {path: path.read_text("utf-8", "replace") for path in found}
    for name, event in (("ci.yml", "pull requests"), ("release.yml", "releases")):
        if not any(f"/.github/workflows/{name}@" in text or path.name == name for path, text in texts.items()):
            todo = "servegate init --workflows OWNER/REPO@COMMIT writes it"
            yield Finding("workflows", event, State.MISSING, f"nothing calls {name}", todo)
    for path, text in texts.items():
        loose = [uses for uses in _USES.findall(text) if not uses.startswith(("./", "$/")) and not _PINNED.match(uses)]
        where = str(path.relative_to(root))
        if loose:
            yield Finding("workflows", where, State.WRONG, f"not pinned: {loose[0]}", "name a commit, not a tag")
        else:
            yield Finding("workflows", where, State.OK, "everything pinned by commit")


def github(repository: str, client: Client) -> Iterator[Finding]:
    """Settings of the repository: variable, environments and their reviewers, rights of the token."""

    def ask(path: str) -> Any:
        return client.get(f"/repos/{repository}{path}")

    variables = _variables(ask, "/actions")
    if "SERVEGATE_EVAL_URL" in variables:
        yield Finding("github", "SERVEGATE_EVAL_URL", State.OK, "set")
    else:
        todo = "Settings › Secrets and variables › Actions › Variables: the server that is evaluated"
        yield Finding("github", "SERVEGATE_EVAL_URL", State.MISSING, "not set", todo)
    for name, wanted in ENVIRONMENTS.items():
        yield from _environment(name, wanted, ask, variables)
    default = ask("/actions/permissions/workflow").get("default_workflow_permissions")
    yield Finding(
        "github",
        "token's default",
        State.OK if default == "read" else State.WRONG,
        f"{default}",
        "" if default == "read" else "Settings › Actions › General › Workflow permissions: read repository contents",
    )


def _variables(ask: Callable[[str], Any], place: str) -> set[str]:
    """Names of the variables of the repository, or of an environment; 30 are all that one page holds."""
    found: set[str] = set()
    page = 1
    while len(part := ask(f"{place}/variables?per_page=30&page={page}").get("variables", ())) == 30:
        found |= {item["name"] for item in part}
        page += 1
    return found | {item["name"] for item in part}


def _environment(name: str, wanted: bool | None, ask: Callable[[str], Any], repository: Set[str]) -> Iterator[Finding]:
    """An environment: reviewers where it must (True) or must not (False) have them, who may run in it, its store.

    Args:
        repository: names of the variables that all environments have.
    """
    what = f"environment {name}"
    try:
        found = ask(f"/environments/{name}")
    except RefusedError as error:
        if error.status != 404:
            raise
        more = " and add required reviewers" if wanted else ""
        yield Finding("github", what, State.MISSING, "not there", f"Settings › Environments: make `{name}`{more}")
        return
    reviewed = "required_reviewers" in [rule["type"] for rule in found.get("protection_rules", ())]
    said = "has reviewers" if reviewed else "has no reviewers"
    settings = f"Settings › Environments › {name}"
    if wanted is None or reviewed is wanted:
        yield Finding("github", what, State.OK, said)
    else:
        todo = "add required reviewers" if wanted else "remove its reviewers: a rollback must not wait for anybody"
        yield Finding("github", what, State.WRONG, said, f"{settings}: {todo}")
    if name in LIMITED and found.get("deployment_branch_policy") is None:
        todo = f"{settings} › Deployment branches and tags: {LIMITED[name]}"
        yield Finding("github", what, State.WRONG, "a workflow of any branch may run in it", todo)
    if name != "release" and STORE not in repository | _variables(ask, f"/environments/{name}"):
        todo = f"{settings} › Environment variables: {STORE}, such as kubernetes:llm"
        yield Finding("github", what, State.MISSING, f"{STORE} is not set", todo)


def server(endpoint: Endpoint) -> Iterator[Finding]:
    """A running engine: reachable, which version, and whether it has the metrics a rollout looks at."""
    try:
        facts = endpoint.describe()
        status, body = endpoint.get("/metrics")
    except InfrastructureError as error:
        yield Finding("server", endpoint.url, State.MISSING, str(error), "start it, or name another --base-url")
        return
    yield Finding("server", endpoint.url, State.OK, f"{facts.model} on vLLM {facts.version}")
    if status != 200:
        yield Finding("server", "metrics", State.MISSING, f"/metrics answers {status}", "let /metrics through")
        return
    try:
        reading = read(body.decode("utf-8", "replace"))
    except ServegateError as error:
        yield Finding("server", "metrics", State.WRONG, str(error), "is this vLLM's own /metrics?")
        return
    lacking = preflight(reading, sorted(known()), f"vLLM {facts.version}")
    if lacking:
        todo = "a rollout judges without them what it can; compare with docs/prometheus.md"
        yield from (Finding("server", "metrics", State.WRONG, sentence, todo) for sentence in lacking)
    else:
        yield Finding("server", "metrics", State.OK, f"all {len(known())} that a rollout looks at")


def _valid(area: str, what: str, reader: Callable[[], object]) -> Finding:
    try:
        reader()
    except ServegateError as error:
        return Finding(area, what, State.WRONG, str(error), "correct the file")
    return Finding(area, what, State.OK, "valid")


def _is_place(path: Path) -> bool:
    """A file with a kind says where things are, not what is planned."""
    try:
        return re.search(r"^kind:", path.read_text("utf-8"), re.MULTILINE) is not None
    except (OSError, UnicodeDecodeError):  # whoever reads it as a plan tells
        return False


def as_json(found: list[Finding]) -> list[Mapping[str, str]]:
    """For programs."""
    keys = ("area", "what", "state", "found", "todo")
    return [{key: str(getattr(item, key)) for key in keys} for item in found]
