"""The workflow run this process is part of, read once from its environment.

The event's payload holds text of strangers (titles, branch names): only numbers, digests and names that have the shape
of one are taken from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from servegate.errors import ConfigError

_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/(?!\.{1,2}\Z)[A-Za-z0-9_.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LOCAL = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Pull:
    """The pull request a run belongs to.

    Attributes:
        number: None where the event does not say it: a `workflow_run` of a fork.
        head: `owner:branch` it comes from, to look the number up by.
        commit: head commit the run is about; None: the event does not say.
        fork: it comes from another repository.
    """

    number: int | None
    head: str | None = None
    commit: str | None = None
    fork: bool = False


@dataclass(frozen=True)
class Run:
    """Where to write, whom to ask, and what the run is about.

    Attributes:
        repository: `owner/name`.
        api, graphql: addresses of the API; a GitHub Enterprise Server has its own.
        token: of the job; never printed.
        event: name of the event, such as `pull_request`.
        workspace: where the repository is checked out.
        summary, output: files GitHub reads after the step.
        commit: the run is about.
        url: page of the run.
        pull: the pull request; None where the event has none.
    """

    repository: str
    api: str = "https://api.github.com"
    graphql: str = "https://api.github.com/graphql"
    token: str | None = field(default=None, repr=False)
    event: str = ""
    workspace: Path = Path()
    summary: Path | None = None
    output: Path | None = None
    commit: str | None = None
    url: str | None = None
    pull: Pull | None = None

    def of_pull(self, number: int) -> Run:
        """The same run, about a pull request a person named."""
        return replace(self, pull=Pull(number))


def in_actions(env: Mapping[str, str]) -> bool:
    """Whether GitHub's runner started this process."""
    return env.get("GITHUB_ACTIONS") == "true"


def from_environment(env: Mapping[str, str]) -> Run:
    """Read the run from the variables GitHub sets.

    Raises:
        ConfigError: a variable that is needed is missing or has no sense.
    """
    repository = env.get("GITHUB_REPOSITORY", "")
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"GITHUB_REPOSITORY is {repository[:80]!r}; expected owner/name. Does this run on GitHub?")
    api = _address("GITHUB_API_URL", env.get("GITHUB_API_URL") or "https://api.github.com")
    graphql = _address("GITHUB_GRAPHQL_URL", env.get("GITHUB_GRAPHQL_URL") or _graphql(api))
    payload = _payload(env.get("GITHUB_EVENT_PATH"))
    pull = _pull(payload, repository)
    commit = pull.commit if pull is not None and pull.commit else _commit(env.get("GITHUB_SHA"))
    server, number = env.get("GITHUB_SERVER_URL", "https://github.com"), env.get("GITHUB_RUN_ID", "")
    return Run(
        repository=repository,
        api=api,
        graphql=graphql,
        token=env.get("GITHUB_TOKEN") or env.get("GH_TOKEN") or None,
        event=env.get("GITHUB_EVENT_NAME", ""),
        workspace=Path(env.get("GITHUB_WORKSPACE") or "."),
        summary=_file(env.get("GITHUB_STEP_SUMMARY")),
        output=_file(env.get("GITHUB_OUTPUT")),
        commit=commit,
        url=f"{server}/{repository}/actions/runs/{number}" if number.isdecimal() else None,
        pull=pull,
    )


def _address(name: str, text: str) -> str:
    try:
        parts = urlsplit(text)
        safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL)
        valid = safe and bool(parts.hostname) and not parts.username
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{name} is {text[:120]!r}; expected an address that begins with https://")
    return text.rstrip("/")


def _graphql(api: str) -> str:
    """github.com answers at /graphql, a GitHub Enterprise Server at /api/graphql beside /api/v3."""
    return (api.removesuffix("/v3") if api.endswith("/api/v3") else api) + "/graphql"


def _payload(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        found = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: the event's payload cannot be read: {type(error).__name__}") from error
    return found if isinstance(found, dict) else {}


def _pull(payload: dict[str, Any], repository: str) -> Pull | None:
    """The pull request of the event, whichever of its shapes it has."""
    pull = payload.get("pull_request")
    if isinstance(pull, dict) and _number(pull) is not None:
        from_ = _text(pull, "head", "repo", "full_name")
        return Pull(_number(pull), commit=_commit(_text(pull, "head", "sha")), fork=from_ != repository)
    issue = payload.get("issue")
    if isinstance(issue, dict) and "pull_request" in issue:
        return Pull(_number(issue))
    run = payload.get("workflow_run")
    if not isinstance(run, dict) or run.get("event") not in ("pull_request", "pull_request_target"):
        return None
    owner, branch = _text(run, "head_repository", "owner", "login"), _text(run, "head_branch")
    listed = run.get("pull_requests")
    first = listed[0] if isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], dict) else {}
    return Pull(
        _number(first),
        head=f"{owner}:{branch}" if owner and branch else None,
        commit=_commit(_text(run, "head_sha")),
        fork=_text(run, "head_repository", "full_name") != repository,
    )


def _text(found: Any, *keys: str) -> str | None:
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None


def _number(found: dict[str, Any]) -> int | None:
    number = found.get("number")
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None


def _commit(text: str | None) -> str | None:
    return text if text and _COMMIT.fullmatch(text) else None


def _file(path: str | None) -> Path | None:
    return Path(path) if path else None
