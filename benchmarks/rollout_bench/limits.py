"""How soon could any rule know? Two limits on the same draws, both with a likelihood ratio of 100.

*All known*: Wald's test with the law of a healthy and of the broken candidate known exactly; stable is not even looked
at. *Fair*: what a rule must do that has to be right in every healthy scenario of this benchmark: the baseline is not
known, so it compares two samples; a slot's shocks follow the known law (15 %, rho 0.9) but their values are not known.
The size of the defect is known to both. *Quiet* is the fair limit where it is known that there are no shocks.
"""

from __future__ import annotations

import math

import numpy as np

from rollout_bench.rules import Block, per_request
from rollout_bench.traffic import (
    DISCORD,
    ERRORS,
    ITL,
    ITL_SIGMA,
    LEVELS,
    TICK,
    TICKS,
    TTFT,
    TTFT_EDGES,
    TTFT_SIGMA,
    Draws,
    Floats,
    Scenario,
    gap_law,
    law,
    leak,
)

LIMIT = math.log(100)
SHOCK_SD, SHOCK_RHO = 0.15, 0.9
FOR_QUIET = 1e-4


def first(log_ratio: Floats) -> Floats:
    """Seconds until the summed log likelihood ratio (runs x ticks) reaches the limit; infinite when it does not."""
    reached = np.cumsum(log_ratio, 1) >= LIMIT
    return np.where(reached.any(1), (reached.argmax(1) + 1) * TICK, np.inf)


def known(scenario: Scenario, draws: Draws) -> Floats:
    """All known."""
    match scenario.metric:
        case "errors":
            return first(_counts(draws.failures[0], draws.requests[0], *_rates(scenario), scenario.onset))
        case "unanswered":
            return first(_counts(draws.unanswered[0], draws.routed[0], 1e-4, scenario.effect, scenario.onset + 30))
        case "ttft":
            return first(_ttft(draws, np.full((1, 1), scenario.effect)))
        case "itl":
            return first(_itl(draws, np.full((1, 1), scenario.effect)))
        case "leak":
            shift = leak((np.arange(TICKS) * TICK)[None, :])
            return first(_ttft(draws, shift) + _itl(draws, shift))
        case "half":
            bad = np.array([[0.5]])
            p0 = law(TTFT_EDGES, np.array([[math.log(TTFT)]]), TTFT_SIGMA)
            p1 = bad[..., None] * law(TTFT_EDGES, np.array([[math.log(2 * TTFT)]]), TTFT_SIGMA) + 0.5 * p0
            counts = _counts(draws.failures[0], draws.requests[0], ERRORS, (ERRORS + 0.03) / 2, 0)
            return first((draws.ttft[0] * _log(p1, p0)).sum(-1) + counts)
        case _:
            return first(_quality(draws, scenario.effect))


def fair(
    scenario: Scenario, draws: Draws, blocks: dict[str, list[Block]], noise: dict[str, float], sd: float = SHOCK_SD
) -> Floats:
    """The fair limit. `blocks`: two-sample log ratios per tick; `noise`: true variance of one over its formula."""
    if scenario.metric in ("errors", "unanswered"):
        events = draws.failures if scenario.metric == "errors" else draws.unanswered
        p0, p1 = _rates(scenario) if scenario.metric == "errors" else (1e-4, scenario.effect)
        onset = scenario.onset + (30 if scenario.metric == "unanswered" else 0)
        return first(_shares(events, draws.weight, p0, p1, onset))
    if scenario.metric == "quality":
        worse, better = (DISCORD + scenario.effect) / 2, (DISCORD - scenario.effect) / 2
        p = worse / (worse + better)
        ratio = np.where(draws.items < 0, math.log(2 * p), np.where(draws.items > 0, math.log(2 * (1 - p)), 0.0))
        return first(ratio)
    metrics = {"ttft": ("ttft",), "itl": ("itl",), "leak": ("itl",), "half": ("ttft",)}[scenario.metric]
    found = np.full(draws.runs, np.inf)
    for metric in metrics:
        course = None if scenario.metric != "leak" else leak(np.arange(TICKS) * TICK)
        found = np.minimum(found, first(_filtered(blocks[metric], noise[metric], sd, course)))
    if scenario.metric == "half":
        ratio = _shares(draws.failures, draws.weight, ERRORS, (ERRORS + 0.03) / 2, 0)
        found = np.minimum(found, first(ratio))
    return found


