"""Users who keep their slot, in the rules of an HTTPRoute.

A rule that splits is left as it is. Behind all rules come, for each of them:

    one that draws      the same back ends and weights; answers name their slot in a header and bring a cookie with it
    one for each slot   for those who have the slot's cookie: that back end alone

Gateway API prefers, of rules with the same path, the one with more header matches: theirs is one more (MARK, a match of
every host), or two. A rule that shall get nothing, such as that of a slot without weight, matches no host instead and
stays where it is: gateways name their clusters by a rule's place, and Envoy answers 500 for a moment when requests
reach a cluster that has only just come or has already gone. So rules come and go asleep (routers/http_route.py).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence

from servegate.errors import InfrastructureError
from servegate.rollout.kube import Object
from servegate.rollout.ports import Sticky
from servegate.rollout.routers import cookie

MARK: Object = {"name": "host", "type": "RegularExpression", "value": "(?:servegate)?.*"}
"""Matches every request, and tells our rules from others."""
ASLEEP: Object = {"name": "host", "type": "Exact", "value": "asleep.servegate.invalid"}
"""Matches none."""
_MODIFIER = "ResponseHeaderModifier"
_PAIR = re.compile(r"^\^\(\?:\.\*;\\s\*\)\?(?P<pair>.+)\(\?:\\s\*;\.\*\)\?\$$")


def indices(rules: Sequence[Object]) -> list[int]:
    """Those of a route's rules that are ours."""
    return [index for index, rule in enumerate(rules) if ours(rule)]


def ours(rule: Object) -> bool:
    """Whether a rule is for users who keep their slot."""
    return any(header in (MARK, ASLEEP) for header in _headers(rule))


def sticky_of(rules: Sequence[Object]) -> Sticky | None:
    """The cookie that our rules match; None: there are none."""
    for rule in rules:
        for header in _headers(rule) if ours(rule) else ():
            found = _PAIR.match(str(header.get("value"))) if header.get("name") == "cookie" else None
            if found is not None:
                name, _, value = re.sub(r"\\(.)", r"\1", found["pair"]).partition("=")
                return Sticky("cookie", name, value.partition(".")[2])
    return None


def rules(
    rule: Object, refs: Mapping[str, Object], units: Mapping[str, int], sticky: Sticky | None, awake: bool
) -> list[Object]:
    """What shall follow for a rule that splits.

    Args:
        refs: its back end by slot, with the weights that it shall have.
        units: weight by slot.
        sticky: by what users keep their slot; None: nothing follows.
        awake: whether they get requests; else they only make the gateway's clusters.

    Raises:
        InfrastructureError: a back end already changes headers of answers, which it may do in one filter only.
    """
    return [] if sticky is None else copy.deepcopy(list(_rules(rule, refs, units, sticky, awake)))


def _rules(
    rule: Object, refs: Mapping[str, Object], units: Mapping[str, int], sticky: Sticky, awake: bool
) -> Iterator[Object]:
    # A name is one rule's alone.
    rest = {key: value for key, value in rule.items() if key not in ("name", "matches", "backendRefs")}
    split: list[Object] = rule.get("matches") or [{}]

    def made(headers: list[Object], backends: list[Object]) -> Object:
        matches = [{**match, "headers": [*match.get("headers", ()), *headers]} for match in split]
        return {**rest, "matches": matches, "backendRefs": backends}

    cookies = {slot: [{"name": "set-cookie", "value": cookie.header(slot, sticky)}] for slot in refs}
    yield made(
        [MARK if awake else ASLEEP],
        [_answering(refs[slot], slot, units[slot], cookies[slot]) for slot in refs],
    )
    for slot, ref in refs.items():
        theirs = {"name": "cookie", "type": "RegularExpression", "value": f"^{cookie.pattern(slot, sticky)}$"}
        yield made([MARK if awake and units[slot] > 0 else ASLEEP, theirs], [_answering(ref, slot, 1, [])])


def _answering(ref: Object, slot: str, weight: int, added: list[Object]) -> Object:
    """A back end whose answers name their slot."""
    filters = list(ref.get("filters") or ())
    if any(one.get("type") == _MODIFIER for one in filters):
        raise InfrastructureError(
            f"back end {ref['name']} has a {_MODIFIER} of its own: users cannot get a cookie that keeps their slot"
        )
    modifier = {"set": [{"name": cookie.SLOT_HEADER, "value": slot}], **({"add": added} if added else {})}
    return {**ref, "weight": weight, "filters": [*filters, {"type": _MODIFIER, "responseHeaderModifier": modifier}]}


def _headers(rule: Object) -> list[Object]:
    return list((rule.get("matches") or [{}])[0].get("headers") or ())
