"""Documents that begin something: a rollout in its slots, and a release that is brought along to be rolled back to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from servegate.errors import ConfigError, ServegateError
from servegate.release import Release
from servegate.report.verdict import Outcome
from servegate.rollout import model
from servegate.rollout.chronicle import rolled_out
from servegate.rollout.memory import Memory
from servegate.rollout.model import Message, Origin, SlotRelease, State
from servegate.rollout.plan import Plan
from servegate.rollout.ports import Intent, Workload
from servegate.rollout.prepare import FindPast


def begin(
    before: Memory | None,
    release: Release,
    stable: Release | None,
    *,
    plan: Plan,
    slots: tuple[str, str],
    workload: Workload,
    site: Mapping[str, Any] | None,
    now: float,
    run: str | None = None,
) -> Memory:
    """The document of a new rollout, or `before` itself when this release is being rolled out already.

    Args:
        before: what the store knows.
        stable: what serves now; needed when the store has never seen a rollout.
        slots: names of the two slots.
        site: where the rollout happens, for whoever takes over.
        run: whose order this is; what a run has begun it does not begin again, also when it has ended.

    Raises:
        ConfigError: another rollout is under way, or this release serves already, or nothing is known to serve.
    """
    if before is not None and run is not None and before.run == run:
        return before
    if before is not None and not before.state.phase.finished:
        under_way = before.releases[_about(before)]
        if under_way.identity() != release.identity():
            phase = before.state.phase
            raise ConfigError(f"{under_way.label()} is being rolled out ({phase}): wait for its end or abort it")
        return before
    slot, serving = _stable(before, stable, slots)
    running = workload.status(slot).release
    if running not in (None, serving.identity()):
        raise ConfigError(f"{slot} is said to serve {serving.label()}, but runs {running}")
    if serving.identity() == release.identity():
        raise ConfigError(f"{release.label()} serves already: there is nothing to roll out")
    candidate = next(name for name in slots if name != slot)
    told = _untold(before.state) if before is not None and plan.notify else ()
    state = model.start(
        rollout=f"{release.name}-{release.id[:6]}-{int(now)}",
        plan=plan.identity(),
        plan_name=plan.name,
        stable=slot,
        candidate=candidate,
        slots={
            slot: SlotRelease(release=serving.identity(), name=serving.name),
            candidate: SlotRelease(release=release.identity(), name=release.name),
        },
        now=now,
    ).model_copy(update={"outbox": told, "messages": len(told)})
    known = Memory(
        state=state,
        releases={**(before.releases if before else {}), **{item.identity(): item for item in (serving, release)}},
        verified=before.verified if before else (),
        plan=plan.model_dump(mode="json"),
        site=None if site is None else dict(site),
        run=run,
    )
    return known.with_release(serving)


def _untold(state: State) -> tuple[Message, ...]:
    """What an earlier rollout wanted told and nobody has got yet: numbered anew, under the name it has been sent by."""
    names = {slot: item.name for slot, item in state.slots.items()}
    return tuple(
        message.model_copy(
            update={
                "id": number,
                "origin": message.origin
                or Origin(
                    rollout=state.rollout,
                    id=message.id,
                    plan_name=state.plan_name,
                    release=state.slots[rolled_out(state)].name,
                    releases=names,
                ),
            }
        )
        for number, message in enumerate(state.outbox, 1)
    )


def named(intent: Intent, known: Memory, past: FindPast, say: Callable[[str, str], None]) -> tuple[Intent, Memory]:
    """An intent that brings a release along, with the digest in its place; the release is remembered if verified.

    Args:
        past: finds a pass it once got.
        say: (level, message) for people, when it cannot be read or has no pass.
    """
    if intent.kind != "rollback" or not (intent.target or "").startswith("{"):
        return intent, known
    try:
        release = Release.model_validate_json(intent.target or "")
    except ValidationError as error:
        say("warning", f"the release to roll back to: {error}")
        return replace(intent, target="that cannot be read"), known
    try:
        found = past(release, intent.by, intent.reason)
    except ServegateError as error:
        say("warning", f"{release.label()}: {error}")
        found = None
    if found is not None and found.release == release.identity() and found.outcome is Outcome.PASS:
        known = known.with_release(release)
    return replace(intent, target=release.identity()), known


def _about(before: Memory) -> str:
    """Digest of the release that the rollout is about."""
    state = before.state
    slot = state.stable if state.guard is not None and not state.guard.ended else state.candidate
    return state.slots[slot].release


def _stable(before: Memory | None, given: Release | None, slots: tuple[str, str]) -> tuple[str, Release]:
    """Which slot serves, and what."""
    if before is None:
        if given is None:
            raise ConfigError("the store has seen no rollout yet: say which release serves now")
        return slots[0], given
    slot = before.state.stable
    serving = before.release_in(slot)
    if given is not None and given.identity() != serving.identity():
        raise ConfigError(f"{serving.label()} is stable in {slot}, not {given.label()}")
    return slot, serving
