"""The stand-in engine of the workload tests as an image: takes the arguments that a slot's container gets."""

import argparse
import os
import sys
from pathlib import Path

ENGINE = Path(__file__).parents[1] / "unit" / "rollout" / "engine.py"
parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("--model", "--served-model-name", "--host", "--port", "--shutdown-timeout", "--revision"):
    parser.add_argument(name)
given, rest = parser.parse_known_args()
command = [sys.executable, str(ENGINE), given.port, given.served_model_name, "--host", given.host, *rest]
os.execv(sys.executable, command)
