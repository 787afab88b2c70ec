"""A controller that was killed, as an on-call engineer meets it: real Envoy, real processes, another terminal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from verdicts import key_pair, signed, verdict

from servegate.release import Release
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


def test_no_verdict_no_traffic(site: Site) -> None:
    key, _ = key_pair(site.folder, "stranger")
    release = Release.read(site.folder / "v2.json")
    (site.folder / "stranger.json").write_bytes(signed(verdict(release), release, key))
    (site.folder / "drill.json").write_bytes(
        signed(verdict(release, decided=1.0), release, site.folder / "release.key", drill="game day")
    )
    before = site.run("history")
    start = ("start", "v2.json", "--site", "site.yaml", "--plan", "plan.yaml", "--stable", "v1.json")
    for more, status, says in (
        (("--verdict", "v2.verdict.json"), 2, "whose verdicts count"),
        (("--verdict", "v1.verdict.json", "--trust", "trust.yaml"), 3, "on other releases"),
        (("--verdict", "stranger.json", "--trust", "trust.yaml"), 3, "signed by no accepted signer"),
        (("--verdict", "drill.json", "--trust", "trust.yaml"), 3, "a drill's verdict"),
        (("--trust", "trust.yaml"), 2, "names no image"),
    ):
        code, out = site.run(*start, *more)
        assert (code, says in out) == (status, True), out
    assert site.run("history") == before
