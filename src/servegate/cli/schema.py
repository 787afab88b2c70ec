"""`servegate schema`: the JSON Schemas of contracts and configuration files."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(help="Print a JSON Schema, or all names when none is given.")
@click.argument("name", required=False)
@click.option("--write", "folder", type=click.Path(path_type=Path), help="Write all schemas into a folder.")
@click.option("--check", type=click.Path(path_type=Path), help="Fail when the schemas in a folder are not these.")
def command(name: str | None, folder: Path | None, check: Path | None) -> None:
    """Print, write or check schemas."""
    from servegate.contract import write_atomic
    from servegate.errors import ConfigError
    from servegate.pipeline.schemas import rendered

    schemas = rendered()
    if folder is not None:
        for key, text in schemas.items():
            write_atomic(folder / f"{key}.json", text.encode())
    elif check is not None:
        stale = [key for key, text in schemas.items() if not _same(check / f"{key}.json", text)]
        if stale:
            raise ConfigError(f"{check}: not up to date: {', '.join(stale)}; run `make schemas`")
    elif name is None:
        click.echo("\n".join(schemas))
    elif name in schemas:
        click.echo(schemas[name], nl=False)
    else:
        raise ConfigError(f"no schema {name!r}; there are {', '.join(schemas)}")


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text
