"""Does a release have a passing verdict that counts? Pure: signatures have been checked, time comes as an argument.

Of several verdicts on a release the latest decides: a release that was judged again and failed is not saved by an older
pass. An emergency rollback is the exception: there a pass is enough, under the policy of its time, however old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from servegate.contract import Contract, Sha256
from servegate.errors import ExitCode
from servegate.gates.statement import Attested
from servegate.gates.trust import Trust
from servegate.report.format import clean, date, duration, short_hash
from servegate.report.records import Count, Epoch
from servegate.report.verdict import Outcome, Verdict

# Two machines' clocks may differ this much before a verdict counts as coming from the future.
_CLOCK_SKEW = 60.0


class SignedBy(Contract):
    """Who signed: a key, or an identity with what its certificate says of the workflow."""

    kind: Literal["key", "identity"]
    name: str = Field(description="of the signer in the trust file")
    key: str | None = Field(None, description="digest of the public key, or how cosign names the key")
    subject: str | None = Field(None, description="identity in the certificate")
    issuer: str | None = None
    workflow: str | None = Field(None, description="name of the workflow")
    repository: str | None = None
    ref: str | None = Field(None, description="Git ref the workflow ran on")
    commit: str | None = None
    trigger: str | None = Field(None, description="event that started the workflow")
    run: str | None = Field(None, description="URL of the run")


@dataclass(frozen=True)
class Signed:
    """A statement whose signature is by an accepted signer.

    Attributes:
        source: where it was found.
        attested: what it says.
        subjects: digests it is about.
        signer: whose it is.
    """

    source: str
    attested: Attested
    subjects: frozenset[str]
    signer: SignedBy


class LeftOut(Contract):
    """Something that was found and does not count."""

    source: str
    reason: str


class Emergency(Contract):
    """A rollback that cannot wait: who asked for less, and why."""

    by: str
    reason: str
    override: bool = Field(False, description="go on even without a passing verdict")


class Verification(Contract):
    """The answer, and what it rests on."""

    schema_version: Literal[1] = 1
    accepted: bool
    reason: str = Field(description="one sentence")
    exit_code: ExitCode
    release: Sha256
    release_name: str | None = None
    verdict: Sha256 | None = Field(None, description="digest of the verdict that decided")
    outcome: Outcome | None = None
    policy: str | None = None
    policy_sha256: Sha256 | None = None
    policy_current: bool | None = Field(None, description="the policy is what is accepted now; none: nothing is asked")
    reports: tuple[Sha256, ...] = ()
    image: Sha256 | None = Field(None, description="digest of the image the verdict was given for")
    signer: SignedBy | None = None
    decided_at: Epoch | None = None
    decided_by: str | None = None
    age: float | None = Field(None, description="seconds since it was decided")
    drill: str | None = Field(None, description="why it is a drill's")
    source: str | None = Field(None, description="where it was found")
    emergency: Emergency | None = None
    overridden: str | None = Field(None, description="why it would have been refused without the override")
    left_out: tuple[LeftOut, ...] = ()
    other_releases: Count = Field(0, description="verdicts found that are on other releases")
    checked_at: Epoch


def verify(
    found: Sequence[Signed],
    left_out: Sequence[LeftOut],
    trust: Trust,
    *,
    release: str,
    name: str | None,
    image: str | None,
    now: float,
    drills: bool = False,
    emergency: Emergency | None = None,
) -> tuple[Verification, Verdict | None]:
    """Decide whether a release may be rolled out; the answer, and the verdict that decided.

    Args:
        found: statements by accepted signers.
        left_out: what was found and did not get that far, to be told.
        release: digest of the release.
        name: of the release, for people.
        image: digest of its image; None: it has none, or only the digest of the release is known.
        now: seconds since the Unix epoch.
        drills: whether this is a place for drills.
        emergency: of a rollback that cannot wait.
    """
    others = [item for item in found if item.attested.verdict.release != release]
    out = list(left_out)
    counting = []
    for item in found:
        if item.attested.verdict.release == release:
            problem = _not_counting(item, trust, release, image, drills=drills, now=now)
            if problem is None:
                counting.append(item)
            else:
                out.append(LeftOut(source=item.source, reason=problem))
    counting.sort(key=lambda item: item.attested.verdict.decided_at)
    if emergency is not None:
        passed = [item for item in counting if item.attested.verdict.outcome is Outcome.PASS]
        chosen = passed[-1] if passed else counting[-1] if counting else None
    else:
        chosen = counting[-1] if counting else None
    code, reason = _judged(chosen, trust, now, out, len(others), hurried=emergency is not None)
    overridden = None
    if code and emergency is not None and emergency.override:
        overridden = reason
        code, reason = ExitCode.PASS, f"overridden by {clean(emergency.by, 80)}: {clean(emergency.reason, 300)}"
    verdict = None if chosen is None else chosen.attested.verdict
    answer = Verification(
        accepted=code is ExitCode.PASS,
        reason=reason,
        exit_code=code,
        release=release,
        release_name=name or (verdict.release_name if verdict else None),
        emergency=emergency,
        overridden=overridden,
        left_out=tuple(out),
        other_releases=len(others),
        checked_at=now,
        **({} if chosen is None else _facts(chosen, trust, now)),
    )
    return answer, verdict


def _not_counting(
    item: Signed, trust: Trust, release: str, image: str | None, *, drills: bool, now: float
) -> str | None:
    """Why a statement on this very release does not count; None when it does."""
    attested, verdict = item.attested, item.attested.verdict
    if image is not None and attested.image != image:
        return f"it was given for image {short_hash(attested.image)}, not for {short_hash(image)}"
    if not item.subjects & {release, image}:
        return "the signed statement is about neither the release nor its image"
    if attested.drill is not None and not drills:
        return f"a drill's verdict ({clean(attested.drill, 120)}); it counts only in a namespace for drills"
    accepted = [policy.name for policy in trust.policies]
    if accepted and verdict.policy not in accepted:
        return f"by policy {clean(verdict.policy, 80)}; accepted: {', '.join(accepted)}"
    if verdict.decided_at > now + _CLOCK_SKEW:
        return f"decided {duration(verdict.decided_at - now)} in the future: a clock is wrong"
    return None


def _judged(
    chosen: Signed | None, trust: Trust, now: float, out: Sequence[LeftOut], others: int, *, hurried: bool
) -> tuple[ExitCode, str]:
    if chosen is None:
        return ExitCode.NO_VERDICT, "no verdict that counts: " + (_why_none(out, others))
    verdict = chosen.attested.verdict
    if verdict.outcome is not Outcome.PASS:
        code = ExitCode.GATE_FAILED if verdict.outcome is Outcome.FAIL else ExitCode.NO_VERDICT
        last = "no verdict was a pass; the latest" if hurried else "the latest verdict"
        return code, f"{last} is {verdict.outcome} by policy {clean(verdict.policy, 80)}"
    if hurried:
        return ExitCode.PASS, f"emergency: passed policy {clean(verdict.policy, 80)} of {date(verdict.decided_at)}"
    if _current(chosen, trust) is False:
        wanted = ", ".join(short_hash(item.sha256) for item in trust.policies if item.name == verdict.policy)
        was = f"policy {clean(verdict.policy, 80)} was {short_hash(verdict.policy_sha256)}"
        return ExitCode.NO_VERDICT, f"the verdict is stale: {was} and is {wanted} now: gate the release again"
    age, most = now - verdict.decided_at, trust.max_seconds
    if most is not None and age > most:
        return ExitCode.NO_VERDICT, f"the verdict is {duration(age)} old; at most {trust.max_age} counts"
    return ExitCode.PASS, f"passed policy {clean(verdict.policy, 80)}"


def _why_none(out: Sequence[LeftOut], others: int) -> str:
    if len(out) == 1:
        return f"{clean(out[0].source, 200)}: {out[0].reason}"
    if out:
        return f"{len(out)} were found, and none counts"
    return f"the {others} found are on other releases" if others else "none was found"


def _current(chosen: Signed, trust: Trust) -> bool | None:
    """Whether the policy is the accepted one, word for word; None: nothing is asked of it."""
    verdict = chosen.attested.verdict
    named = [item for item in trust.policies if item.name == verdict.policy and item.sha256 is not None]
    if not named:
        return None
    return any(item.sha256 == verdict.policy_sha256 for item in named)


def _facts(chosen: Signed, trust: Trust, now: float) -> dict[str, object]:
    verdict = chosen.attested.verdict
    return {
        "verdict": verdict.identity(),
        "outcome": verdict.outcome,
        "policy": verdict.policy,
        "policy_sha256": verdict.policy_sha256,
        "policy_current": _current(chosen, trust),
        "reports": verdict.reports,
        "image": chosen.attested.image,
        "signer": chosen.signer,
        "decided_at": verdict.decided_at,
        "decided_by": verdict.decided_by,
        "age": now - verdict.decided_at,
        "drill": chosen.attested.drill,
        "source": chosen.source,
    }
