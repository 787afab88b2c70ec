"""Copies of requests in the rules of an HTTPRoute: filter RequestMirror, one for each slot that gets some.

What a copy is answered is thrown away by the gateway. A filter whose back end is a slot of ours is ours; all others
stay, in their order. Shares finer than a percent are written as a fraction (both since Gateway API 1.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from servegate.rollout.kube import Object
from servegate.rollout.ports import Weights

KIND = "RequestMirror"
PARTS = 10_000
"""Denominator of a share, finer than a percent by a hundred."""


def check(wanted: Weights, slots: Sequence[str]) -> None:
    """Raise ValueError when a slot is not known or a share is none that can be written."""
    for slot, share in wanted.items():
        if slot not in slots or not 0 < share <= 100 or round(share * PARTS / 100) == 0:
            raise ValueError(f"{share} % of the requests cannot be copied to slot {slot!r}")


def copies(rule: Object, names: Mapping[str, str]) -> dict[str, float]:
    """Percent of the requests that a rule copies, by slot.

    Args:
        names: of the back end by slot.
    """
    slots = {name: slot for slot, name in names.items()}
    found = {_name(one): _share(one) for one in rule.get("filters") or ()}
    return {slot: found[name] for name, slot in slots.items() if name in found}


def filters(rule: Object, refs: Mapping[str, Object], names: Mapping[str, str], wanted: Weights) -> list[Object]:
    """The filters that a rule shall have. What is right already is left as it is written.

    Args:
        refs: the rule's back end by slot.
        names: of the back end by slot.
        wanted: percent of the requests by slot.
    """
    before = list(rule.get("filters") or ())
    if copies(rule, names) == dict(wanted):
        return before
    others = [one for one in before if _name(one) not in names.values()]
    return [*others, *(_filter(refs[slot], share) for slot, share in sorted(wanted.items()))]


def _filter(ref: Object, share: float) -> Object:
    backend = {key: ref[key] for key in ("group", "kind", "namespace", "name", "port") if key in ref}
    whole = share == round(share)
    part: Object = {"percent": round(share)} if whole else {
        "fraction": {"numerator": round(share * PARTS / 100), "denominator": PARTS}
    }  # fmt: skip
    return {"type": KIND, "requestMirror": {"backendRef": backend, **part}}


def _name(item: Object) -> str:
    """Name of the back end that gets copies; empty when it is another filter."""
    return str(item["requestMirror"]["backendRef"]["name"]) if item.get("type") == KIND else ""


def _share(item: Object) -> float:
    found = item.get("requestMirror", {})
    if "fraction" in found:
        fraction = found["fraction"]
        return float(100 * fraction["numerator"] / fraction.get("denominator", 100))
    return float(found.get("percent", 100))
