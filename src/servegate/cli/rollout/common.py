"""What the commands of a rollout share: the store, who asks, and running a controller in this terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from servegate.pipeline.verdicts import Verdicts
    from servegate.report.records import CanaryTick
    from servegate.rollout.controller import Controller
    from servegate.rollout.memory import Memory
    from servegate.rollout.model import State
    from servegate.rollout.plan import Plan
    from servegate.rollout.ports import Source
    from servegate.rollout.stores.config_map import ConfigMapStore
    from servegate.rollout.stores.sqlite import SqliteStore

    OpenStore = ConfigMapStore | SqliteStore

IN_CLUSTER = "kubernetes:"
"""Beginning of a store that is not a file: `kubernetes:<namespace>` or `kubernetes:<namespace>/<name>`."""

store_option = click.option(
    "--store",
    "file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    envvar="SERVEGATE_STORE",
    show_envvar=True,
    help="The file in which the rollout is remembered, or kubernetes:NAMESPACE.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
trust_option = click.option(
    "--trust",
    type=click.Path(path_type=Path),
    envvar="SERVEGATE_TRUST",
    show_envvar=True,
    help="File that says whose verdicts count; see docs/verdicts.md.",
)
verdict_option = click.option(
    "--verdict",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Signed verdict, or a folder of such; repeatable. Without: the registry of the release's image is asked.",
)
registry_option = click.option("--registry", is_flag=True, help="Ask the registry as well as --verdict.")
reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; kept in the history.")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows (done, of all) with an estimate on stderr, where somebody looks at it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from servegate.report.terminal import interactive

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not interactive(console)) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, of_all: shown.update(task, completed=done, total=of_all)


def open_store(file: Path) -> OpenStore:
    """The store; it must be there."""
    if str(file).startswith(IN_CLUSTER):
        from servegate.rollout.kube import Kube
        from servegate.rollout.stores.config_map import ConfigMapStore

        namespace, _, name = str(file).removeprefix(IN_CLUSTER).partition("/")
        return ConfigMapStore(Kube(namespace or None), name or "servegate")
    from servegate.rollout.stores.sqlite import SqliteStore

    return SqliteStore(file, create=False)


def asker() -> str:
    """Who sits at this terminal."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def print_lines(known: Memory, store: OpenStore) -> None:
    """Where the rollout stands."""
    for line in described(known, store):
        click.echo(line)


def described(known: Memory, store: OpenStore) -> list[str]:
    """Lines about where the rollout stands, safe for a terminal."""
    import time

    from servegate.rollout import describe

    return [describe.plain(line) for line in describe.lines(known, plan_of(known), store.holder(), time.time())]


def plan_of(known: Memory) -> Plan | None:
    """The plan as the store has it; None when this version cannot read it."""
    from servegate.errors import ConfigError
    from servegate.pipeline.canary import remembered_plan

    try:
        return remembered_plan(known)
    except ConfigError:  # who only looks sees the state without it
        return None


def verdicts(trust: Path, files: tuple[Path, ...], registry: bool, drills: bool = False) -> Verdicts:
    """Verdicts that count by a trust file; the registry is asked where no file is named, drills count where allowed."""
    from servegate.gates.trust import load_trust
    from servegate.pipeline import verdicts

    return verdicts.Verdicts(load_trust(trust), verdicts.files(files, registry=registry or not files), drills=drills)


@contextmanager
def taken_over(
    file: Path, known: Memory, trusted: Verdicts | None = None, *, override: bool = False
) -> Iterator[Controller]:
    """A controller for the rollout that a store knows, at the site it names; it shows what happens in this terminal.

    Raises:
        ConfigError: the store does not say where the rollout happens, or by which plan.
        LeaseLostError: somebody else is at work on it.
    """
    from servegate.pipeline.canary import controller_for, remembered_plan, shown
    from servegate.pipeline.site import opened, remembered
    from servegate.pipeline.verdicts import none_given
    from servegate.report.live import CanaryView

    plan = remembered_plan(known)
    site = remembered(known.site, str(file))
    with opened(site, known.releases.values()) as place, CanaryView(shown(plan, known.state)) as view:
        controller = controller_for(
            plan,
            place,
            slots=place.slots,
            site=place.document,
            verdict=none_given if trusted is None else trusted.find(*known.releases.values()),
            past=None if trusted is None else trusted.past(site.emergencies, override=override),
            timeline=site.timeline,
            on_tick=lambda tick: None if tick.phase == known.state.phase and known.state.phase.finished else view(tick),
            on_notice=notice,
        )
        state = controller.resume()
        with keeping(controller, state, site.root):
            yield controller


