"""Drawing a suite's items without replacement."""

from __future__ import annotations

from pathlib import Path

from servegate.evals.sample import Sampler
from servegate.evals.suite import load_suite


def test_every_item_once_in_an_order_of_the_seed(tmp_path: Path) -> None:
    rows = "".join(f'{{"id": "q{n}", "input": "{n}?", "target": "{n}"}}\n' for n in range(50))
    (tmp_path / "d.jsonl").write_text(rows)
    (tmp_path / "s.yaml").write_text("version: 1\nname: s\ndataset: d.jsonl\n")
    suite = load_suite(tmp_path / "s.yaml")
    sampler = Sampler.of(suite, "one")
    drawn, position = [], 0
    while batch := Sampler.of(suite, "one").draw(position, 7):  # as after a restart
        assert [number for number, _ in batch] == list(range(position, position + len(batch)))
        drawn += [task.item.id for _, task in batch]
        position += len(batch)
    assert sorted(drawn) == sorted(task.item.id for task in suite.tasks)
    assert drawn == [task.item.id for task in sampler.tasks]
    assert drawn != [task.item.id for task in Sampler.of(suite, "two").tasks]
    assert sampler.draw(50, 1) == ()
