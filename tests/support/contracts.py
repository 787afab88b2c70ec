"""Runs the contract tests of a port in another place, such as the real cluster."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

UNIT = Path(__file__).parents[1] / "unit" / "rollout"


def load(name: str) -> ModuleType:
    """The module `name`.py of the unit tests; its tests are those functions that begin with test_."""
    known = f"contract_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, UNIT / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module
        spec.loader.exec_module(module)
    return sys.modules[known]


def tests_of(module: ModuleType) -> dict[str, object]:
    """Its test functions by name."""
    return {name: value for name, value in vars(module).items() if name.startswith("test_")}
