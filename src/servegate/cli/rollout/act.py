"""Commands that ask something of a rollout from another terminal, as intents.

The controller carries them out. Where none is alive, the command that finds that out takes over: it waits for the
lease, applies the dead-man's rule, carries the intent out and stays until the rollout has ended.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from servegate.cli.rollout import common
from servegate.cli.rollout.common import (
    json_option,
    reason_option,
    registry_option,
    store_option,
    trust_option,
    verdict_option,
)

if TYPE_CHECKING:
    from servegate.cli.rollout.common import OpenStore
    from servegate.pipeline.verdicts import Verdicts
    from servegate.rollout.memory import Memory
    from servegate.rollout.model import State
    from servegate.rollout.ports import Intent
    from servegate.rollout.stores.config_map import ConfigMapStore

WAIT = 20.0
"""Seconds a living controller is given to carry an intent out."""
POLL = 0.1
TELL_AFTER = 3.0
JOB_WAIT = 300.0
"""Seconds a Job is given until it has begun: its image may have to be pulled."""

wait_option = click.option("--no-wait", is_flag=True, help="Do not wait until the traffic is back and that is proven.")
inside_option = click.option(
    "--in-cluster",
    is_flag=True,
    help="Where no controller is at work: have a Job of the cluster's watchdog do it, without rights on traffic.",
)
leave_option = click.option(
    "--no-take-over", is_flag=True, help="Only leave the intent when no controller is at work (then exit code 4)."
)


@click.command(short_help="Hold it where it is.")
@store_option
@reason_option
@leave_option
@json_option
def pause(file: Path, reason: str, no_take_over: bool, as_json: bool) -> None:
    """Hold the rollout where it is; it goes on being judged and may still roll back."""
    _ask(file, "pause", reason, as_json=as_json, take_over=not no_take_over)


@click.command()
@store_option
@reason_option
@leave_option
@json_option
def resume(file: Path, reason: str, no_take_over: bool, as_json: bool) -> None:
    """Let a held rollout go on."""
    _ask(file, "resume", reason, as_json=as_json, take_over=not no_take_over)


@click.command(short_help="Skip what is left of times and requests.")
@store_option
@reason_option
@click.option("--force", is_flag=True, help="Without the evidence; needs --reason. What was skipped is written down.")
@leave_option
@json_option
def promote(file: Path, reason: str, force: bool, no_take_over: bool, as_json: bool) -> None:
    """Skip what is left of times and requests; the evidence must be there."""
    from servegate.errors import ConfigError
    from servegate.rollout.intents import FORCE

    if force and not reason.strip():
        raise ConfigError("--force needs --reason: whoever reads the history must know why")
    target = FORCE if force else None
    _ask(file, "promote", reason, target, as_json=as_json, take_over=not no_take_over)


@click.command(short_help="Let the step go on that waits for a person.")
@store_option
@reason_option
@leave_option
@json_option
def approve(file: Path, reason: str, no_take_over: bool, as_json: bool) -> None:
    """Approve the next weight, where the plan wants a person's approval of it."""
    _ask(file, "approve", reason, as_json=as_json, take_over=not no_take_over)


@click.command(short_help="Give the candidate up; all traffic to stable.")
@store_option
@reason_option
@wait_option
@inside_option
@leave_option
@json_option
def abort(file: Path, reason: str, no_wait: bool, in_cluster: bool, no_take_over: bool, as_json: bool) -> None:
    """Take the traffic back to the stable release and give the candidate up."""
    _ask(
        file, "abort", reason, as_json=as_json, take_over=not no_take_over, to_the_end=not no_wait, inside=in_cluster
    )  # fmt: skip


