"""`servegate rollout`: look at a rollout from another terminal, stop it, hold it, or check a plan before it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from servegate.rollout.ports import Lease
    from servegate.rollout.stores.sqlite import SqliteStore

WAIT = 15.0
"""Seconds an intent is given to be carried out before the command ends."""

store_option = click.option(
    "--store",
    "file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The file in which the rollout is remembered.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; kept in the history.")


@click.group(help="Move traffic to a release, or back.")
def command() -> None:
    """Group of the noun."""


@command.command()
@store_option
@json_option
def status(file: Path, as_json: bool) -> None:
    """Say where the rollout stands and what it waits for."""
    import time

    from servegate.rollout import memory

    store = _open(file)
    found, _ = memory.load(store)
    holder = store.holder()
    store.close()
    if found is None:
        click.echo("{}" if as_json else "no rollout yet")
        return
    state = found.state
    alive = _alive(holder, time.time())
    if as_json:
        document = state.model_dump(mode="json", exclude={"readings", "checks"})
        click.echo(json.dumps({**document, "controller": holder.holder if holder and alive else None}, indent=1))
        return
    names = {slot: item.name for slot, item in state.slots.items()}
    click.echo(f"{state.rollout}  {state.phase}  since {_time(state.phase_since)}")
    for slot in (state.stable, state.candidate):
        role = "stable" if slot == state.stable else "idle" if state.phase.finished else "candidate"
        total = state.totals.get(slot)
        counted = f"  {total.requests:.0f} requests, {total.failures:.0f} failed" if total else ""
        click.echo(f"  {slot:<8} {role:<10} {_plain(names[slot]):<20} {state.weights[slot]:5.1f} %{counted}")
    for label, text in (("because", state.reason), ("waits for", state.waiting)):
        if text:
            click.echo(f"  {label:<9} {_plain(text)}")
    if not state.phase.finished and not alive:
        click.echo("  no controller is at work on it: start it again to go on")


@command.command()
@store_option
@json_option
def history(file: Path, as_json: bool) -> None:
    """List what was decided, when and why."""
    from servegate.rollout import memory

    store = _open(file)
    lines = memory.history(store)
    store.close()
    if as_json:
        click.echo(json.dumps([line.model_dump(mode="json") for line in lines], indent=1, ensure_ascii=False))
        return
    for line in lines:
        weights = " ".join(f"{slot} {weight:g} %" for slot, weight in sorted(line.weights.items()))
        click.echo(f"{_time(line.at)}  {line.phase:<12} {_plain(line.release)}  {weights}")
        click.echo(f"  {_plain(line.reason)}")


@command.command()
@store_option
@reason_option
@json_option
def abort(file: Path, reason: str, as_json: bool) -> None:
    """Take the traffic back to the stable release."""
    _ask(file, "abort", reason, as_json)


@command.command()
@store_option
@reason_option
@json_option
def pause(file: Path, reason: str, as_json: bool) -> None:
    """Hold the rollout where it is; it goes on being judged and may still roll back."""
    _ask(file, "pause", reason, as_json)


@command.command()
@store_option
@reason_option
@json_option
def resume(file: Path, reason: str, as_json: bool) -> None:
    """Let a held rollout go on."""
    _ask(file, "resume", reason, as_json)


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def plan(file: Path, as_json: bool) -> None:
    """Check a plan FILE and print it as steps with times."""
    from servegate.rollout.plan import load_plan

    checked = load_plan(file)
    if as_json:
        click.echo(json.dumps({**checked.model_dump(mode="json"), "sha256": checked.identity()}, indent=1))
        return
    rate = checked.expect.requests_per_second
    click.echo(f"{checked.name}  {checked.identity()}")
    click.echo(f"  for {rate:g} requests/s, a look every {checked.tick:g} s")
    click.echo("  earliest  share   at least")
    at = 0.0
    for step in checked.steps:
        lasts = max(step.min_time, step.min_requests / (rate * step.weight / 100))
        needs = f"{step.min_time:g} s" + (f" and {step.min_requests} requests" if step.min_requests else "")
        click.echo(f"  {_duration(at):>8}  {step.weight:4g} %  {needs}")
        at += lasts
    click.echo(f"  {_duration(at):>8}  promoted")
    click.echo(
        f"  a healthy release is rolled back in at most {checked.alpha * 100:g} % of rollouts; checks and shares:"
    )
    for check in checked.checks:
        click.echo(f"    {check.name:<16} {check.kind:<18} {check.share * 100:g} %")


def _ask(file: Path, kind: str, reason: str, as_json: bool) -> None:
    import getpass
    import socket
    import time

    from servegate.errors import ConfigError
    from servegate.rollout import memory

    store = _open(file)
    try:
        found, _ = memory.load(store)
        if found is None:
            raise ConfigError(f"{file}: no rollout yet: there is nothing to {kind}")
        if found.state.phase.finished:
            raise ConfigError(f"{found.state.rollout} has ended ({found.state.phase}): there is nothing to {kind}")
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # no such user in this container
            user = "somebody"
        intent = store.submit(kind, f"{user}@{socket.gethostname()}", time.time(), reason)
        outcome = None
        deadline = time.monotonic() + WAIT
        while outcome is None and time.monotonic() < deadline and _alive(store.holder(), time.time()):
            time.sleep(0.1)
            outcome = store.outcome(intent)
        outcome = store.outcome(intent)
        if as_json:
            click.echo(json.dumps({"intent": intent.id, "kind": kind, "outcome": outcome}))
        elif outcome is None:
            click.echo(f"left as intent {intent.id}; no controller has taken it up yet")
        if outcome is not None and outcome.startswith("refused: "):
            raise ConfigError(f"{kind} was {outcome}")
        if outcome is not None and not as_json:
            click.echo(_plain(outcome))
    finally:
        store.close()


def _open(file: Path) -> SqliteStore:
    from servegate.rollout.stores.sqlite import SqliteStore

    return SqliteStore(file, create=False)


def _alive(holder: Lease | None, now: float) -> bool:
    return holder is not None and holder.expires > now


def _time(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"


def _plain(text: str) -> str:
    """Text of others without what would move a terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in text)
