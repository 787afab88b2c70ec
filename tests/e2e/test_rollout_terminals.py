"""A controller that was killed, as an on-call engineer meets it: real Envoy, real processes, another terminal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from terminals import Site, site_in


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from site_in(tmp_path_factory.mktemp("r"))


def test_a_controller_that_was_killed_is_followed_by_whoever_wants_something(site: Site) -> None:
    controller = site.start("v2")
    site.until("phase", "STEP")
    assert site.run("pause", "--reason", "look first") == (0, "paused\n")
    assert site.run("pause") == (0, "nothing to do: paused already\n")
    assert site.run("resume") == (0, "resumed\n")
    controller.kill()
    controller.wait()
    assert site.status()["weights"]["blue"] < 100  # nobody is there, and nothing moves
    code, out = site.run("abort", "--reason", "its controller is gone")
    assert code == 0, out
    assert "no controller is at work on it: this command takes over" in out
    assert "answered" in out
    state = site.status()
    assert (state["phase"], state["weights"]) == ("ROLLED_BACK", {"blue": 100.0, "green": 0.0})
    assert "its controller is gone" in state["reason"]
