"""`servegate doctor`: what is configured, what is missing, and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command(help="Say what is configured, what is missing, and what to do.")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path())
@click.option("--repository", metavar="OWNER/NAME", help="Look at this repository's settings; needs GITHUB_TOKEN.")
@click.option("--base-url", help="Look at a running engine: version and metrics.")
@click.option("--namespace", help="Look at this namespace of the cluster that kubectl talks to.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(folder: Path, repository: str | None, base_url: str | None, namespace: str | None, as_json: bool) -> int:
    """Look at FOLDER, and where asked at GitHub, at a running engine and at a cluster.

    Exit codes: 0 nothing is missing or wrong, 2 something is, 4 GitHub does not answer.
    """
    import json

    from servegate.endpoint import Endpoint
    from servegate.errors import ConfigError, ExitCode
    from servegate.pipeline import doctor

    found = [*doctor.files(folder), *doctor.image(folder), doctor.builder(), *doctor.workflows(folder)]
    if repository is not None:
        from servegate.github.api import Client
        from servegate.github.run import from_environment

        token = os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN")
        if not token:
            raise ConfigError("--repository needs GITHUB_TOKEN, with the right to read administration and actions")
        run = from_environment({**os.environ, "GITHUB_REPOSITORY": repository})
        found += doctor.github(run.repository, Client(run.api, run.graphql, token))
    if base_url is not None:
        found += doctor.server(Endpoint(base_url, api_key=os.environ.get("SERVEGATE_API_KEY") or None))
    if namespace is not None:
        from servegate.pipeline.doctor_cluster import cluster
        from servegate.rollout.kube import Kube

        kube = Kube(namespace)
        try:
            found += cluster(kube, namespace)
        finally:
            kube.close()
    bad = [item for item in found if item.state in (doctor.State.MISSING, doctor.State.WRONG)]
    if as_json:
        click.echo(json.dumps(doctor.as_json(found), indent=1))
        return ExitCode.USAGE if bad else ExitCode.PASS
    for item in found:
        first, *rest = item.found.splitlines() or [""]
        click.echo(f"{item.state:<8} {item.area:<10} {item.what}: {first}")
        for line in rest:
            click.echo(f"{'':<20}{line}")
        if item.todo:
            click.echo(f"{'':<20}→ {item.todo}")
    if repository is None:
        click.echo("not looked at: settings on GitHub (--repository OWNER/NAME)")
    if base_url is None:
        click.echo("not looked at: a running engine (--base-url URL)")
    if namespace is None:
        click.echo("not looked at: a cluster (--namespace NAME)")
    click.echo("Nothing is missing." if not bad else f"{len(bad)} to do.")
    return ExitCode.USAGE if bad else ExitCode.PASS
