"""lm-eval's `--output_path`: results_TIME.json, and with `--log_samples` the samples_TASK_TIME.jsonl beside it.

Each task is a slice `tags=TASK`; a single task is the whole as well. With samples, intervals are Wilson's on right-or-
wrong scores, and a comparison with a baseline is paired by document.

Differences from our definitions:

    accuracy     is lm-eval's `acc`; for multiple choice it compares the likelihood of the options, not written answers
    other names  are kept: exact_match, f1, …; of several filters each is a slice `tags=TASK,filter=NAME`
    errors       lm-eval has none: a request that fails ends the run, or its answer is empty and scored as wrong
    intervals    without samples: value ± z · stderr, lm-eval's CLT or bootstrap error of the mean, cut to [0, 1]
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from servegate.contract import canonical_json, sha256
from servegate.gates.adapters.common import Adapted, Source, count, definitions, nothing, number, parse_json, part
from servegate.report.model import Conditions, Interval, Measure
from servegate.report.records import EvalRecord
from servegate.stats.intervals import wilson

TOOL = "lm-eval"
_NAMES = {"acc": "accuracy", "acc_norm": "accuracy_norm"}
_FRACTIONS = ("acc", "acc_norm", "exact_match", "f1", "mcc", "mc1", "mc2")
_Z95 = 1.959963984540054


def companions(name: str) -> str | None:
    """Pattern of the sample files beside a results file; None when the name tells nothing."""
    found = re.fullmatch(r"results_(.+)\.json", name)
    return None if found is None else f"samples_*_{found[1]}.jsonl"


def convert(source: Source) -> Adapted:
    """Read one results file, with its samples where they are there.

    Raises:
        ConfigError: it is none, or a sample file is broken.
    """
    data = parse_json(source, TOOL)
    results = data.get("results")
    if not isinstance(results, dict) or "n-samples" not in data:
        raise source.refuse(TOOL, "no `results` and `n-samples`")
    samples = {task: list(_samples(source, task)) for task in results}
    measures: list[Measure] = []
    records: list[EvalRecord] = []
    single = len(results) == 1
    for task, found in results.items():
        if not isinstance(found, dict):
            continue
        n = count(part(data, "n-samples", task, "effective"))
        lower = {name for name, higher in (part(data, "higher_is_better", task) or {}).items() if higher is False}
        answers = _records(task, samples[task])
        records += answers
        for key, raw in found.items():
            metric, comma, filter_ = key.partition(",")
            value = number(raw)
            if not comma or metric.endswith("_stderr") or value is None:
                continue
            error = number(found.get(f"{metric}_stderr,{filter_}"))
            scores = _scores(samples[task], metric, filter_)
            measure = _measure(metric, value, error, scores, n, metric in lower)
            slice_ = f"tags={task}" if filter_ == "none" else f"tags={task},filter={filter_}"
            measures.append(measure.model_copy(update={"slice": slice_}))
            if single and filter_ == "none":
                measures.append(measure)
    version = data.get("lm_eval_version")
    tool = f"{TOOL} {str(version)[:40]}" if version else TOOL
    # The file says when the evaluation began, and a length that counts loading too: the beginning is the safe age.
    started = number(data.get("date")) or source.modified
    url = part(data, "config", "model_args", "base_url")
    return Adapted(
        tool=tool,
        started=started,
        finished=started,
        measures=tuple({measure.key: measure for measure in measures}.values()),
        model=str(data["model_name"])[:500] if isinstance(data.get("model_name"), str) else None,
        url=url if isinstance(url, str) else None,
        conditions=Conditions(
            dataset_sha256=sha256(canonical_json(data["task_hashes"])) if data.get("task_hashes") else None,
            seed=count(part(data, "config", "random_seed")),
            client=tool,
            other={
                key: str(data[key])[:200]
                for key in ("chat_template_sha", "system_instruction_sha", "n-shot", "versions")
                if data.get(key)
            },
        ),
        records=tuple(records),
        findings=(
            definitions("lm-eval has no errors: a failed answer is scored as wrong; `acc` may compare likelihoods"),
            *(() if any(measure.n for measure in measures) else (nothing("metric"),)),
        ),
    )


def _measure(metric: str, value: float, error: float | None, scores: list[float], n: int, lower: bool) -> Measure:
    bounded = all(0 <= score <= 1 for score in scores) if scores else metric in _FRACTIONS and 0 <= value <= 1
    interval = None
    right = sum(scores)
    if scores and all(score in (0.0, 1.0) for score in scores) and abs(right / len(scores) - value) < 1e-9:
        found = wilson(round(right), len(scores))
        interval = Interval(low=found.low, high=found.high, level=found.level, method=found.method)
    elif error is not None and error > 0:
        low, high = value - _Z95 * error, value + _Z95 * error
        if bounded:
            low, high = max(0.0, low), min(1.0, high)
        interval = Interval(low=low, high=high, level=0.95, method="lm-eval stderr")
    return Measure(
        name=_NAMES.get(metric) or re.sub(r"[^a-z0-9_]", "_", "m_" * (not metric[:1].isalpha()) + metric.lower()),
        statistic="mean",
        value=value,
        unit="fraction" if bounded else "score",
        n=n,
        attempted=n,
        better="lower" if lower else "higher",
        interval=interval,
    )


def _samples(source: Source, task: str) -> Iterator[dict[str, Any]]:
    for name, data in source.companions.items():
        if not name.startswith(f"samples_{task}_"):
            continue
        for number_, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, parse_constant=lambda _: None)
            except (ValueError, RecursionError) as error:
                raise source.refuse(TOOL, f"{name}:{number_}: not JSON") from error
            if isinstance(row, dict):
                yield row


def _scores(rows: list[dict[str, Any]], metric: str, filter_: str) -> list[float]:
    found = [number(row.get(metric)) for row in rows if row.get("filter", "none") == filter_]
    return [score for score in found if score is not None]


def _records(task: str, rows: list[dict[str, Any]]) -> list[EvalRecord]:
    """Answers, scored by the task's first metric that is a number in [0, 1]; of the first filter alone."""
    if not rows:
        return []
    filter_ = rows[0].get("filter", "none")
    kept = [row for row in rows if row.get("filter", "none") == filter_]
    names = [name for name in (kept[0].get("metrics") or []) if isinstance(name, str)]
    metric = next((name for name in names if all(_unit(row.get(name)) is not None for row in kept)), None)
    if metric is None:
        return []
    return [
        EvalRecord(
            id=f"{task}/{row.get('doc_id')}",
            tags=(task,),
            item_sha256=sha256(canonical_json([row.get(key) for key in ("doc_hash", "prompt_hash", "target_hash")])),
            scorer=metric,
            score=_unit(row.get(metric)),
            answer=_answer(row),
            target=str(row.get("target"))[:2000],
        )
        for row in kept
    ]


def _answer(row: dict[str, Any]) -> str | None:
    found = row.get("filtered_resps")
    return found[0][:20_000] if isinstance(found, list) and found and isinstance(found[0], str) else None


def _unit(value: object) -> float | None:
    found = number(value)
    return found if found is not None and 0 <= found <= 1 else None
