"""`servegate simulator`: a stand-in for vLLM where there is no GPU."""

from __future__ import annotations

import click


@click.command(
    help="A stand-in for vLLM where there is no GPU.",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Hand the arguments to the simulator, which reads them itself so that it can start without this command."""
    from servegate.simulator.app import main

    ctx.exit(main(list(arguments)))
