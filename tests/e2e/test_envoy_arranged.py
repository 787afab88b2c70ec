"""A real Envoy that mirrors, and that keeps users where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from envoy_plane import Plane, plane_in, until

from servegate.endpoint import request
from servegate.rollout.ports import Arrangement, FencedError, Sticky

BY_COOKIE = Arrangement(sticky=Sticky("cookie", "arm", "abc123"))
BY_HEADER = Arrangement(sticky=Sticky("header", "x-user-id"))


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    yield from plane_in(tmp_path)


def arrange(plane: Plane, arrangement: Arrangement, epoch: int = 1) -> None:
    plane.envoy.router.arrange(arrangement, epoch)
    until(lambda: plane.envoy.router.verify().accepted)
    assert plane.envoy.router.verify().arrangement == arrangement


def slot_of(plane: Plane, headers: dict[str, str]) -> tuple[str, str]:
    """Which slot answered, and the cookie it brought."""
    response = urllib3.request("GET", f"{plane.envoy.url}/x", headers=headers, retries=False)
    assert response.data.decode() == response.headers["x-servegate-slot"]
    return response.headers["x-servegate-slot"], response.headers.get("set-cookie", "")


def test_copies_reach_the_other_slot_and_no_user_notices(plane: Plane) -> None:
    arrange(plane, Arrangement(mirror={"green": 100.0}))
    for _ in range(40):
        assert slot_of(plane, {})[0] == "blue"
    until(lambda: plane.served("green", "x") == 40)
    # The copy hangs, fails or breaks: the user has the answer of blue, at once.
    for path in ("silent-on-green", "status-on-green"):
        for _ in range(5):
            assert request("GET", f"{plane.envoy.url}/{path}", timeout=5.0) == (200, b"blue")
    plane.backends["green"].stop(grace=0.0)
    for _ in range(20):
        assert request("GET", f"{plane.envoy.url}/x")[1] == b"blue"
    arrange(plane, Arrangement())


def test_a_share_is_copied(plane: Plane) -> None:
    arrange(plane, Arrangement(mirror={"green": 25.0}))
    for _ in range(400):
        assert request("GET", f"{plane.envoy.url}/x")[1] == b"blue"
    assert 60 <= plane.served("green", "x") <= 145
    arrange(plane, Arrangement())
    before = plane.served("green", "x")
    for _ in range(50):
        request("GET", f"{plane.envoy.url}/x")
    assert plane.served("green", "x") == before


def test_weights_and_arrangement_are_changed_apart_and_fenced_together(plane: Plane) -> None:
    plane.set(30.0, epoch=5)
    arrange(plane, BY_COOKIE, epoch=5)
    plane.set(40.0, epoch=5)
    status = plane.envoy.router.verify()
    assert (dict(status.weights), status.arrangement) == ({"blue": 60.0, "green": 40.0}, BY_COOKIE)
    with pytest.raises(FencedError):
        plane.envoy.router.arrange(Arrangement(), 4)
    with pytest.raises(ValueError, match="red"):
        plane.envoy.router.arrange(Arrangement(mirror={"red": 5.0}), 5)


def test_a_cookie_keeps_its_user_when_weights_change(plane: Plane) -> None:
    plane.set(50.0)
    arrange(plane, BY_COOKIE)
    users: dict[int, tuple[str, str]] = {}
    for user in range(120):
        slot, cookie = slot_of(plane, {})
        value = cookie.partition(";")[0]
        assert value == f"arm={slot}.abc123"
        users[user] = slot, value
    counts = Counter(slot for slot, _ in users.values())
    assert min(counts.values()) > 30
    for green in (10.0, 90.0, 50.0):
        plane.set(green)
        for slot, value in users.values():
            assert slot_of(plane, {"cookie": f"theme=dark; {value}; x=y"}) == (slot, "")
    # A slot that lost all its traffic keeps nobody; another experiment's cookie is worth nothing.
    plane.set(0.0)
    assert {slot_of(plane, {"cookie": value})[0] for _, value in users.values()} == {"blue"}
    plane.set(100.0)
    assert slot_of(plane, {"cookie": "arm=blue.other"})[0] == "green"
    assert slot_of(plane, {"cookie": "alarm=blue.abc123"})[0] == "green"


def test_a_header_keeps_its_user_and_growth_only_takes_over(plane: Plane) -> None:
    arrange(plane, BY_HEADER)
    before: set[str] = set()
    for green in (10.0, 30.0, 60.0):
        plane.set(green)
        with_green = {user for user in map(str, range(300)) if slot_of(plane, {"x-user-id": user})[0] == "green"}
        again = {user for user in map(str, range(300)) if slot_of(plane, {"x-user-id": user})[0] == "green"}
        assert with_green == again
        assert before <= with_green
        assert abs(len(with_green) / 3 - green) < 10
        before = with_green
