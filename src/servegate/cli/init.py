"""`servegate init`: the pipeline in another repository."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from servegate.pipeline.scaffold import Settings

LOGINS = {
    "oidc": (
        ("SERVEGATE_CLUSTER", "URL of the API server"),
        ("SERVEGATE_CLUSTER_CA", "base64 of its CA, unless it is public"),
    ),
    "aws": (
        ("SERVEGATE_CLUSTER", "name of the cluster"),
        ("SERVEGATE_CLUSTER_LOCATION", "region"),
        ("SERVEGATE_CLUSTER_IDENTITY", "ARN of the role"),
    ),
    "google": (
        ("SERVEGATE_CLUSTER", "name of the cluster"),
        ("SERVEGATE_CLUSTER_LOCATION", "region or zone"),
        ("SERVEGATE_CLUSTER_IDENTITY", "full name of the workload identity provider"),
        ("SERVEGATE_CLUSTER_ACCOUNT", "service account"),
    ),
    "azure": (
        ("SERVEGATE_CLUSTER", "name of the cluster"),
        ("SERVEGATE_CLUSTER_LOCATION", "resource group"),
        ("SERVEGATE_CLUSTER_IDENTITY", "client ID"),
        ("SERVEGATE_CLUSTER_ACCOUNT", "tenant ID"),
    ),
}
"""What says how a cluster is reached, by SERVEGATE_LOGIN (docs/workflows.md)."""
ENVIRONMENTS = (
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
@click.option("--namespace", metavar="NAME", help="Namespace of production; default: llm. Staging: NAME-staging.")
@click.option("--gpu", metavar="PRODUCT", help="GPU that engines need, such as NVIDIA-H100-80GB-HBM3; default: any.")
@click.option("--cloud", type=click.Choice(("aws", "google", "azure", "none")), help="Whose cluster it is.")
@click.option("--workflows", metavar="OWNER/REPO@COMMIT", help="Repository with servegate's workflows; default: none.")
@click.option("--dry-run", is_flag=True, help="Say what would be written.")
@click.option("--overwrite", is_flag=True, help="Overwrite what differs without asking.")
def command(
    folder: Path,
    model: str | None,
    revision: str | None,
    served_name: str | None,
    image: str,
    namespace: str | None,
    gpu: str | None,
    cloud: str | None,
    workflows: str | None,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Write evals, gates, load profiles, plans, manifests, Dockerfile, release.yaml and workflows into FOLDER.

    A file that is there and differs is kept unless you say otherwise, one by one or with --overwrite.
    """
    from servegate.errors import ConfigError
    from servegate.pipeline.scaffold import CLOUDS, NAMESPACE, Settings, State, plan, write
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
    if namespace is None:
        namespace = click.prompt("Namespace of production", default=NAMESPACE) if asking else NAMESPACE
    if asking and not image:
        image = click.prompt("Name of the serving image (empty: ghcr.io and the repository)", default="")
    if asking and gpu is None:
        gpu = click.prompt("GPU that engines need, by the node label nvidia.com/gpu.product (empty: any)", default="")
    if asking and cloud is None:
        cloud = click.prompt("Whose cluster is it?", type=click.Choice(CLOUDS), default="none")
    settings = Settings(model, name, revision, image, workflows, namespace, gpu or None, cloud)
    files = plan(settings, folder)
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
    for line in (*_variables(settings), *ENVIRONMENTS):
        click.echo(f"  {line}")


def _variables(settings: Settings) -> list[str]:
    """Variables of the repository and its environments, with the values that are known."""
    place = f"kubernetes:{settings.namespace}"
    found = [("SERVEGATE_UNTIL", "image, staging or production: how far a tag goes")]
    if settings.cloud is None:
        found += [("SERVEGATE_LOGIN", "oidc, aws, google or azure: how the cluster is reached")]
        found += [("SERVEGATE_CLUSTER", "its address or name; docs/workflows.md has what each login needs besides")]
    else:
        login = "oidc" if settings.cloud == "none" else settings.cloud
        found += [("SERVEGATE_LOGIN", login), *LOGINS[login]]
    found += [
        ("SERVEGATE_STORE", f"{place} in production and production-rollback,"),
        ("", f"{place}-staging in staging and staging-rollback"),
        ("SERVEGATE_CONTROLLER_IMAGE", "image of the rollout's controller, by digest"),
        ("SERVEGATE_EVAL_URL", "server that the scheduled evaluation asks"),
    ]
    return [f"{'variable' if name else '':<12} {name:<26} {value}" for name, value in found]
