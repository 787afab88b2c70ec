"""Commands that stay: the machine, a rollout, and the guard after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from servegate.cli.rollout import common
from servegate.cli.rollout.common import json_option, registry_option, store_option, trust_option, verdict_option
from servegate.cli.rollout.room import looked_for_room

if TYPE_CHECKING:
    from servegate.release import Release
    from servegate.rollout.memory import Memory
    from servegate.rollout.model import State
    from servegate.rollout.plan import Plan
    from servegate.rollout.ports import Store

listen_option = click.option(
    "--listen", metavar="HOST:PORT", help="Accept Alertmanager's webhooks at http://HOST:PORT/alerts."
)
token_option = click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    envvar="SERVEGATE_WEBHOOK_TOKEN_FILE",
    show_envvar=True,
    help="File with the bearer token that Alertmanager sends.",
)


@click.command(short_help="Keep Envoy and two slots up on this machine.")
@click.argument("site", type=click.Path(path_type=Path))
@click.option("--stable", type=click.Path(path_type=Path), help="File of the release that serves, the first time.")
def machine(site: Path, stable: Path | None) -> None:
    """Keep Envoy and two slots up on this machine (SITE file) until Ctrl-C: a place to roll out without a cluster."""
    import signal
    import time

    from servegate.config import load
    from servegate.errors import ExitCode
    from servegate.pipeline.machine import up
    from servegate.pipeline.site import load_machine
    from servegate.release import Release

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    where = load_machine(site)
    release = None if stable is None else load(stable, Release)
    try:
        with up(where, release, click.echo) as running:
            while not all(running.ready(slot) for slot in running.serving):
                time.sleep(0.1)
            click.echo(f"users connect to {running.envoy.url}; the rollout is remembered in {where.store}")
            while True:
                running.envoy.check()
                time.sleep(0.5)
    except KeyboardInterrupt:
        click.echo("ended: Envoy and the engines are down", err=True)
        raise SystemExit(ExitCode.INTERRUPTED) from None


@click.command(short_help="Roll a release out, and stay until the end.")
@click.argument("release", type=click.Path(path_type=Path))
@click.option("--site", type=click.Path(path_type=Path), required=True, help="File that says where.")
@click.option("--namespace", metavar="NAME", help="Of the cluster; instead of the one in the --site file.")
@click.option("--plan", type=click.Path(path_type=Path), required=True, help="File of the plan.")
@verdict_option
@registry_option
@trust_option
@click.option(
    "--stable",
    type=click.Path(path_type=Path),
    help="File of the release that serves, the first time; later it may be missing.",
)
@click.option("--guard", "guarded", is_flag=True, help="Go on watching after the promotion, as `rollout guard` does.")
@click.option(
    "--run",
    "order",
    metavar="ID",
    envvar="SERVEGATE_RUN",
    show_envvar=True,
    help="Whose order this is, such as a Job's: its rollout is not begun again when it has ended.",
)
@click.option("--dry-run", is_flag=True, help="Look at everything that is asked before, and change nothing.")
@listen_option
@token_option
@json_option
def start(
    release: Path,
    site: Path,
    namespace: str | None,
    plan: Path,
    verdict: tuple[Path, ...],
    registry: bool,
    trust: Path | None,
    stable: Path | None,
    guarded: bool,
    order: str | None,
    dry_run: bool,
    listen: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Roll the RELEASE file out, or go on with it, and stay until it is promoted or rolled back.

    It begins only with a passing verdict that counts by the --trust file. To go on with it no file
    is needed: the verdict it began with stands in the store.

    Exit codes: 0 promoted, 1 rolled back or refused by its verdict, 2 configuration, 3 undecided or no verdict that
    counts, 4 could not go on or not proven.
    """
    state = conducted(
        release, site, plan, namespace=namespace, verdict=verdict, registry=registry, trust=trust, stable=stable,
        guarded=guarded, order=order, dry_run=dry_run, listen=listen, token_file=token_file, quiet=as_json,
    )  # fmt: skip
    common.finish(state, as_json)


