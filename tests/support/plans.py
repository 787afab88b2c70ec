"""Plans of tests that roll out for real: short, and what a test wants otherwise by name."""

from __future__ import annotations

WATCHDOGS = "unready: 20s, no_data: 40s, route: 20s"


def short(
    *,
    tick: str = "1s",
    rate: int = 8,
    first: str = "5s",
    half: str = "20s",
    last: str = "3s",
    share: str = "90%",
    interval: str = "2s",
    checks: str = "",
    watchdogs: str = WATCHDOGS,
    prove: str = "4s",
    more: str = "",
) -> str:
    """A canary of half a minute that finds a release with many errors.

    Args:
        rate: requests per second.
        first, half, last: least time at 10 %, 50 % and 100 %.
        share: of alpha, for errors against stable.
        interval: of the checks.
        checks: lines of further ones.
        more: further lines.
    """
    return f"""
version: 1
name: short
tick: {tick}
expect: {{requests_per_second: {rate}}}
alpha: 5%
steps:
  - {{weight: 10%, min_time: {first}}}
  - {{weight: 50%, min_time: {half}}}
  - {{weight: 100%, min_time: {last}}}
checks:
  - {{kind: errors-vs-stable, name: errors, share: {share}, interval: {interval}, odds_ratio: 1.5}}
  - {{kind: errors-slo, name: slo, share: 10%, at_most: 5%, interval: {interval}}}
{checks}
watchdogs: {{{watchdogs}}}
rollback: {{prove: {prove}}}
{more}
"""


def experiment(*, tick: str, first: str, interval: str, prove: str, watchdogs: str = WATCHDOGS) -> str:
    """Whether users like the second release more, by the lines of events.csv; arguments as of `short`."""
    return f"""
version: 1
name: ab
strategy: ab
tick: {tick}
expect: {{requests_per_second: 20}}
alpha: 5%
steps: [{{weight: 50%, min_time: {first}}}]
sticky: {{by: cookie, name: arm}}
checks: [{{kind: errors-slo, name: slo, share: 100%, at_most: 5%, interval: {interval}}}]
watchdogs: {{{watchdogs}}}
rollback: {{prove: {prove}}}
experiment:
  hypothesis: the second release is liked more
  primary: {{name: liked, event: like, kind: converted, better: higher, baseline: 0.3, effect: 0.4}}
  events: {{csv: events.csv}}
"""
