"""`python -m servegate.simulator`: the same as `servegate simulator`, without the rest of the command."""

from __future__ import annotations

import sys

from servegate.simulator.app import main

sys.exit(main(prog="servegate simulator"))
