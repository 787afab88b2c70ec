"""Run once while the image is built: ask the vLLM in it which flags it has, and write them down."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from servegate.serving.flags import FILE, Flags, FlagsError, from_parser, installed

# vLLM moved it; the newest place first.
_PARSERS = ("vllm.utils.argparse_utils", "vllm.utils")


def ask() -> Flags:
    """The flags of `vllm serve`, from its own parser.

    Raises:
        FlagsError: there is no vLLM, or one whose parser is made in another way.
    """
    try:
        _pretend_a_device()
        serve: Any = import_module("vllm.entrypoints.cli.serve").ServeSubcommand()
        parser = _parser_class()()
        made = serve.subparser_init(parser.add_subparsers(dest="subparser"))
        return from_parser(installed() or str(import_module("vllm").__version__), made._actions)
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:
        raise FlagsError(f"the base image's vLLM does not say which flags it has: {error}") from error


def _pretend_a_device() -> None:
    # A build machine has no GPU, and vLLM's parser wants to know the device for its defaults. Only names are
    # read here.
    platform = import_module("vllm.platforms").current_platform
    if not platform.device_type:
        platform.device_type = "cpu"


def _parser_class() -> Any:
    for module in _PARSERS:
        try:
            return import_module(module).FlexibleArgumentParser
        except (ImportError, AttributeError):  # this vLLM has it elsewhere
            continue
    raise FlagsError("the base image's vLLM has no FlexibleArgumentParser")


def main() -> int:
    """Write the record; exit code 0, or 2 with a message."""
    try:
        flags = ask()
    except FlagsError as error:
        sys.stderr.write(f"servegate: {error}\n")
        return 2
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    target.write_text(flags.to_json() + "\n", "utf-8")
    sys.stdout.write(f"vLLM {flags.version}: {len(flags.flags)} flags\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