def conducted(
    release: Path,
    site: Path,
    plan: Path,
    *,
    namespace: str | None = None,
    verdict: tuple[Path, ...] = (),
    registry: bool = False,
    trust: Path | None = None,
    stable: Path | None = None,
    guarded: bool = False,
    order: str | None = None,
    dry_run: bool = False,
    listen: str | None = None,
    token_file: Path | None = None,
    quiet: bool = False,
) -> State:
    """Roll a release out, or go on with it; the state in which it ended. Its report is written.

    Args:
        dry_run: end when everything that is asked before has been looked at (SystemExit).
        quiet: what happens is shown on stderr.
    """
    from rich.console import Console

    from servegate.config import load
    from servegate.errors import ConfigError
    from servegate.pipeline.canary import controller_for, shown
    from servegate.pipeline.live_quality import read_suites
    from servegate.pipeline.site import allows_drills, load_site, opened
    from servegate.pipeline.verdicts import none_given
    from servegate.release import Release
    from servegate.report.live import CanaryView
    from servegate.rollout import memory
    from servegate.rollout.model import Phase
    from servegate.rollout.plan import load_plan

    where, rules, wanted = load_site(site, namespace), load_plan(plan), load(release, Release)
    trusted = None if trust is None else common.verdicts(trust, verdict, registry, allows_drills(where))
    if guarded and rules.guard is None:
        raise ConfigError(f"plan {rules.name} has no `guard`")
    read_suites(rules)
    console = Console(stderr=quiet)
    serving = load(stable, Release) if stable is not None and stable.exists() else None
    releases = [wanted] if serving is None else [wanted, serving]
    with opened(where, releases) as place, _alerts(rules, place.store, listen, token_file):
        found, _ = memory.load(place.store)
        begun = found is not None and order is not None and found.run == order  # it may have ended
        settled = begun or _under_way(found, wanted)
        if trusted is None and not settled:
            raise ConfigError("whose verdicts count? Give --trust FILE: no verdict, no traffic")
        if not settled:  # what is under way goes on: it is judged, and sent back when it cannot be
            common.check_source(place.source, rules)
        controller = controller_for(
            rules,
            place,
            verdict=none_given if trusted is None else trusted.find(wanted),
            past=None if trusted is None else trusted.past(where.emergencies),
            slots=place.slots,
            site=place.document,
            timeline=where.timeline,
            on_notice=common.notice,
        )
        if not begun:
            _not_frozen(rules, found)
            if trusted is not None and not settled:
                trusted.require(wanted)
        if serving is None and found is None:
            serving = place.serving()
            if serving is None:
                raise ConfigError(_unknown(stable))
        looked_for_room(where, place, found, rules, wanted, serving, order, dry_run=dry_run, as_json=quiet)
        state = controller.start(wanted, serving, order)
        with CanaryView(shown(rules, state), console) as view:
            controller.on_tick = view
            with common.keeping(controller, state, where.root):
                state = common.run(controller)
                if guarded and state.phase is Phase.PROMOTED:
                    controller.request("guard", by=common.asker())
                    state = common.run(controller)
    common.write_report(where.root)
    return state


@click.command(short_help="Watch a promoted release; roll it back if it must.")
@store_option
@listen_option
@token_option
@json_option
def guard(file: Path, listen: str | None, token_file: Path | None, as_json: bool) -> None:
    """Watch a promoted release through the rollback window: objectives, life and alerts still roll it back.

    Exit codes: 0 the window ended well, 1 rolled back, 2 there is nothing to watch, 4 rolled back and not proven.
    """
    from servegate.errors import ConfigError
    from servegate.rollout import memory
    from servegate.rollout.model import Phase

    store = common.open_store(file)
    try:
        found, _ = memory.load(store)
    finally:
        store.close()
    if found is None:
        raise ConfigError(f"{file}: no rollout yet: there is nothing to watch")
    with common.taken_over(file, found) as controller, _alerts(controller.plan, controller.store, listen, token_file):
        if found.state.phase is Phase.PROMOTED:
            controller.request("guard", by=common.asker())
        state = common.run(controller)
    if state.phase is Phase.PROMOTED and (state.guard is None or not state.guard.ended):
        raise ConfigError(f"{state.rollout}: the plan has no guard, or its window is over")
    common.finish(state, as_json)


def _not_frozen(plan: Plan, found: Memory | None) -> None:
    """Refuse to begin within a freeze; a rollout that is under way may be taken up again, and stands still."""
    import time

    from servegate.errors import ConfigError

    frozen = plan.frozen(time.time())
    if frozen is not None and (found is None or found.state.phase.finished):
        raise ConfigError(f"plan {plan.name} is {frozen}; abort and rollback are never frozen")


def _unknown(stable: Path | None) -> str:
    """What to do before a first rollout, when nobody knows what serves."""
    given = "" if stable is None else f"{stable}: no such file, and "
    return (
        f"{given}the store has seen no rollout yet: what serves now? Say it with --stable FILE; in a cluster where "
        f"nothing serves yet, `servegate rollout stage FILE --site FILE --first` puts the first release there"
    )


def _under_way(found: Memory | None, release: Release) -> bool:
    """Whether a rollout of this release goes on, whose verdict was looked at when it began."""
    if found is None or found.state.phase.finished or found.state.verdict is None:
        return False
    return release.identity() in {item.release for item in found.state.slots.values()}


@contextmanager
def _alerts(plan: Plan, store: Store, listen: str | None, token_file: Path | None) -> Iterator[None]:
    """Accept webhooks while the context lasts, where they are wanted."""
    from servegate.errors import ConfigError

    if listen is None:
        yield
        return
    from servegate.rollout.alerts import listening

    if token_file is None:
        raise ConfigError("--listen needs --token-file: whoever may send alerts may roll back")
    try:
        token = token_file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{token_file}: cannot be read: {error}") from error
    with listening(plan, store, listen, token, common.notice) as url:
        click.echo(f"alerts are accepted at {url}", err=True)
        yield
