"""`servegate init`: the pipeline in another repository."""

from __future__ import annotations

import sys
from pathlib import Path

import click

SETTINGS = (
    "variable     SERVEGATE_UNTIL            image, staging or production: how far a tag goes",
    "variable     SERVEGATE_LOGIN            oidc, aws, google or azure: how the cluster is reached",
    "variable     SERVEGATE_CLUSTER          its address or name",
    "variable     SERVEGATE_STORE            kubernetes:NAMESPACE, per environment",
    "variable     SERVEGATE_CONTROLLER_IMAGE image of the rollout's controller, by digest",
    "variable     SERVEGATE_EVAL_URL         server that the scheduled evaluation asks",
    "environment  staging",
    "environment  production                 with the people who approve a rollout as reviewers, for tags v*",
    "environment  release                    with the people who approve a release as reviewers, for tags v*",
    "environment  production-rollback, staging-rollback, without reviewers; production's for the default branch alone",
    "file         trust.yaml                 whose verdicts count: docs/verdicts.md",
    "Actions      default permissions of the token: read repository contents",
)


@click.command(help="Put the pipeline into a repository.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--model", metavar="URI", help="Where the weights are, such as hf://Qwen/Qwen3-8B.")
@click.option("--revision", help="Revision of the weights.")
@click.option("--served-name", help="Name clients put into requests; default: the last part of the model's URI.")
@click.option("--image", default="", help="Name of the serving image; default: ghcr.io and the repository.")
@click.option("--workflows", metavar="OWNER/REPO@COMMIT", help="Repository with servegate's workflows; default: none.")
@click.option("--dry-run", is_flag=True, help="Say what would be written.")
@click.option("--overwrite", is_flag=True, help="Overwrite what differs without asking.")
def command(
    folder: Path,
    model: str | None,
    revision: str | None,
    served_name: str | None,
    image: str,
    workflows: str | None,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Write evals, gates, load profiles, plans, manifests, Dockerfile, release.yaml and workflows into FOLDER.

    A file that is there and differs is kept unless you say otherwise, one by one or with --overwrite.
    """
    from servegate.errors import ConfigError
    from servegate.pipeline.scaffold import Settings, State, plan, write
    from servegate.report.format import plural

    asking = sys.stdin.isatty() and not dry_run
    if model is None:
        if not asking:
            raise ConfigError("--model: is required, such as hf://Qwen/Qwen3-8B")
        model = click.prompt("Where are the weights (such as hf://Qwen/Qwen3-8B)?", type=str)
    name = served_name or model.rstrip("/").rpartition("/")[2].lower()
    if workflows is None and asking:
        answer = click.prompt("Repository with servegate's workflows (OWNER/REPO@COMMIT, empty: none)", default="")
        workflows = answer or None
    files = plan(Settings(model, name, revision, image, workflows), folder)
    kept = []
    for file in files:
        if file.state is State.SAME:
            continue
        question = f"{file.path} differs from ours. Overwrite it?"
        free = file.state is State.NEW or overwrite
        if not free and not (asking and click.confirm(question, default=False)):
            kept.append(file.path)
            click.echo(f"kept       {file.path}")
            continue
        said = "overwrite" if file.state is State.DIFFERS else "new"
        click.echo(f"{said:<10} {file.path}")
        if not dry_run:
            write(folder, file)
    same = sum(file.state is State.SAME for file in files)
    if same:
        click.echo(f"{same} of {len(files)} files were there already")
    if kept:
        click.echo(f"kept {plural(len(kept), 'file')} that differ; --overwrite replaces them")
    if dry_run:
        click.echo("Nothing was written.")
        return
    click.echo("")
    click.echo("Next: `servegate doctor` says what is still missing. In the repository's settings:")
    for line in SETTINGS:
        click.echo(f"  {line}")