@contextmanager
def keeping(controller: Controller, state: State, folder: Path) -> Iterator[None]:
    """Keep the audit trail where it survives this pod, and at the end the report: where the store is in a cluster."""
    from servegate.pipeline.kept import Keeper
    from servegate.rollout.ports import FencedError, LeaseLostError
    from servegate.rollout.stores.config_map import ConfigMapStore

    if not isinstance(controller.store, ConfigMapStore):
        yield
        return
    keeper, show = Keeper(controller.store, folder, notice), controller.on_tick
    keeper.restore(state.rollout)

    def both(tick: CanaryTick) -> None:
        show(tick)
        keeper(controller.state.rollout, tick)

    controller.on_tick = both
    try:
        yield
    except (LeaseLostError, FencedError):
        raise  # somebody else keeps it now
    except BaseException:
        keeper.keep(controller.state.rollout)
        raise
    keeper.keep(controller.state.rollout, ended=controller.state.phase.finished)


def notice(level: str, message: str) -> None:
    """A line for the person at this terminal; what is only for information is in the view already."""
    from servegate.rollout.describe import plain

    if level != "info":
        click.echo(f"{level}: {plain(message)}", err=True)


def run(controller: Controller) -> State:
    """Run to the end; Ctrl-C and SIGTERM leave the traffic as it is and say what that means."""
    import signal

    from servegate.errors import ExitCode

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        return controller.run()
    except KeyboardInterrupt:
        state, plan = controller.state, controller.plan
        click.echo(f"\nnobody controls {state.rollout} now; the weights stay as they are ({_weights(state)})", err=True)
        if state.phase.weighted and state.weights[state.candidate] > 0 and plan.on_unwatched != "continue":
            what = "rolled back" if plan.on_unwatched == "rollback" else "held"
            click.echo(
                f"taken up again within {plan.unwatched_after:g} s it goes on; later it is {what} by whoever sees it "
                f"first (`servegate rollout start` or `watch`); `abort` takes it back now",
                err=True,
            )
        raise SystemExit(ExitCode.INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def check_source(source: Source, plan: Plan) -> None:
    """Refuse to begin when the counters that the plan judges are not there where they are asked for.

    Raises:
        ConfigError: with every metric that is missing, and the nearest name that is there.
        InfrastructureError: Prometheus cannot be asked, or nobody knows which engines there are.
    """
    import time

    from servegate.errors import ConfigError
    from servegate.rollout.sources.combined import CombinedSource
    from servegate.rollout.sources.direct import DirectSource
    from servegate.rollout.sources.prometheus import PrometheusSource

    problems: list[str] = []
    for part in source.sources if isinstance(source, CombinedSource) else (source,):
        if isinstance(part, PrometheusSource):
            problems += part.preflight(sorted({"http_requests", *plan.engine_metrics}), time.time())
        elif isinstance(part, DirectSource):
            problems += part.preflight(plan.engine_metrics)
    if problems:
        raise ConfigError("\n".join(problems))


def write_report(folder: Path) -> None:
    """Write the canary's report beside its audit trail."""
    from servegate.errors import ServegateError
    from servegate.rollout.canary_report import canary_report

    try:
        canary_report(folder / "audit.jsonl", folder / "report.json").write(folder / "report.json")
    except ServegateError as error:  # the rollout has ended, whatever becomes of its report
        notice("warning", f"no report: {error}")


def print_end(state: State) -> None:
    """How it ended, and why."""
    from servegate.rollout.describe import plain

    click.echo(f"{state.rollout}  {state.phase}  {_weights(state)}")
    for label, text in (("because", state.reason), ("proof", state.proven), ("NOT PROVEN", state.unproven)):
        if text:
            click.echo(f"  {label:<10} {plain(text)}")


def finish(state: State, as_json: bool) -> None:
    """Say how it ended, and end with its exit code."""
    import json

    from servegate.pipeline.canary import exit_code

    if as_json:
        click.echo(json.dumps(document(state)))
    else:
        print_end(state)
    raise SystemExit(int(exit_code(state)))


def document(state: State) -> dict[str, Any]:
    """The state for programs, without what only the next tick needs."""
    return state.model_dump(mode="json", exclude={"readings": True, "checks": True, "guard": {"checks"}})


def _weights(state: State) -> str:
    return ", ".join(f"{slot} {weight:g} %" for slot, weight in sorted(state.weights.items()))
