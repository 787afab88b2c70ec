"""What a run says of itself, from an environment and a payload that hold text of strangers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.errors import ConfigError
from servegate.github.run import Pull, Run, from_environment, in_actions

SHA = "a" * 40
ENV = {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "o/r"}


def read(folder: Path, payload: object, **env: str) -> Run:
    path = folder / "event.json"
    path.write_text(json.dumps(payload))
    return from_environment({**ENV, "GITHUB_EVENT_PATH": str(path), **env})


def pull_request(repository: str | None) -> dict[str, Any]:
    repo = None if repository is None else {"full_name": repository}
    return {"pull_request": {"number": 7, "title": "::error::x", "head": {"sha": SHA, "repo": repo}}}


def workflow_run(*listed: int, event: str = "pull_request", repository: str = "mallory/r") -> dict[str, Any]:
    owner = repository.partition("/")[0]
    return {
        "workflow_run": {
            "event": event,
            "head_sha": SHA,
            "head_branch": "patch-1",
            "head_repository": {"full_name": repository, "owner": {"login": owner}},
            "pull_requests": [{"number": number} for number in listed],
        }
    }


@pytest.mark.parametrize(
    ("payload", "pull"),
    [
        (pull_request("o/r"), Pull(7, commit=SHA)),
        (pull_request("mallory/r"), Pull(7, commit=SHA, fork=True)),
        (pull_request(None), Pull(7, commit=SHA, fork=True)),  # the fork was deleted
        ({"issue": {"number": 7, "pull_request": {}}, "comment": {}}, Pull(7)),
        ({"issue": {"number": 7}}, None),
        (workflow_run(7, repository="o/r"), Pull(7, head="o:patch-1", commit=SHA)),
        (workflow_run(), Pull(None, head="mallory:patch-1", commit=SHA, fork=True)),
        (workflow_run(7, 8), Pull(None, head="mallory:patch-1", commit=SHA, fork=True)),
        (workflow_run(event="push"), None),
        ({"ref": "refs/heads/main"}, None),
        ([1], None),
    ],
)
def test_the_pull_request_of_each_event(payload: object, pull: Pull | None, tmp_path: Path) -> None:
    assert read(tmp_path, payload).pull == pull


def test_the_run_knows_its_commit_and_its_page(tmp_path: Path) -> None:
    run = read(tmp_path, pull_request("o/r"), GITHUB_SHA="b" * 40, GITHUB_RUN_ID="12", GITHUB_TOKEN="ghs_secret")
    assert run.commit == SHA  # not the merge commit GitHub tests
    assert run.url == "https://github.com/o/r/actions/runs/12"
    assert "ghs_secret" not in repr(run)
    assert from_environment({**ENV, "GITHUB_SHA": "b" * 40}).commit == "b" * 40
    assert from_environment({**ENV, "GITHUB_SHA": "x"}).commit is None


@pytest.mark.parametrize(
    ("api", "graphql"),
    [
        ("https://api.github.com", "https://api.github.com/graphql"),
        ("https://github.corp.example/api/v3/", "https://github.corp.example/api/graphql"),
    ],
)
def test_an_enterprise_server_has_its_own_addresses(api: str, graphql: str) -> None:
    run = from_environment({**ENV, "GITHUB_API_URL": api})
    assert (run.api, run.graphql) == (api.rstrip("/"), graphql)


@pytest.mark.parametrize(
    "address", ["http://api.github.com", "ftp://x", "https://", "https://user:pw@x", "http://[", "x"]
)
def test_a_token_is_sent_nowhere_in_the_clear(address: str) -> None:
    with pytest.raises(ConfigError, match="begins with https"):
        from_environment({**ENV, "GITHUB_API_URL": address})


@pytest.mark.parametrize("repository", ["", "o", "o/r/x", "../x", "o/r?x", "o/r\n"])
def test_a_repository_is_owner_and_name(repository: str) -> None:
    with pytest.raises(ConfigError, match="GITHUB_REPOSITORY"):
        from_environment({"GITHUB_REPOSITORY": repository})


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_payload_that_cannot_be_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "event.json").write_bytes(content)
    with pytest.raises(ConfigError, match="payload cannot be read"):
        from_environment({**ENV, "GITHUB_EVENT_PATH": str(tmp_path / "event.json")})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["pull_request", "workflow_run", "issue", "number", "head", "sha", "repo", "full_name",
                         "pull_requests", "head_repository", "owner", "login", "event", "head_branch"]),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(payload=JSON)
def test_no_payload_is_too_strange(payload: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    pull = read(tmp_path_factory.mktemp("event"), payload).pull
    assert pull is None or pull.number is None or pull.number > 0


def test_only_github_sets_true() -> None:
    assert in_actions({"GITHUB_ACTIONS": "true"})
    assert not in_actions({"GITHUB_ACTIONS": "1"})
    assert not in_actions({})
