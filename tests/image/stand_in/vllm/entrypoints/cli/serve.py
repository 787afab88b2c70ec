"""`vllm serve`: a parser with the flags that a real version has, and the refusal of a machine without a device."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from vllm.platforms import current_platform


class ServeSubcommand:
    """As in vLLM."""

    def subparser_init(self, subparsers: Any) -> argparse.ArgumentParser:
        if not current_platform.device_type:
            raise RuntimeError("Failed to infer device type")
        parser: argparse.ArgumentParser = subparsers.add_parser("serve", add_help=False)
        recorded = json.loads(Path(__file__).with_name("flags.json").read_text("utf-8"))
        for flag in recorded["flags"]:
            nargs: dict[str, Any] = {"one": {}, "optional": {"nargs": "?"}, "many": {"nargs": "+"}}.get(
                flag["values"], {"action": "store_true"}
            )
            if flag["choices"]:
                nargs["choices"] = flag["choices"]
            parser.add_argument(*flag["names"], **nargs)
        return parser
