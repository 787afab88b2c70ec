"""`servegate rollout backtest`: a plan over recorded traffic in which nothing was rolled out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from servegate.cli.rollout import common
from servegate.cli.rollout.common import json_option

if TYPE_CHECKING:
    from servegate.rollout.backtest import Backtest
    from servegate.rollout.sources.prometheus_config import PrometheusConfig

SHOWN = 20
"""False rollbacks that are shown one by one."""


@click.command(short_help="Try a plan on yesterday's traffic.")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--prometheus", type=click.Path(path_type=Path), help="File that says where the counters are and how.")
@click.option(
    "--data", type=click.Path(path_type=Path), multiple=True, help="Saved answer of a Prometheus; repeatable."
)
@click.option(
    "--hours", type=click.FloatRange(min=0.01, max=24 * 31), default=24.0, show_default=True, help="How many."
)
@click.option("--until", metavar="TIME", help="End of these hours, such as 2026-11-24T18:00+01:00; default: now.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Keep what was read: .json or .json.gz.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the lot.")
@json_option
def backtest(
    plan: Path,
    prometheus: Path | None,
    data: tuple[Path, ...],
    hours: float,
    until: str | None,
    save: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Try the PLAN file on recorded traffic: how often would it have rolled back when nothing was wrong?

    The traffic comes from a Prometheus (--prometheus) or from saved answers of one (--data). One process after the
    other plays the candidate.

    Exit codes: 0 the plan keeps its promise, 1 it would have rolled back more often than promised, 3 too little data.
    """
    from servegate.errors import ConfigError, ExitCode
    from servegate.rollout import recorded
    from servegate.rollout.backtest import backtest as run
    from servegate.rollout.plan import load_plan
    from servegate.rollout.sources.prometheus_config import PrometheusConfig, load_config

    rules = load_plan(plan)
    if not data and prometheus is None:
        raise ConfigError("say where the traffic is: --prometheus FILE, or --data FILE with saved answers")
    config = PrometheusConfig(url="http://saved") if prometheus is None else load_config(prometheus)
    rows = recorded.load(data) if data else _fetched(config, hours, until)
    if save is not None:
        recorded.save(save, rows)
    recording = recorded.recording(rows, config, rules.tick)
    with common.progress("ticks") as advance:
        found = run(rules, recording, seed=seed, progress=advance)
    share = found.share
    if as_json:
        document = {
            **asdict(found),
            "plan": rules.identity(),
            "alpha": rules.alpha,
            "share": share,
            "causes": found.causes,
        }
        click.echo(json.dumps(document, ensure_ascii=False))
    else:
        click.echo(
            f"{rules.name} over {found.hours:.1f} h of {len(recording.pods)} processes, a look every {rules.tick:g} s: "
            f"{len(found.rollouts)} rollouts"
        )
        for line in _lines(found, rules.alpha):
            click.echo(line)
    if share is None:
        raise SystemExit(ExitCode.NO_VERDICT)
    if share[1] > rules.alpha:
        raise SystemExit(ExitCode.GATE_FAILED)


def _fetched(config: PrometheusConfig, hours: float, until: str | None) -> list[dict[str, object]]:
    import time
    from datetime import datetime

    from servegate.errors import ConfigError
    from servegate.rollout import recorded

    try:
        end = time.time() if until is None else datetime.fromisoformat(until).astimezone().timestamp()
    except ValueError as error:
        raise ConfigError(f"--until {until}: not a time such as 2026-11-24T18:00+01:00") from error
    with common.progress("reading") as advance:
        return recorded.fetch(config, end - hours * 3600, end, advance)


def _lines(found: Backtest, alpha: float) -> list[str]:
    from servegate.rollout.describe import clock, plain

    share = found.share
    if share is None:
        return [
            f"  no rollout came to its end in this time; the first still waited for {plain(found.unfinished or '')}"
        ]
    promoted = len(found.rollouts) - len(found.rolled_back)
    lines = [
        f"  promoted     {promoted}",
        f"  rolled back  {len(found.rolled_back)}: {share[0]:.1%} (95 % interval {share[1]:.1%} to {share[2]:.1%}); "
        f"promised is at most {alpha:.1%}" + (": NOT KEPT" if share[1] > alpha else ""),
    ]
    for past in found.rolled_back[:SHOWN]:
        played = f"{past.candidate} played the candidate" if past.candidate else "requests by lot"
        lines.append(f"    {clock(past.began)}  {plain(played)}: {plain(past.reason)}")
    if len(found.rolled_back) > SHOWN:
        lines.append(f"    and {len(found.rolled_back) - SHOWN} more, by " + ", ".join(found.causes))
    if found.by_lot:
        lines.append(
            "  one process alone: its requests were dealt out by lot, so nothing ever happened to one slot alone; a "
            "recording of two processes tells more"
        )
    return lines
