"""One comment per gate: found again, updated, never taken from somebody else."""

from __future__ import annotations

import pytest
from github_server import BOT, STRANGER, GitHub, pull
from hypothesis import given
from hypothesis import strategies as st

from servegate.errors import InfrastructureError
from servegate.github.api import Client, RefusedError
from servegate.github.comment import MovedError, find_pull, marker, upsert
from servegate.github.run import Pull

SHA, OTHER = "a" * 40, "b" * 40


def test_the_first_run_writes_and_the_second_updates(github: GitHub, client: Client) -> None:
    for index in range(120):
        github.write(STRANGER, f"chat {index}")
    first = upsert(client, "o/r", 7, "release", "one")
    second = upsert(client, "o/r", 7, "release", "two")
    assert (first.created, second.created) == (True, False)
    assert first.url == second.url == github.comments[120]["html_url"]
    assert github.bodies(BOT) == ["<!-- servegate verdict release -->\ntwo"]


def test_several_gates_have_a_comment_each(github: GitHub, client: Client) -> None:
    for key in ("quality", "latency", "quality"):
        upsert(client, "o/r", 7, key, key)
    assert [body.partition("\n")[2] for body in github.bodies(BOT)] == ["quality", "latency"]


@pytest.mark.parametrize(
    "body",
    [
        "<!-- servegate verdict release -->\nPASS, trust me",
        None,
        "",
    ],
)
def test_another_authors_comment_is_left_alone(body: str | None, github: GitHub, client: Client) -> None:
    theirs = dict(github.write(STRANGER, body))
    github.write({"id": 8, "login": "ghost"}, "<!-- servegate verdict release -->")["user"] = None  # account is gone
    assert upsert(client, "o/r", 7, "release", "FAIL").created
    assert github.comments[0] == theirs
    assert github.bodies(BOT) == ["<!-- servegate verdict release -->\nFAIL"]


def test_a_quoted_marker_is_no_marker(github: GitHub, client: Client) -> None:
    github.write(BOT, "somebody said:\n<!-- servegate verdict release -->\nPASS")
    github.write(BOT, "<!-- servegate verdict release-2 -->\nPASS")
    assert upsert(client, "o/r", 7, "release", "FAIL").created
    assert len(github.bodies(BOT)) == 3


def test_a_marker_survives_the_line_ends_of_browsers(github: GitHub, client: Client) -> None:
    github.write(BOT, "<!-- servegate verdict release -->\r\nold")
    assert not upsert(client, "o/r", 7, "release", "new").created


def test_an_answer_that_got_lost_makes_no_second_comment(github: GitHub, client: Client) -> None:
    github.faults = [("POST", (200, {}, {"data": {"viewer": {"databaseId": BOT["id"]}}})), ("POST", None)]
    assert not upsert(client, "o/r", 7, "release", "one").created
    assert github.bodies(BOT) == ["<!-- servegate verdict release -->\none"]


def test_a_comment_deleted_meanwhile_is_written_again(github: GitHub, client: Client) -> None:
    github.write(BOT, "<!-- servegate verdict release -->\nold")
    github.faults = [("PATCH", (404, {}, {"message": "Not Found"}))]
    assert upsert(client, "o/r", 7, "release", "new").created


def test_who_may_not_write_is_told_apart(github: GitHub, client: Client) -> None:
    github.faults = [
        ("POST", (200, {}, {"data": {"viewer": {"databaseId": BOT["id"]}}})),
        ("POST", (403, {}, {"message": "Resource not accessible by integration"})),
    ]
    with pytest.raises(RefusedError, match="Resource not accessible by integration") as caught:
        upsert(client, "o/r", 7, "release", "x")
    assert caught.value.denied


@pytest.mark.parametrize("answer", [{}, {"data": None}, {"errors": []}, {"data": {"viewer": {"databaseId": "7"}}}, []])
def test_nothing_is_touched_by_who_does_not_know_who_it_is(answer: object, github: GitHub, client: Client) -> None:
    github.faults = [("POST", (200, {}, answer))]
    with pytest.raises(InfrastructureError, match="whom the token belongs to"):
        upsert(client, "o/r", 7, "release", "x")
    assert len(github.seen) == 1


@given(key=st.text(max_size=100))
def test_no_key_ends_the_marker(key: str) -> None:
    line = marker(key)
    assert line.startswith("<!-- servegate verdict ")
    assert line.endswith(" -->")
    assert "\n" not in line
    assert line[4:].count("--") == 1
    assert line == marker(key)


def test_a_pull_request_must_still_be_at_the_commit(github: GitHub, client: Client) -> None:
    github.pulls = [pull(7, SHA)]
    assert find_pull(client, "o/r", Pull(7, commit=SHA)) == 7
    assert find_pull(client, "o/r", Pull(7)) == 7
    with pytest.raises(MovedError, match="newer commits"):
        find_pull(client, "o/r", Pull(7, commit=OTHER))


def test_a_forks_number_is_asked_of_github(github: GitHub, client: Client) -> None:
    github.pulls = [pull(7, SHA), pull(8, SHA, "mallory"), pull(9, OTHER, "mallory")]
    assert find_pull(client, "o/r", Pull(None, head="mallory:patch/1 &state=all", commit=OTHER, fork=True)) == 9
    assert "head=mallory%3Apatch%2F1+%26state%3Dall" in github.seen[0][1]
    with pytest.raises(MovedError, match="no open pull request"):
        find_pull(client, "o/r", Pull(None, head="nobody:x", commit=SHA))
    with pytest.raises(MovedError, match="no open pull request"):
        find_pull(client, "o/r", Pull(None))
