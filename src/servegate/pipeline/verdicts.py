"""The rollout's question "is there a verdict?", answered: signed, by somebody who is trusted, on this very release."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from servegate import __version__
from servegate.errors import NoVerdictError, ServegateError
from servegate.gates import signed
from servegate.gates.audit import write_down
from servegate.gates.cosign import Cosign
from servegate.gates.signed import Places
from servegate.gates.trust import Trust
from servegate.gates.verify import Emergency, Verification
from servegate.release import Release
from servegate.report.verdict import CheckResult, Outcome, Verdict
from servegate.rollout.prepare import FindPast, FindVerdict


class RefusedError(ServegateError):
    """The release has no verdict that lets it be rolled out; the exit code says why."""

    def __init__(self, release: Release, answer: Verification) -> None:
        super().__init__(f"{release.label()} is not rolled out: {answer.reason}")
        self.exit_code = answer.exit_code


@dataclass(frozen=True)
class Verdicts:
    """Where verdicts are looked for, and whose count.

    Attributes:
        drills: whether this is a place for drills.
        clock: seconds since the Unix epoch.
    """

    trust: Trust
    places: Places
    cosign: Cosign = field(default_factory=Cosign)
    drills: bool = False
    clock: Callable[[], float] = time.time

    def require(self, release: Release) -> None:
        """Raises RefusedError when the release has no verdict that counts, and what `signed.check` raises."""
        answer, _ = self._check(release)
        if not answer.accepted:
            raise RefusedError(release, answer)

    def find(self, *releases: Release) -> FindVerdict:
        """Finds the verdict that decides on one of these releases; of others, what their digest alone tells."""
        known = {release.identity(): release for release in releases}

        def find(digest: str) -> Verdict | None:
            answer, verdict = self._check(known.get(digest, digest))
            if answer.accepted or answer.exit_code is Outcome.FAIL.exit_code:
                return verdict
            raise NoVerdictError(answer.reason)

        return find

    def past(self, audit: Path, *, override: bool = False) -> FindPast:
        """Finds what lets a release be rolled back to: any pass, however old; written down each time.

        Args:
            audit: file in which it is written down.
            override: go on without a pass.
        """

        def find(release: Release, by: str, reason: str) -> Verdict | None:
            asked = Emergency(by=by, reason=reason or "rollback", override=override)
            answer, verdict = self._check(release, asked)
            write_down(audit, answer)
            if not answer.accepted:
                raise NoVerdictError(answer.reason)
            return _overridden(release, answer) if answer.overridden is not None else verdict

        return find

    def _check(self, release: Release | str, emergency: Emergency | None = None) -> tuple[Verification, Verdict | None]:
        # Of a digest alone nobody knows the registry.
        places = Places(self.places.files, self.places.registry and isinstance(release, Release))
        return signed.check(
            release, places, self.trust, now=self.clock(), cosign=self.cosign, drills=self.drills, emergency=emergency
        )


def _overridden(release: Release, answer: Verification) -> Verdict:
    """A person's word in a verdict's place; it says what it is."""
    assert answer.emergency is not None
    said = f"{answer.reason}; the rules had said: {answer.overridden}"
    return Verdict(
        outcome=Outcome.PASS,
        release=release.identity(),
        release_name=release.name,
        policy="override",
        policy_sha256="sha256:" + "0" * 64,
        reports=(),
        results=(CheckResult(check="override", outcome=Outcome.VOID, effect=Outcome.PASS, message=said),),
        decided_at=answer.checked_at,
        decided_by=answer.emergency.by,
        tool=f"servegate {__version__}",
    )


def none_given(_digest: str) -> Verdict | None:
    """Where nobody said whose verdicts count."""
    raise NoVerdictError("nobody said whose verdicts count (--trust)")


def files(paths: Sequence[Path], *, registry: bool = False) -> Places:
    """Where to look: these files and folders, and the registry where it is asked for."""
    return Places(tuple(paths), registry)
