"""Commands that look at a rollout, or at a plan before it is used. They change nothing, but `watch` may take over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from servegate.cli.rollout import common
from servegate.cli.rollout.common import json_option, store_option

if TYPE_CHECKING:
    from servegate.cli.rollout.common import OpenStore
    from servegate.rollout.memory import Memory

LOOK_EVERY = 0.5
"""Seconds between two looks of `watch`."""


@click.command(short_help="Where it stands and what it waits for.")
@store_option
@json_option
def status(file: Path, as_json: bool) -> None:
    """Say where the rollout stands, how near each check is, and what it waits for."""
    import time

    from servegate.rollout import describe, memory

    store = common.open_store(file)
    try:
        found, _ = memory.load(store)
        if found is None:
            click.echo("{}" if as_json else "no rollout yet")
            return
        if not as_json:
            common.print_lines(found, store)
            return
        holder = store.holder()
        present = holder.holder if holder is not None and describe.alive(holder, time.time()) else None
        click.echo(json.dumps({**common.document(found.state), "controller": present}, indent=1))
    finally:
        store.close()


@click.command(short_help="Follow it to its end.")
@store_option
@click.option("--look-only", is_flag=True, help="Do not take over when no controller is at work.")
def watch(file: Path, look_only: bool) -> None:
    """Follow the rollout until it ends; takes over when its controller is dead.

    Ends with the exit code of the rollout: 0 promoted, 1 rolled back, 3 undecided, 4 not proven.
    """
    from servegate.errors import ConfigError
    from servegate.rollout import memory

    store = common.open_store(file)
    try:
        found, _ = memory.load(store)
        if found is None:
            raise ConfigError(f"{file}: no rollout yet: there is nothing to watch")
        found, ended = _follow(store, found, take_over=not look_only)
    finally:
        store.close()
    if ended:
        common.finish(found.state, as_json=False)
    click.echo("no controller is at work on it: taking over")
    with common.taken_over(file, found) as controller:
        state = common.run(controller)
    common.finish(state, as_json=False)


@click.command(short_help="Take over when nobody is at work, once.")
@store_option
def watchdog(file: Path) -> None:
    """Look once, for a timer: when no controller has been at work for as long as the plan allows, take over and apply
    its dead-man's rule (on_unwatched). Whoever is at work, or not away for that long yet, is left alone.

    A rollback or an abort that somebody asked for and nobody carries out is carried out at once, also after the end of
    the rollout.

    Exit codes: 0 nothing to do, or taken to an end; 4 could not be done or not proven.
    """
    import time

    from servegate.errors import ExitCode
    from servegate.pipeline.canary import exit_code
    from servegate.rollout import describe, memory
    from servegate.rollout.ports import LeaseLostError

    store = common.open_store(file)
    try:
        found, _ = memory.load(store)
        holder = store.holder()
        asked = [intent for intent in store.intents() if intent.kind in ("rollback", "abort")]
    finally:
        store.close()
    if found is None or (found.state.phase.finished and not asked):
        click.echo("no rollout is under way")
        return
    name, now = found.state.rollout, time.time()
    if holder is not None and describe.alive(holder, now):
        click.echo(f"{name}: {describe.plain(holder.holder)} is at work on it")
        return
    plan = common.plan_of(found)
    left = None if plan is None else found.state.updated + plan.unwatched_after - now
    if asked:
        click.echo(f"{name}: {describe.plain(asked[0].by)} asks for {asked[0].kind}: taking over")
    elif left is not None and left > 0:
        click.echo(f"{name}: nobody is at work on it; its controller may come back for another {left:.0f} s")
        return
    else:
        click.echo(f"{name}: nobody has been at work on it for {now - found.state.updated:.0f} s: taking over")
    try:
        with common.taken_over(file, found) as controller:
            state = common.run(controller)
    except LeaseLostError as error:
        click.echo(f"{name}: somebody else was faster: {describe.plain(str(error))}")
        return
    common.print_end(state)
    code = exit_code(state)
    raise SystemExit(int(code if code is ExitCode.INFRASTRUCTURE else ExitCode.PASS))


def _follow(store: OpenStore, found: Memory, *, take_over: bool) -> tuple[Memory, bool]:
    """Show the rollout until it has ended (True), or until nobody is at work on it and we are to take over (False)."""
    import time

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from servegate.report.terminal import interactive
    from servegate.rollout import describe, memory

    console = Console()
    shown = ""
    with Live(console=console, auto_refresh=False) if interactive(console) else _Lines() as view:
        while True:
            latest, _ = memory.load(store)
            found = latest or found
            text = "\n".join(common.described(found, store))
            news = f"{found.state.phase} {found.state.step} {found.state.reason}"
            if isinstance(view, Live):
                view.update(Text(text), refresh=True)
            elif news != shown:
                click.echo(text)
            shown = news
            if found.state.phase.finished:
                return found, True
            if take_over and not describe.alive(store.holder(), time.time()):
                return found, False
            time.sleep(LOOK_EVERY)


class _Lines:
    """Stands in for the live view where nobody looks at a terminal."""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to give back."""


@click.command(short_help="What was decided, when, why, by whom.")
@store_option
@json_option
def history(file: Path, as_json: bool) -> None:
    """List what was decided, when, why and by whom."""
    from servegate.rollout import describe, memory

    store = common.open_store(file)
    try:
        lines = memory.history(store)
    finally:
        store.close()
    if as_json:
        click.echo(json.dumps([line.model_dump(mode="json") for line in lines], indent=1, ensure_ascii=False))
        return
    for line in lines:
        weights = " ".join(f"{slot} {weight:g} %" for slot, weight in sorted(line.weights.items()))
        click.echo(f"{describe.clock(line.at)}  {line.phase:<12} {describe.plain(line.release)}  {weights}")
        click.echo(f"  {describe.plain(line.reason)}")


@click.command(short_help="Check a plan; how long must its steps be?")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--fit", "wanted", is_flag=True, help="Find by simulation how long the steps must be.")
@click.option("--traffic", type=click.Path(path_type=Path), help="With --fit: the service and the regressions.")
@click.option("--runs", type=click.IntRange(5, 10_000), default=20, show_default=True, help="With --fit: of each kind.")
@json_option
def plan(file: Path, wanted: bool, traffic: Path | None, runs: int, as_json: bool) -> None:
    """Check a plan FILE and print it as steps with times; a plan that could not decide is refused with what would do.

    With --fit the plan is tried on invented traffic with longer and longer steps, until the regressions are found in
    95 % of rollouts.
    """
    import time

    from servegate.cli.rollout import fit
    from servegate.errors import ConfigError
    from servegate.rollout import describe
    from servegate.rollout.plan import load_plan

    checked = load_plan(file)
    if traffic is not None and not wanted:
        raise ConfigError("--traffic is for --fit")
    found = fit.fitted(checked, traffic, runs) if wanted else None
    if as_json:
        more = {} if found is None else {"fit": fit.document(found)}
        click.echo(json.dumps({**checked.model_dump(mode="json"), "sha256": checked.identity(), **more}, indent=1))
        return
    for line in describe.plan_lines(checked, time.time()):
        click.echo(describe.plain(line))
    if found is not None:
        fit.show(found)
