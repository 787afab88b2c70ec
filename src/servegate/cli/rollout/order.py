"""`servegate rollout order`: the files of a controller's Job."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Gather what a controller in the cluster needs.")
@click.argument("release", type=click.Path(path_type=Path))
@click.option("--site", type=click.Path(path_type=Path), required=True, help="File that says where.")
@click.option("--namespace", metavar="NAME", help="Of the cluster; instead of the one in the --site file.")
@click.option("--plan", type=click.Path(path_type=Path), required=True, help="File of the plan.")
@click.option("--verdict", type=click.Path(path_type=Path), required=True, help="File of the signed verdict.")
@click.option("--trust", type=click.Path(path_type=Path), required=True, help="File that says whose verdicts count.")
@click.option("--stable", type=click.Path(path_type=Path), help="File of the release that serves, the first time.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the files; new or empty.")
def order(
    release: Path,
    site: Path,
    namespace: str | None,
    plan: Path,
    verdict: Path,
    trust: Path,
    stable: Path | None,
    output: Path,
) -> None:
    """Gather the files a Job needs to roll the RELEASE file out: those of ConfigMap servegate-rollout.

    Whatever is wrong with them is said here, and not by a pod. Suites, keys and templates that they name come along.

    Exit codes: 0 they are there, 2 configuration.
    """
    from servegate.contract import write_atomic
    from servegate.errors import ConfigError
    from servegate.pipeline.order import order as gather

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output: {output} is there and is no empty folder")
    files = gather(release, site=site, plan=plan, trust=trust, verdict=verdict, stable=stable, namespace=namespace)
    for name, content in files.items():
        write_atomic(output / name, content)
    click.echo(f"{len(files)} files, {sum(map(len, files.values())):,} bytes, in {output}")
