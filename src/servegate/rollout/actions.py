"""What is to be done: the actions a decision asks for. Each is idempotent; the controller carries them out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from servegate.contract import Contract, Sha256, Slot
from servegate.report.records import Count, Epoch
from servegate.rollout.ports import Arrangement, Intent

Percent = Annotated[float, Field(ge=0, le=100)]


class SetWeights(Contract):
    """Write these weights to the router."""

    kind: Literal["set-weights"] = "set-weights"
    weights: dict[Slot, Percent]


class EnsureSlot(Contract):
    """Make the slot run this release."""

    kind: Literal["ensure-slot"] = "ensure-slot"
    slot: Slot
    release: Sha256
    replicas: Annotated[int, Field(ge=1)]


class ScaleSlot(Contract):
    """Change the replicas of what the slot runs."""

    kind: Literal["scale-slot"] = "scale-slot"
    slot: Slot
    replicas: Count


class RunSmoke(Contract):
    """Run the smoke test against the slot unless it is running; the result comes with a later observation."""

    kind: Literal["run-smoke"] = "run-smoke"
    slot: Slot
    release: Sha256
    since: Epoch = Field(0.0, description="an older result does not count")


class Warm(Contract):
    """Warm the slot up unless that is under way; the result comes with a later observation."""

    kind: Literal["warm"] = "warm"
    slot: Slot
    release: Sha256


class Settle(Contract):
    """Mark an intent as done."""

    kind: Literal["settle"] = "settle"
    intent: Intent
    outcome: str


class Notify(Contract):
    """Tell people."""

    kind: Literal["notify"] = "notify"
    level: Literal["info", "warning", "critical"]
    message: str


class Arrange(Contract):
    """Make the router mirror, or keep users where they are, as wanted."""

    kind: Literal["arrange"] = "arrange"
    arrangement: Arrangement


class CompareOutputs(Contract):
    """Ask both slots the same prompts unless that is under way; the result comes with a later observation."""

    kind: Literal["compare-outputs"] = "compare-outputs"
    stable: Slot
    candidate: Slot


Action = Annotated[
    Arrange | CompareOutputs | SetWeights | EnsureSlot | ScaleSlot | RunSmoke | Warm | Settle | Notify,
    Field(discriminator="kind"),
]