def _filtered(blocks: list[Block], noise: float, sd: float, known_course: Floats | None) -> Floats:
    """Log likelihood ratio per tick of a shift whose mean course is known, under shocks of known law."""
    runs = len(blocks[0].use)
    every = np.concatenate([block.y[block.use] for block in blocks] or [np.zeros(1)])
    course = np.full(TICKS, every.mean()) if known_course is None else known_course
    level, answer, variance = np.zeros(runs), np.zeros(runs), np.full(runs, sd**2)
    since, found = np.full(runs, np.inf), np.zeros((runs, TICKS))
    for tick, block in enumerate(blocks):
        since = since + 1
        rho = np.where(np.isinf(since), 0.0, SHOCK_RHO ** np.where(np.isinf(since), 1, since))
        prior = rho**2 * variance + (1 - rho**2) * sd**2
        total = prior + np.where(block.use, block.v, 1.0) * noise
        e, h = block.y - rho * level, course[tick] - rho * answer
        gain = prior / total
        found[:, tick] = np.where(block.use, (h * e - h * h / 2) / total, 0.0)
        level = np.where(block.use, rho * level + gain * e, level)
        answer = np.where(block.use, rho * answer + gain * h, answer)
        variance = np.where(block.use, prior * (1 - gain), variance)
        since = np.where(block.use, 0.0, since)
    return found


def _rates(scenario: Scenario) -> tuple[float, float]:
    p1 = scenario.effect if scenario.name.startswith("errors") else 1 - (1 - ERRORS) * (1 - scenario.effect)
    return ERRORS, p1


def _counts(events: Floats, base: Floats, p0: float, p1: float, onset: float) -> Floats:
    ratio = events * math.log(p1 / p0) + np.maximum(base - events, 0) * math.log((1 - p1) / (1 - p0))
    ratio[:, : int(onset / TICK)] = 0
    return ratio


def _shares(events: tuple[Floats, Floats], weight: float, p0: float, p1: float, onset: float) -> Floats:
    """Of the events of both slots, how many are the candidate's: binomial, whatever the baseline."""
    share = weight * p1 / (weight * p1 + (1 - weight) * p0)
    ratio = events[0] * math.log(share / weight) + events[1] * math.log((1 - share) / (1 - weight))
    ratio[:, : int(onset / TICK)] = 0
    return ratio


def _log(p1: Floats, p0: Floats) -> Floats:
    return np.log(np.maximum(p1, 1e-300) / np.maximum(p0, 1e-300))


def _ttft(draws: Draws, shift: Floats) -> Floats:
    mu = math.log(TTFT)
    score = _log(law(TTFT_EDGES, mu + shift, TTFT_SIGMA), law(TTFT_EDGES, np.full((1, 1), mu), TTFT_SIGMA))
    found: Floats = (draws.ttft[0] * score).sum(-1)
    return found


def _itl(draws: Draws, shift: Floats) -> Floats:
    """Requests, not gaps, are independent: the mean score of a request is normal with the moments of its level."""
    levels = np.exp(-(LEVELS**2) / 2) / np.exp(-(LEVELS**2) / 2).sum()
    mu = math.log(ITL)
    healthy, broken = gap_law(np.full((1, 1), mu)), gap_law(mu + shift)
    score = _log((levels[:, None] * broken).sum(-2), (levels[:, None] * healthy).sum(-2))
    n = per_request(draws, "itl", 0)
    seen = (draws.itl[0] / 100 * score).sum(-1)
    each0, each1 = (healthy * score[..., None, :]).sum(-1), (broken * score[..., None, :]).sum(-1)
    m0, m1 = (levels * each0).sum(-1), (levels * each1).sum(-1)
    variance = np.maximum((levels * each0**2).sum(-1) - m0**2, 1e-9)
    found: Floats = (m1 - m0) / variance * (seen - n * (m0 + m1) / 2)
    return found


def _quality(draws: Draws, effect: float) -> Floats:
    worse, better = (DISCORD + effect) / 2, (DISCORD - effect) / 2
    down, up = math.log(2 * worse / DISCORD), math.log(2 * better / DISCORD) if better > 0 else -50.0
    return np.where(draws.items < 0, down, np.where(draws.items > 0, up, 0.0))


__all__ = ["FOR_QUIET", "ITL_SIGMA", "fair", "known"]
