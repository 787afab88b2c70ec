"""`servegate rollout`: move traffic to a release, look at it, hold it, take it back, from any terminal."""

from __future__ import annotations

import click

from servegate.cli.rollout import act, backtest, conduct, drill, look, order, replay, report, simulate, stage


@click.group(help="Move traffic to a release, or back.")
def command() -> None:
    """Group of the noun.

    Exit codes: 0 promoted, or what was asked is done; 1 rolled back; 2 usage, or refused; 3 undecided; 4 could not be
    done or not proven.
    """


for _each in (
    conduct.machine,
    stage.stage,
    stage.unstage,
    order.order,
    conduct.start,
    conduct.guard,
    drill.drill,
    look.status,
    look.watch,
    look.watchdog,
    look.history,
    report.report,
    act.pause,
    act.resume,
    act.promote,
    act.approve,
    act.abort,
    act.rollback,
    look.plan,
    replay.replay,
    simulate.simulate,
    backtest.backtest,
):
    command.add_command(_each)

__all__ = ["command"]
