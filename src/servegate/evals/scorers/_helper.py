"""The helper process of bounded.py: one job a line on standard input, one answer a line on standard output.

Started as a program of its own and importing nothing of servegate, so it starts fast and holds nothing worth having.
Every job is under a kernel timer whose default action ends the process: no Python code has to run for the limit to
hold, and a helper whose parent was killed in the middle of a job ends too (idle, it ends with its input). The timer
counts processor time, so that a busy machine does not change a score.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from importlib import import_module
from typing import Any

MEMORY = 2 * 1024**3


def main() -> None:
    """Serve until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        try:
            job = json.loads(line)
            if job["do"] != "search":
                import_module("jsonschema")  # loading it is not part of the job's time
            signal.setitimer(signal.ITIMER_PROF, job["seconds"])
            result: dict[str, Any] = {"value": JOBS[job["do"]](job)}
        except (ImportError, RecursionError, MemoryError, ValueError) as error:
            result = {"error": f"{type(error).__name__}: {error}"[:200]}
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


def search(job: dict[str, Any]) -> bool:
    """Whether the pattern occurs in the text."""
    flags = re.IGNORECASE if job["ignore_case"] else re.NOFLAG
    return re.search(job["pattern"], job["text"], flags) is not None


def schema_problem(job: dict[str, Any]) -> str | None:
    """What is wrong with a JSON Schema."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(job["schema"])
    except SchemaError as error:
        return str(error.message)[:500]
    return None


def mismatch(job: dict[str, Any]) -> str | None:
    """Why a value does not fit a schema, the nearest reason first."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # An empty registry: without one, references to addresses would be fetched.
    validator = Draft202012Validator(job["schema"], registry=Registry())
    try:
        error = best_match(validator.iter_errors(job["value"]))
    except Unresolvable as unresolvable:
        raise ValueError(f"the schema refers to {unresolvable.ref!r}, which is not in it") from unresolvable
    if error is None:
        return None
    where = "/".join(str(part) for part in error.absolute_path)
    return f"{where + ': ' if where else ''}{error.message}"[:500]


JOBS = {"search": search, "schema_problem": schema_problem, "mismatch": mismatch}

if __name__ == "__main__":
    main()
