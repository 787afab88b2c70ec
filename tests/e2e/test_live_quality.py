"""A release that is fast, never fails, and answers wrong: real Envoy, real processes, items asked of both slots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from servegate.rollout.stores.sqlite import SqliteStore
from terminals import Site, site_in

SUITE = Path(__file__).parents[2] / "evals" / "suites" / "support.yaml"
QUALITY = f"""
version: 1
name: quality
tick: 500ms
expect: {{requests_per_second: 20}}
alpha: 5%
steps:
  - {{weight: 10%, min_time: 40s}}
  - {{weight: 100%, min_time: 2s}}
checks:
  - {{kind: errors-slo, name: slo, share: 50%, at_most: 5%, interval: 1s}}
  - {{kind: quality, name: answers, share: 50%, suite: {SUITE}, items: 88, rate: 4, margin: 5%}}
rollback: {{prove: 2s}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from site_in(tmp_path_factory.mktemp("q"))


def test_a_release_that_is_fast_and_wrong_is_sent_back_by_items_asked_of_both(site: Site) -> None:
    (site.folder / "quality.yaml").write_text(QUALITY)
    before = site.seen
    controller = site.start("v4", plan="quality.yaml")
    out, _ = controller.communicate(timeout=60)
    assert controller.returncode == 1, out
    state = site.status()
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
    assert {line["check"] for line in json.loads(timeline[-1])["evidence"]} == {"slo", "answers"}