@click.command(short_help="Back to the release before, or a named one.")
@click.argument("name", required=False)
@store_option
@reason_option
@click.option("--release", type=click.Path(path_type=Path), help="File of a release that the store does not know.")
@verdict_option
@registry_option
@trust_option
@click.option(
    "--override", is_flag=True, help="Go back to --release even without a pass; needs --reason, written down."
)
@wait_option
@inside_option
@leave_option
@json_option
def rollback(
    name: str | None,
    file: Path,
    reason: str,
    release: Path | None,
    verdict: tuple[Path, ...],
    registry: bool,
    trust: Path | None,
    override: bool,
    no_wait: bool,
    in_cluster: bool,
    no_take_over: bool,
    as_json: bool,
) -> None:
    """Go back to the release before, or to a verified release by NAME or digest, also after the promotion.

    While the old release is warm its traffic is back at once. Otherwise it is started, found ready and smoke-tested
    before it gets any. Ends with proof (exit code 0), or says that there is none and what to look at (exit code 4).
    """
    from servegate.config import load
    from servegate.errors import ConfigError
    from servegate.release import Release

    if name is not None and release is not None:
        raise ConfigError("name a release or give its file, not both")
    if in_cluster and release is not None:
        raise ConfigError("--in-cluster goes back to a release that the store knows; --release brings one along")
    target = None
    if release is not None:
        target = load(release, Release).model_dump_json()
    elif name is not None:
        target = _digest(file, name)
    if override and (release is None or trust is None or not reason.strip()):
        raise ConfigError("--override goes with --release, --trust and --reason: it is written down")
    trusted = None if release is None or trust is None else common.verdicts(trust, verdict, registry)
    _ask(
        file, "rollback", reason, target, as_json=as_json, take_over=not no_take_over, to_the_end=not no_wait,
        inside=in_cluster, trusted=trusted, override=override,
    )  # fmt: skip


def _digest(file: Path, name: str) -> str:
    """Digest of a verified release by its name, its digest or the beginning of that."""
    from servegate.errors import ConfigError

    store = common.open_store(file)
    try:
        known = _known(store, file, "roll back").names()
    finally:
        store.close()
    hits = [
        digest
        for digest, each in known.items()
        if name in (each, digest) or (len(name) >= 6 and digest.removeprefix("sha256:").startswith(name))
    ]
    if len(hits) == 1:
        return hits[0]
    listed = ", ".join(f"{each} ({digest.removeprefix('sha256:')[:12]})" for digest, each in known.items())
    what = "several verified releases are" if hits else "no verified release is"
    raise ConfigError(f"{what} called {name!r}; there are {listed or 'none'}")


def _known(store: OpenStore, file: Path, what: str) -> Memory:
    from servegate.errors import ConfigError
    from servegate.rollout import memory

    found, _ = memory.load(store)
    if found is None:
        raise ConfigError(f"{file}: no rollout yet: there is nothing to {what}")
    return found


def _ask(
    file: Path,
    kind: str,
    reason: str,
    target: str | None = None,
    *,
    as_json: bool,
    take_over: bool,
    to_the_end: bool = False,
    inside: bool = False,
    trusted: Verdicts | None = None,
    override: bool = False,
) -> None:
    """Leave an intent, see it carried out by the controller or by ourselves, and say what came of it."""
    from servegate.errors import ConfigError, InfrastructureError
    from servegate.rollout.stores.config_map import ConfigMapStore

    store = common.open_store(file)
    try:
        if inside and not isinstance(store, ConfigMapStore):
            raise ConfigError(f"--in-cluster is for a store in a cluster, such as kubernetes:llm; {file} is a file")
        found = _known(store, file, kind)
        if found.state.phase.finished and kind != "rollback":
            hint = "; rollback takes it back" if found.state.phase == "PROMOTED" and kind == "abort" else ""
            raise ConfigError(
                f"{found.state.rollout} has ended ({found.state.phase}): there is nothing to {kind}{hint}"
            )
        intent = _left(store, kind, reason, target)
        outcome = _carried_out(store, intent)
        state = None
        if outcome is None and isinstance(store, ConfigMapStore) and inside and _nobody(store):
            outcome = _by_a_job(store, intent)
        if outcome is None and not inside and _nobody(store) and take_over and found.site is not None:
            if not as_json and not found.state.phase.finished:
                click.echo("no controller is at work on it: this command takes over", err=True)
            with common.taken_over(file, found, trusted, override=override) as controller:
                state = common.run(controller)
            outcome = store.outcome(intent)
        elif outcome is not None and to_the_end and not outcome.startswith("refused: "):
            state = _followed(store, file)
        if outcome is None:
            text = f"left as intent {intent.id}; no controller has taken it up yet"
            if as_json:
                click.echo(json.dumps({"intent": intent.id, "kind": kind, "outcome": None}))
            raise InfrastructureError(f"{kind} is not done: {text}")
        _tell(intent, outcome, as_json)
        if outcome.startswith("refused: "):
            raise ConfigError(f"{kind} was {outcome}")
        if state is not None:
            _end(kind, store, file, as_json)
    finally:
        store.close()


