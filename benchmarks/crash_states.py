"""Controllers killed and paused in process, as a table: where, how often, and whether anything bad came of it.

    python benchmarks/crash_states.py --examples 400      some ten thousand deaths, minutes

The same state machines as in tests/unit/rollout/test_crash_safety.py, with more examples. A violation (a second
effective writer, a weight on a slot without a ready pod, another end than an undisturbed rollout's, a decision that the
audit trail does not reproduce) ends it with the steps that lead there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from crash_machine import Crashes, CrashesInTrouble


def main() -> int:
    """Run both machines and print what was done to them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    how = settings(
        max_examples=options.examples,
        stateful_step_count=25,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
        report_multiple_bugs=False,
    )
    result = {}
    for machine in (Crashes, CrashesInTrouble):
        machine.counted.clear()
        run_state_machine_as_test(machine, settings=how)
        deaths: Counter[str] = machine.deaths()
        paused = sum(count for what, count in deaths.items() if what.startswith("paused"))
        result[machine.__name__] = {
            "deaths": sum(deaths.values()) - paused,
            "pauses": paused,
            "rollouts": machine.counted["rollouts"],
            "replayed_ticks": machine.counted["trouble: replayed ticks"],
            "where": dict(deaths.most_common()),
            "violations": 0,
        }
    if options.json:
        print(json.dumps(result))
        return 0
    for name, row in result.items():
        print(f"{name}: {row['deaths']} deaths, {row['pauses']} pauses, {row['rollouts']} rollouts, no violation")
        for what, count in row["where"].items():
            print(f"  {count:6} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
