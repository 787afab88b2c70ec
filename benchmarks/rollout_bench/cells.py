"""One cell of the table (a scenario at a rate): draw, judge by every rule, keep what the tuning of the peers needs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rollout_bench import limits, peers, rules
from rollout_bench.traffic import HEALTHY, RATES, SCENARIOS, Floats, Scenario, draw

NOISE = {"ttft": 1.0, "itl": 0.31}
"""Variance of the two-sample log ratio over its formula in the iid scenario: a request's gaps share its level."""


@dataclass(frozen=True)
class Cell:
    """Results per run: seconds since the run began, infinite when nothing was seen."""

    scenario: Scenario
    rate: float
    ours: dict[str, Floats]
    known: Floats
    fair: Floats
    quiet: Floats
    candidate: peers.Minutes
    shifts: Floats

    @property
    def detected(self) -> Floats:
        """Seconds until this project's rule rolls back."""
        return np.minimum.reduce(list(self.ours.values()))


def find(name: str) -> Scenario:
    """A scenario by its name."""
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


def compute(job: tuple[str, float, int, int, str]) -> str:
    """Judge a cell and write it to its file; done already is done."""
    name, rate, runs, seed, folder = job
    path = place(Path(folder), name, rate)
    if path.exists():
        return name
    scenario = find(name)
    draws = draw(scenario, rate, runs, seed)
    all_blocks = {metric: rules.blocks(draws, metric) for metric in ("ttft", "itl")}
    ours = rules.detect(draws, all_blocks)
    arrays = {f"ours {check}": when for check, when in ours.items()}
    if scenario.broken:
        arrays["known"] = limits.known(scenario, draws)
        arrays["fair"] = limits.fair(scenario, draws, all_blocks, NOISE)
        arrays["quiet"] = limits.fair(scenario, draws, all_blocks, NOISE, limits.FOR_QUIET)
    candidate, stable = peers.both(draws)
    arrays |= {"errors": candidate.errors, "ttft": candidate.ttft, "itl": candidate.itl}
    arrays["shifts"] = peers.shifts(candidate, stable)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    with partial.open("wb") as file:
        np.savez_compressed(file, **{key: value.astype(np.float32) for key, value in arrays.items()})
    partial.replace(path)
    return name


def read(folder: Path, scenario: Scenario, rate: float) -> Cell:
    """A cell that was computed."""
    with np.load(place(folder, scenario.name, rate), allow_pickle=False) as kept:
        arrays = {key: kept[key].astype(np.float64) for key in kept.files}
    ours = {key[5:]: value for key, value in arrays.items() if key.startswith("ours ")}
    never = np.full(len(arrays["errors"]), np.inf)
    return Cell(
        scenario,
        rate,
        ours,
        arrays.get("known", never),
        arrays.get("fair", never),
        arrays.get("quiet", never),
        peers.Minutes(arrays["errors"], arrays["ttft"], arrays["itl"]),
        arrays["shifts"],
    )


def place(folder: Path, name: str, rate: float) -> Path:
    """File of a cell."""
    return folder / f"{SCENARIOS.index(find(name)):02d}-{rate:g}.npz"


def tuned_by_rate(cells: list[Cell], at_most: float) -> dict[float, list[tuple[str, peers.Thresholds | peers.Judge]]]:
    """Settings per rate: tuned over all healthy scenarios jointly, as somebody who knows his traffic would."""
    return {rate: tune([cell for cell in cells if cell.rate == rate], at_most) for rate in RATES}


def tune(cells: list[Cell], at_most: float) -> list[tuple[str, peers.Thresholds | peers.Judge]]:
    """Settings of every tool with at most this share of false rollbacks in each healthy cell, the quickest ones."""
    healthy = [cell for cell in cells if cell.scenario in HEALTHY]

    def false(tool: str, settings: peers.Thresholds | peers.Judge) -> float:
        return max(float(np.isfinite(judge(tool, settings, cell)).mean()) for cell in healthy)

    found: list[tuple[str, peers.Thresholds | peers.Judge]] = []
    axes = (peers.ERROR_LIMITS, peers.TTFT_LIMITS, peers.ITL_LIMITS)
    for tool in ("Flagger", "Argo Rollouts"):
        for count in peers.COUNTS:
            widest = [len(axis) - 1 for axis in axes]
            at = []
            for metric, axis in enumerate(axes):
                alone = (
                    index
                    for index in range(len(axis))
                    if false(tool, _settings(axes, [*widest[:metric], index, *widest[metric + 1 :]], count)) <= at_most
                )
                at.append(next(alone, -1))
            turn = 0
            while -1 not in at and false(tool, _settings(axes, at, count)) > at_most and at != widest:
                at[turn % 3] = min(at[turn % 3] + 1, widest[turn % 3])
                turn += 1
            if -1 not in at and false(tool, _settings(axes, at, count)) <= at_most:
                found.append((tool, _settings(axes, at, count)))
    for z in peers.ZS:
        fitting = (judge_ for judge_ in peers.judges() if judge_.z == z and false("Kayenta", judge_) <= at_most)
        first = next(fitting, None)
        if first is not None:
            found.append(("Kayenta", first))
    return found


def _settings(axes: tuple[tuple[float, ...], ...], at: list[int], count: int) -> peers.Thresholds:
    errors, ttft, itl = (axis[index] for axis, index in zip(axes, at, strict=True))
    return peers.Thresholds(errors, ttft, itl, count)


def judge(tool: str, settings: peers.Thresholds | peers.Judge, cell: Cell) -> Floats:
    """Seconds until a tool rolls back, per run."""
    if isinstance(settings, peers.Judge):
        return peers.kayenta(cell.shifts, settings)
    return (peers.flagger if tool == "Flagger" else peers.argo)(cell.candidate, settings)


def facts(folder: Path, expected: dict[str, object]) -> None:
    """The cells of a folder belong to these settings and code; others are not mixed in."""
    path = folder / "settings.json"
    if path.exists() and json.loads(path.read_text()) != expected:
        for old in folder.glob("*.npz"):
            old.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(expected))
