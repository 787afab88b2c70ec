"""The image's entry point: exit code 2 when the configuration is wrong, otherwise vLLM's own.

With `--check` as the last argument it prints the command line and ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from servegate.serving import probe
from servegate.serving.arguments import UsageError, build
from servegate.serving.flags import FILE, FlagsError, check_version, installed, read
from servegate.serving.supervise import run, say

USAGE = 2


def main(arguments: list[str], flags_file: Path = FILE) -> int:
    """Check the configuration, then serve until stopped."""
    check_only = arguments[-1:] == ["--check"]
    try:
        flags = read(flags_file)
        check_version(flags, installed())
        serve = build(os.environ, arguments[:-1] if check_only else arguments, flags)
    except (FlagsError, UsageError) as error:
        for line in str(error).splitlines():
            say(line)
        return USAGE
    if check_only:
        sys.stdout.write(serve.shown() + "\n")
        return 0
    say(serve.shown())

    def ask() -> probe.Answer:
        return probe.in_flight(serve.port, serve.tls)

    return run(["vllm", "serve", *serve.arguments], serve.drain, serve.quiet, ask)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
