"""What smoke, evals and loadtest have in common on the command line: whom they ask, and whose numbers these are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from servegate.endpoint import Endpoint
    from servegate.release import Release
    from servegate.report.model import Subject

F = TypeVar("F", bound=Callable[..., Any])


def target_options(function: F) -> F:
    """Options --base-url, --model and --release."""
    for option in (
        click.option("--release", type=click.Path(path_type=Path), help="File of the release that is measured."),
        click.option("--model", help="Model to ask for; default: the release's, or the only one the server has."),
        click.option("--base-url", required=True, help="URL of the OpenAI-compatible server, without /v1."),
    ):
        function = option(function)
    return function


def resolve(base_url: str, model: str | None, release: Path | None) -> tuple[Endpoint, Subject | None, Release | None]:
    """The endpoint, and the subject of the report where a release is named; the key is SERVEGATE_API_KEY.

    Raises:
        ConfigError: not a URL, or not a release file.
        InfrastructureError: a release is named and the endpoint does not serve its model.
    """
    from servegate.config import load
    from servegate.endpoint import Endpoint
    from servegate.release import Release
    from servegate.report.model import Subject

    key = os.environ.get("SERVEGATE_API_KEY") or None
    if release is None:
        return Endpoint(base_url, model, key), None, None
    named = load(release, Release)
    endpoint = Endpoint(base_url, model or named.model.served_name, key)
    return endpoint, Subject(release=named.identity(), name=named.name, endpoint=endpoint.describe()), named
