"""The serving image of a release for vLLM: takes what the entry point takes, and is the simulator."""

import sys

from servegate.simulator.app import main

sys.exit(main(["--model", *sys.argv[1:]], prog="vllm serve"))
