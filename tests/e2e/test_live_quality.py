"""A release that is fast, never fails, and answers wrong: real Envoy, real processes, items asked of both slots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from servegate.rollout.stores.sqlite import SqliteStore
from terminals import Site, site_in

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from site_in(tmp_path_factory.mktemp("q"))


def test_a_release_that_is_fast_and_wrong_is_sent_back_by_items_asked_of_both(site: Site) -> None:
    (site.folder / "evals").symlink_to(ROOT / "evals")
    before = site.seen
    controller = site.start("v4", plan=str(ROOT / "rollout" / "canary.yaml"))
    out, _ = controller.communicate(timeout=90)
    assert controller.returncode == 1, out
    state = site.status()
    assert state["cause"] == "answers"
    assert "answers worse than" in state["reason"]
    assert "items asked of both (88 in the suite, lately " in state["reason"]
    assert "against a margin of 5.0 points (e-value " in state["reason"]
    store = SqliteStore(site.store)
    gathered = json.loads(store.load()[0] or "")["state"]["checks"]["answers"]
    store.close()
    assert gathered["judged"] == gathered["asked"] > 3
    # What is asked goes past the router, and wrong answers are no failures: users saw none.
    assert {key.split()[-1] for key in site.seen - before} == {"200"}
    timeline = (site.folder / "run" / "timeline.jsonl").read_text().splitlines()
    assert {line["check"] for line in json.loads(timeline[-1])["evidence"]} >= {"errors", "ttft", "answers"}
