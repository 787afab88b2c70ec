"""What must hold before traffic: a verdict, a smoke test, a warm-up. Asked here, judged in `decide`.

Smoke and warm-up take seconds to minutes, so they run in threads while the ticks go on. Their results live in memory
alone: a controller that starts again runs them again, because nobody knows what has happened to the slot meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from servegate.errors import ServegateError
from servegate.release import Release
from servegate.report.verdict import Outcome, Verdict
from servegate.rollout.model import OutputsSeen, Phase, Preparation, State

Probe = Callable[[str, Release], tuple[bool, str]]
"""(URL of the slot, release) → (it holds, one sentence)."""
FindVerdict = Callable[[str], Verdict | None]
"""Digest of a release → the verdict on it, None when there is none yet. Raises ServegateError: why none counts."""
FindPast = Callable[[Release, str, str], Verdict | None]
"""(a release to roll back to, who asks, why) → a pass it once got, None when it never did."""
Compare = Callable[[str, str, Release, Release], OutputsSeen]
"""(URL of stable, URL of the candidate, their releases) → their answers compared."""
Kind = Literal["smoke", "warm"]


@dataclass
class _Run:
    began: float
    state: Literal["running", "ok", "failed"] = "running"
    message: str = ""


class Preparations:
    """Runs smoke tests and warm-ups, and asks for verdicts.

    Args:
        warm: None when the engine needs no warm-up.
    """

    def __init__(
        self, verdict: FindVerdict, smoke: Probe, warm: Probe | None = None, compare: Compare | None = None
    ) -> None:
        self._verdict, self._probes, self._compare = verdict, {"smoke": smoke, "warm": warm}, compare
        self._comparing: threading.Thread | None = None
        self._compared: tuple[str, OutputsSeen] | None = None
        self._runs: dict[tuple[Kind, str, str], _Run] = {}

    def run(self, kind: Kind, slot: str, url: str, release: Release, now: float, since: float = 0.0) -> None:
        """Start it unless it has been started for this release in this slot, at `since` or later."""
        key = (kind, slot, release.identity())
        before = self._runs.get(key)
        if before is not None and (before.state == "running" or before.began >= since):
            return
        run, probe = _Run(now), self._probes[kind]
        self._runs[key] = run
        if probe is None:
            run.state = "ok"
            return
        threading.Thread(target=_finish, args=(run, probe, url, release), name=f"{kind}-{slot}", daemon=True).start()

    def compare(self, rollout: str, urls: tuple[str, str], releases: tuple[Release, Release]) -> None:
        """Ask both slots the same prompts, unless that is under way or has been done."""
        compare = self._compare
        if compare is None or self._comparing is not None or (self._compared and self._compared[0] == rollout):
            return

        def work() -> None:
            try:
                self._compared = rollout, compare(*urls, *releases)
            except ServegateError as error:
                self._compared = rollout, OutputsSeen(asked=0, same=0, similarity=0.0, examples=(str(error),))
            finally:
                self._comparing = None

        self._comparing = threading.Thread(target=work, name="outputs", daemon=True)
        self._comparing.start()

    def compared(self, rollout: str) -> OutputsSeen | None:
        """What came of it."""
        return self._compared[1] if self._compared is not None and self._compared[0] == rollout else None

    def forget(self, slot: str) -> None:
        """The slot is being filled: what was found in it before says nothing any more."""
        self._runs = {key: run for key, run in self._runs.items() if key[1] != slot}

    def seen(self, state: State) -> Preparation:
        """What is known now about the slot that is to get traffic."""
        back = state.phase is Phase.ROLLING_BACK and (state.restore is None or state.restore.swapped)
        slot = state.stable if back else state.candidate
        digest = state.slots[slot].release
        smoke = self._runs.get(("smoke", slot, digest))
        if smoke is not None and state.phase is Phase.ROLLING_BACK:
            asked = state.proof.since if state.proof else max(state.phase_since, state.stable_cold or 0.0)
            smoke = smoke if smoke.began >= asked else None
        warm = self._runs.get(("warm", slot, digest))
        return Preparation(
            **(self._ask(digest) if state.phase is Phase.PENDING else {}),
            smoke=smoke.state if smoke else None,
            smoke_message=smoke.message if smoke else "",
            warm=warm.state if warm else None,
            warm_message=warm.message if warm else "",
        )

    def _ask(self, digest: str) -> dict[str, str]:
        try:
            verdict = self._verdict(digest)
        except ServegateError as error:
            return {"verdict": "missing", "verdict_message": str(error)}
        if verdict is None:
            return {"verdict": "missing", "verdict_message": "there is none"}
        if verdict.release != digest:
            return {"verdict": "missing", "verdict_message": f"the verdict found is about {verdict.release}"}
        found = {"verdict_hash": verdict.identity(), "verdict_message": f"{verdict.outcome} by {verdict.policy}"}
        return {"verdict": "pass" if verdict.outcome is Outcome.PASS else "fail", **found}


def _finish(run: _Run, probe: Probe, url: str, release: Release) -> None:
    try:
        held, message = probe(url, release)
    except ServegateError as error:
        held, message = False, str(error)
    except Exception as error:  # noqa: BLE001  a thread that dies silently would look like one that takes its time
        held, message = False, f"{type(error).__name__}: {error}"
    # The state last: it is what the other thread looks at.
    run.message = message
    run.state = "ok" if held else "failed"