def _left(store: OpenStore, kind: str, reason: str, target: str | None) -> Intent:
    """The intent; one that asks the same and is still waiting is not left twice."""
    import time

    for waiting in store.intents():
        if (waiting.kind, waiting.target) == (kind, target):
            return waiting
    return store.submit(kind, common.asker(), time.time(), reason, target)


def _carried_out(store: OpenStore, intent: Intent) -> str | None:
    import time

    began = time.monotonic()
    told = False
    outcome = store.outcome(intent)
    while outcome is None and time.monotonic() < began + WAIT and not _nobody(store):
        holder = store.holder()
        if not told and holder is not None and time.monotonic() > began + TELL_AFTER:
            click.echo(
                f"waiting for the controller {holder.holder}; it has the lease for "
                f"{max(0.0, holder.expires - time.time()):.0f} s",
                err=True,
            )
            told = True
        time.sleep(POLL)
        outcome = store.outcome(intent)
    return store.outcome(intent)


def _by_a_job(store: ConfigMapStore, intent: Intent) -> str | None:
    """Have a Job of the watchdog carry an intent out; what came of it, None when nobody has taken it up in time."""
    import time

    from servegate.pipeline import watchdog_job

    click.echo(watchdog_job.start(store.kube, intent.id), err=True)
    deadline = time.monotonic() + JOB_WAIT
    while (outcome := store.outcome(intent)) is None and time.monotonic() < deadline:
        time.sleep(1.0)
    return outcome


def _followed(store: OpenStore, file: Path) -> State:
    """Wait until what the controller does has ended; it may die meanwhile."""
    import time

    from servegate.errors import InfrastructureError

    while True:
        state = _known(store, file, "follow").state
        if state.phase.finished:
            return state
        if _nobody(store):
            raise InfrastructureError("the controller ended before the rollback did; ask again to take over")
        time.sleep(POLL)


def _nobody(store: OpenStore) -> bool:
    import time

    from servegate.rollout import describe

    return not describe.alive(store.holder(), time.time())


def _tell(intent: Intent, outcome: str, as_json: bool) -> None:
    from servegate.rollout.describe import plain

    if as_json:
        click.echo(json.dumps({"intent": intent.id, "kind": intent.kind, "outcome": outcome}))
    elif not outcome.startswith("refused: "):
        click.echo(plain(outcome))


def _end(kind: str, store: OpenStore, file: Path, as_json: bool) -> None:
    """How it ended. Rolled back is what abort and rollback ask for: success when proven."""
    from servegate.errors import ExitCode
    from servegate.pipeline.canary import exit_code

    state = _known(store, file, kind).state
    if not as_json:
        common.print_lines(_known(store, file, kind), store)
    code = exit_code(state)
    if kind in ("abort", "rollback") and state.phase == "ROLLED_BACK" and not state.unproven:
        code = ExitCode.PASS
    if kind == "rollback" and state.phase == "PROMOTED":
        code = ExitCode.PASS if not state.unproven else ExitCode.INFRASTRUCTURE
    raise SystemExit(int(code))
