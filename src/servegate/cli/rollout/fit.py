"""`servegate rollout plan --fit`: how long the steps must be."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servegate.cli.rollout import common

if TYPE_CHECKING:
    from servegate.rollout.fit import Fit
    from servegate.rollout.plan import Plan


def fitted(plan: Plan, traffic: Path | None, runs: int) -> Fit:
    """Try the plan with longer and longer steps."""
    from servegate.rollout.fit import fit
    from servegate.rollout.traffic import Traffic, load_traffic

    users = Traffic() if traffic is None else load_traffic(traffic)
    with common.progress("step lengths") as advance:
        return fit(plan, users, runs=runs, progress=advance)


def document(found: Fit) -> dict[str, Any]:
    """For programs."""
    return asdict(found)


def show(found: Fit) -> None:
    """For people."""
    from servegate.rollout.describe import plain

    width = max(len(plain(need.name)) for need in found.needs)
    click.echo("\n  needed to find (simulated)")
    healthy, *regressions = found.needs
    for need in regressions:
        how = "not found by this plan" if need.factor is None else f"all steps × {need.factor:g}"
        click.echo(f"    {plain(need.name):<{width}}  {how:<22}  found in {need.share:.0%}")
    if found.factor is None:
        click.echo("  no regression would be found with steps up to five times as long: other checks, or more traffic")
        return
    click.echo("  each step as long as it must be itself:")
    for weight, now, needed in found.steps:
        longer = "" if needed == now else f"  (now {now:g} s)"
        click.echo(f"    {weight:>6g} %  {needed:g} s{longer}")
    click.echo(f"  a healthy release then gets through unattended in {healthy.share:.0%}")
