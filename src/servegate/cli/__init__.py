"""The command. One file per noun: it parses, calls and prints; no logic.

A noun's file is imported only when that noun is used, so that `servegate --help` answers at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from servegate import __version__
from servegate.errors import ExitCode, ServegateError

# noun → what it does. The file is cli/<noun>.py and holds `command`.
NOUNS = {
    "init": "Put the pipeline into a repository.",
    "doctor": "Say what is configured, what is missing, and what to do.",
    "demo": "The whole pipeline on one machine: one release promoted, one rolled back.",
    "smoke": "Is it up, is it this release, does it stream, does it refuse nonsense?",
    "evals": "Ask a suite of questions and score the answers.",
    "loadtest": "Send a profile of traffic and measure what users would see.",
    "gate": "Judge reports by a policy.",
    "rollout": "Move traffic to a release, or back.",
    "report": "Show a report, a verdict or a canary timeline.",
    "image": "Build the image that serves.",
    "release": "Describe and hash what a slot serves.",
    "simulator": "A stand-in for vLLM where there is no GPU.",
    "schema": "JSON Schemas of contracts and configuration files.",
}


class _Nouns(click.Group):
    """Imports a noun's file when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        if cmd_name not in NOUNS:
            return None
        command: click.Command = import_module(f"servegate.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(NOUNS.items()))


@click.group(cls=_Nouns, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="servegate")
def cli() -> None:
    """Decide whether a new LLM version may serve traffic, and take it back when it may not.

    Exit codes: 0 pass, 1 gate failed, 2 usage or configuration, 3 no verdict, 4 infrastructure.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: errors a person must act on become one message and an exit code."""
    try:
        sys.exit(cli.main(arguments, prog_name="servegate", standalone_mode=False) or 0)
    except ServegateError as error:
        sys.stderr.write(f"servegate: {error}\n")
        sys.exit(error.exit_code)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("servegate: interrupted\n")
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(ExitCode.PASS)
