"""The small client: pages, waiting as told, and what it never says."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from github_server import STRANGER, TOKEN, Answer, GitHub

from servegate.errors import InfrastructureError
from servegate.github.api import Client, RefusedError, UnclearError

COMMENTS = "/repos/o/r/issues/7/comments"


def test_a_list_is_read_to_its_end(github: GitHub, client: Client) -> None:
    for index in range(230):
        github.write(STRANGER, str(index))
    assert [comment["body"] for comment in client.pages(COMMENTS)] == [str(index) for index in range(230)]
    assert len(github.seen) == 3


def test_a_list_that_leads_elsewhere_is_not_followed(github: GitHub, client: Client) -> None:
    github.faults = [("GET", (200, {"Link": '<https://evil.example/x>; rel="next"'}, []))]
    with pytest.raises(InfrastructureError, match="goes on at another address"):
        list(client.pages(COMMENTS))


def test_a_list_without_end_is_given_up(github: GitHub, client: Client) -> None:
    again: Answer = (200, {"Link": f'<{github.address}{COMMENTS}?page=1>; rel="next"'}, [])
    github.faults = [("GET", again)] * 200
    with pytest.raises(InfrastructureError, match="more than 100 pages"):
        list(client.pages(COMMENTS))


@pytest.mark.parametrize(
    ("status", "headers", "body", "waits"),
    [
        (429, {"Retry-After": "7"}, {}, [7.0]),
        (403, {"Retry-After": "3"}, {"message": "secondary rate limit"}, [3.0]),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1790000040"}, {}, [41.0]),
        (403, {}, {"message": "You have exceeded a secondary rate limit."}, [60.0]),
        (502, {}, "bad gateway", [1.0]),
    ],
)
def test_it_waits_as_github_asks(
    status: int, headers: dict[str, str], body: Any, waits: list[float], github: GitHub, client: Client, clock: Any
) -> None:
    github.faults = [("GET", (status, headers, body))]
    assert list(client.pages(COMMENTS)) == []
    assert clock.waits == waits


def test_it_does_not_wait_for_an_hour(github: GitHub, client: Client, clock: Any) -> None:
    limit = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(1_790_000_000 + 3540)}
    github.faults = [("GET", (403, limit, {"message": "API rate limit exceeded"}))]
    with pytest.raises(InfrastructureError, match="rate limit asks to wait 59 min"):
        list(client.pages(COMMENTS))
    assert clock.waits == []


def test_all_waiting_together_has_an_end(github: GitHub, client: Client, clock: Any) -> None:
    github.faults = [("GET", (429, {"Retry-After": "50"}, {}))] * 9
    with pytest.raises(InfrastructureError, match="rate limit"):
        list(client.pages(COMMENTS))
    assert sum(clock.waits) <= 120


def test_a_change_is_not_sent_twice_without_looking(github: GitHub, client: Client, clock: Any) -> None:
    github.faults = [("POST", None)]
    with pytest.raises(UnclearError, match="no answer"):
        client.send("POST", COMMENTS, {"body": "x"})
    assert len(github.comments) == 1  # it had arrived
    assert clock.waits == []


def test_a_change_that_was_refused_for_its_rate_is_sent_again(github: GitHub, client: Client, clock: Any) -> None:
    github.faults = [("POST", (429, {"Retry-After": "2"}, {}))]
    assert client.send("POST", COMMENTS, {"body": "x"})["body"] == "x"
    assert clock.waits == [2.0]


@pytest.mark.parametrize("data", [b"<html>", b"[" * 100_000, b"\xff"])
def test_an_answer_that_is_no_json(data: bytes, github: GitHub, client: Client) -> None:
    github.faults = [("GET", (200, {}, data))]
    with pytest.raises(InfrastructureError, match="is not JSON"):
        client.get("/repos/o/r/pulls/7")


def test_a_server_that_is_not_there(clock: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        client = Client(address, f"{address}/graphql", TOKEN, clock=lambda: clock.now, sleep=clock.sleep)
        with pytest.raises(InfrastructureError, match="no answer"):
            client.get("/repos/o/r/pulls/7")
    assert clock.waits == [1.0, 2.0, 4.0]


def test_the_token_is_never_told(github: GitHub) -> None:
    client = Client(github.address, f"{github.address}/graphql", "ghs_wrong")
    with pytest.raises(RefusedError, match="status 401: Bad credentials") as caught:
        client.get("/repos/o/r/pulls/7")
    assert caught.value.denied
    assert "ghs_wrong" not in f"{caught.value!r} {client!r}"
