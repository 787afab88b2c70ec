"""Other tools' result files as reports. One file per tool, and what its numbers mean where they differ from ours."""

from collections.abc import Callable

from servegate.gates.adapters import guidellm, junit, lm_eval, locust_csv, promptfoo, vllm_bench
from servegate.gates.adapters.common import Adapted, Source, guarded

FORMATS: dict[str, Callable[[Source], Adapted]] = {
    "guidellm": guidellm.convert,
    "junit": junit.convert,
    "lm-eval": lm_eval.convert,
    "locust": locust_csv.convert,
    "promptfoo": promptfoo.convert,
    "vllm-bench": vllm_bench.convert,
}


def read(tool: str, source: Source) -> Adapted:
    """Read a tool's result file.

    Args:
        tool: a key of `FORMATS`.

    Raises:
        ConfigError: it is no such file.
    """
    with guarded(source, tool):
        return FORMATS[tool](source)
