"""`servegate rollout simulate`: a plan against invented traffic."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from servegate.cli.rollout import common
from servegate.cli.rollout.common import json_option

if TYPE_CHECKING:
    from servegate.rollout.plan import Plan
    from servegate.rollout.traffic import Row


@click.command(short_help="Try a plan on invented traffic.")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--traffic", type=click.Path(path_type=Path), help="File that describes the service and regressions.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Requests per second, in place of the file's."
)
@click.option("--runs", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Rollouts per scenario.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the first rollout; the same gives the same.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Processes; default: one per core.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write a plot here: .svg, .png or .pdf.")
@json_option
def simulate(
    plan: Path,
    traffic: Path | None,
    rate: float | None,
    runs: int,
    seed: int,
    jobs: int | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Try the PLAN file on invented traffic: how often is a healthy release rolled back, how soon a broken one?

    It is the same decision code as in a rollout; only traffic and time are invented. Without --traffic: the rate the
    plan expects, first tokens after 72 ms, no errors, and the usual regressions.
    """
    from servegate.rollout import detection_plot
    from servegate.rollout.plan import load_plan
    from servegate.rollout.traffic import Traffic, load_traffic, measure

    rules = load_plan(plan)
    users = Traffic() if traffic is None else load_traffic(traffic)
    if rate is not None:
        users = users.model_copy(update={"requests_per_second": rate})
    if plot is not None:
        detection_plot.check(plot)
    with common.progress("rollouts") as advance:
        rows = measure(rules, users, runs, seed=seed, jobs=jobs, progress=advance)
    per_second = users.requests_per_second or rules.expect.requests_per_second
    if plot is not None:
        detected = {row.name: (row.detected, row.runs) for row in rows}
        detection_plot.write_plot(plot, detected, f"{rules.name}, {per_second:g} requests/s")
    if as_json:
        document = {
            "plan": rules.identity(),
            "alpha": rules.alpha,
            "requests_per_second": per_second,
            "traffic": users.model_dump(mode="json"),
            "seed": seed,
            "scenarios": [asdict(row) for row in rows],
        }
        click.echo(json.dumps(document, ensure_ascii=False))
        return
    click.echo(
        f"{rules.name}: {runs} rollouts of each kind at {per_second:g} requests/s, a look every {rules.tick:g} s"
    )
    for line in _table(rows):
        click.echo(line)
    click.echo("")
    for line in _verdict(rules, rows):
        click.echo(line)


def _table(rows: list[Row]) -> list[str]:
    from servegate.rollout.describe import plain

    width = max(len(plain(row.name)) for row in rows)
    head = f"{'':<{width}}  rolled back  promoted   after    95 % by  its requests (failed)   rollout  GPU-hours"
    lines = [head]
    for row in rows:
        exposed = "–" if row.exposed_median is None else f"{row.exposed_median:.0f} ({row.failed_median:.0f})"
        cells = (
            f"{row.rolled_back:>11.1%}",
            f"{row.promoted:>8.1%}",
            f"{_time(row.detect_median):>6}",
            f"{_time(row.detect_p95):>9}",
            f"{exposed:>21}",
            f"{_time(row.seconds_median):>8}",
            f"{row.gpu_hours_median:>9.2f}",
        )
        lines.append("  ".join((f"{plain(row.name):<{width}}", *cells)))
    return lines


def _verdict(plan: Plan, rows: list[Row]) -> list[str]:
    healthy = next(row for row in rows if not row.broken)
    low, high = healthy.rolled_back_interval
    lines = [
        (
            f"a healthy release is rolled back in {low:.1%} to {high:.1%} of rollouts (95 % interval); the plan "
            f"promises at most {plan.alpha:.1%}" + (": NOT KEPT with this traffic" if low > plan.alpha else "")
        )
    ]
    if healthy.causes:
        lines.append("  by " + ", ".join(f"{cause} ({count})" for cause, count in healthy.causes.items()))
    missed = [row for row in rows if row.broken and row.rolled_back < 0.5]
    if missed:
        lines.append("not found in most rollouts: " + ", ".join(row.name for row in missed))
    if healthy.promoted < 0.95:
        lines.append(
            f"a healthy release gets through unattended in {healthy.promoted:.1%} only: longer steps, or less evidence "
            f"asked for"
        )
    return lines


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
