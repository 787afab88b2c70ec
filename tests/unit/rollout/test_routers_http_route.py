"""The HTTPRoute router: what it leaves alone, what it refuses, and what the gateway says."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_kube import FakeKube, Object, RefusedError

from servegate.errors import InfrastructureError
from servegate.rollout.kube import Kube, KubeError
from servegate.rollout.ports import Arrangement, FencedError, Sticky
from servegate.rollout.routers.http_route import EPOCH, HttpRouteRouter

PATH = "/apis/gateway.networking.k8s.io/v1/namespaces/llm/httproutes/llm"
NAMES = {"blue": "llm-blue", "green": "llm-green"}


def backends(blue: int = 100, green: int = 0) -> list[Object]:
    return [{"name": "llm-blue", "port": 8000, "weight": blue}, {"name": "llm-green", "port": 8000, "weight": green}]


@pytest.fixture
def api() -> Iterator[FakeKube]:
    fake = FakeKube()
    testers = {"matches": [{"headers": [{"name": "x-tester", "value": "1"}]}], "backendRefs": backends()[1:]}
    main = {"matches": [{"path": {"value": "/"}}], "timeouts": {"request": "0s"}, "backendRefs": backends()}
    fake.put(PATH, {"spec": {"parentRefs": [{"name": "gateway"}], "rules": [testers, main]}})
    yield fake
    fake.close()


@pytest.fixture
def router(api: FakeKube, tmp_path: Path) -> HttpRouteRouter:
    return HttpRouteRouter(Kube(kubeconfig=api.kubeconfig(tmp_path)), "llm", NAMES, sleep=lambda _: None)


def test_only_the_weights_and_the_epoch_change(api: FakeKube, router: HttpRouteRouter) -> None:
    wanted = copy.deepcopy(api.objects[PATH]["spec"])
    router.write({"blue": 99.0, "green": 1.0}, epoch=3)
    wanted["rules"][1]["backendRefs"] = backends(99, 1)
    assert api.objects[PATH]["spec"] == wanted
    assert api.objects[PATH]["metadata"]["annotations"] == {EPOCH: "3"}


def test_a_share_is_written_in_the_smallest_whole_numbers(api: FakeKube, router: HttpRouteRouter) -> None:
    for green, units in ((1.0, (99, 1)), (0.5, (9950, 50)), (0.0001, (999_999, 1)), (100.0, (0, 100))):
        router.write({"blue": 100 - green, "green": green}, epoch=1)
        assert api.objects[PATH]["spec"]["rules"][1]["backendRefs"] == backends(*units)
        assert router.read()["green"] == pytest.approx(green, abs=1e-9)


def test_a_slot_without_weight_gets_next_to_none_first(api: FakeKube, router: HttpRouteRouter) -> None:
    seen: list[tuple[int, int]] = []

    def note(_path: str, item: Object) -> None:
        blue, green = item["spec"]["rules"][1]["backendRefs"]
        seen.append((blue["weight"], green["weight"]))

    api.react = note
    router.write({"blue": 0.0, "green": 100.0}, epoch=1)
    assert seen == [(9999, 1), (0, 100)]
    seen.clear()
    router.write({"blue": 50.0, "green": 50.0}, epoch=1)
    assert seen == [(1, 9999), (50, 50)]
    seen.clear()
    router.write({"blue": 100.0, "green": 0.0}, epoch=1)  # blue has weight: the way back is one write
    assert seen == [(100, 0)]


def test_every_rule_with_both_slots_gets_the_weights(api: FakeKube, router: HttpRouteRouter) -> None:
    item = copy.deepcopy(api.objects[PATH])
    item["spec"]["rules"].append({"backendRefs": list(reversed(backends(10, 90)))})
    api.put(PATH, item)
    router.write({"blue": 80.0, "green": 20.0}, epoch=1)
    assert api.objects[PATH]["spec"]["rules"][2]["backendRefs"] == list(reversed(backends(80, 20)))
    # Somebody changes one of them by hand: that is not what was written, and writing again mends it.
    item = copy.deepcopy(api.objects[PATH])
    item["spec"]["rules"][2]["backendRefs"][0]["weight"] = 21
    api.put(PATH, item)
    assert not router.verify().accepted
    router.write({"blue": 80.0, "green": 20.0}, epoch=1)
    assert api.objects[PATH]["spec"]["rules"][2]["backendRefs"] == list(reversed(backends(80, 20)))


def test_a_change_in_between_is_seen_and_the_write_tried_anew(api: FakeKube, router: HttpRouteRouter) -> None:
    router.write({"blue": 100.0, "green": 0.0}, epoch=1)
    left = 2

    def others(method: str, _: str) -> None:
        nonlocal left
        if method == "PATCH" and left:
            left -= 1
            item = copy.deepcopy(api.objects[PATH])
            item["spec"]["hostnames"] = [f"host-{left}"]
            api.put(PATH, item)

    api.before = others
    router.write({"blue": 90.0, "green": 10.0}, epoch=1)
    assert api.objects[PATH]["spec"]["hostnames"] == ["host-0"]
    assert router.read() == {"blue": 90.0, "green": 10.0}


def test_a_newer_epoch_that_comes_in_between_wins(api: FakeKube, router: HttpRouteRouter) -> None:
    router.write({"blue": 100.0, "green": 0.0}, epoch=1)

    def taken_over(method: str, _: str) -> None:
        if method == "PATCH":
            item = copy.deepcopy(api.objects[PATH])
            item["metadata"]["annotations"][EPOCH] = "2"
            api.put(PATH, item)

    api.before = taken_over
    with pytest.raises(FencedError, match="epoch 1 is over"):
        router.write({"blue": 0.0, "green": 100.0}, epoch=1)
    assert api.objects[PATH]["spec"]["rules"][1]["backendRefs"] == backends()


def test_what_the_api_server_refuses_is_told_once_and_in_its_words(api: FakeKube, router: HttpRouteRouter) -> None:
    words = 'httproutes "llm" is forbidden: User "x" cannot patch resource "httproutes"'

    def forbid(method: str, _: str) -> None:
        if method == "PATCH":
            raise RefusedError(403, words)

    api.before = forbid
    with pytest.raises(KubeError, match="cannot patch resource"):
        router.write({"blue": 90.0, "green": 10.0}, epoch=1)

    def invalid(method: str, _: str) -> None:
        if method == "PATCH":
            raise RefusedError(422, "weight: must not be that")

    api.before = invalid
    api.calls.clear()
    with pytest.raises(KubeError, match="must not be that"):
        router.write({"blue": 90.0, "green": 10.0}, epoch=1)
    assert [method for method, _ in api.calls].count("PATCH") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda refs: refs.pop(), "no rule has the Services llm-blue and llm-green"),
        (lambda refs: refs.append({"name": "llm-old", "port": 1}), "rule 1 also routes to llm-old"),
        (lambda refs: refs.append(dict(refs[0])), "rule 1 names a slot twice"),
    ],
)
def test_a_route_that_somebody_made_another_is_not_touched(
    api: FakeKube, router: HttpRouteRouter, change: object, said: str
) -> None:
    router.write({"blue": 100.0, "green": 0.0}, epoch=1)
    item = copy.deepcopy(api.objects[PATH])
    assert callable(change)
    change(item["spec"]["rules"][1]["backendRefs"])
    api.put(PATH, item)
    before = api.objects[PATH]
    with pytest.raises(InfrastructureError, match=said):
        router.write({"blue": 90.0, "green": 10.0}, epoch=1)
    assert api.objects[PATH] == before
    assert said in router.verify().message


def test_a_route_that_is_gone_and_an_epoch_that_is_none(api: FakeKube, router: HttpRouteRouter) -> None:
    item = api.objects[PATH]
    item["metadata"]["annotations"] = {EPOCH: "one"}
    with pytest.raises(InfrastructureError, match="'one', not a number"):
        router.write({"blue": 90.0, "green": 10.0}, epoch=1)
    del api.objects[PATH]
    assert router.verify().message == 'httproutes "llm" not found'


def test_what_the_gateway_says(api: FakeKube, router: HttpRouteRouter) -> None:
    def parent(status: str = "True", generation: int | None = None, name: str = "gateway") -> None:
        item = api.objects[PATH]
        conditions = [
            {
                "type": kind,
                "status": "True" if kind == "Accepted" else status,
                "reason": "BackendNotFound",
                "message": "service llm-green not found",
                "observedGeneration": generation or item["metadata"]["generation"],
            }
            for kind in ("Accepted", "ResolvedRefs")
        ]
        item["status"] = {"parents": [{"parentRef": {"name": name}, "conditions": conditions}]}

    router.write({"blue": 90.0, "green": 10.0}, epoch=1)
    assert "no gateway has taken it up for parent gateway" in router.verify().message
    parent(name="other")
    assert "no gateway has taken it up" in router.verify().message
    parent()
    assert router.verify().accepted
    router.write({"blue": 50.0, "green": 50.0}, epoch=1)
    status = router.verify()
    assert (status.accepted, status.weights) == (False, {"blue": 90.0, "green": 10.0})
    assert "has not yet taken over generation 4" in status.message
    parent("False")
    assert "says ResolvedRefs is False: BackendNotFound: service llm-green not found" in router.verify().message
    parent()
    assert router.verify().weights == {"blue": 50.0, "green": 50.0}


def test_requests_are_copied_and_every_other_filter_stays(api: FakeKube, router: HttpRouteRouter) -> None:
    item = copy.deepcopy(api.objects[PATH])
    theirs = [
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x", "value": "1"}]}},
        {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "audit", "port": 80}}},
    ]
    item["spec"]["rules"][1]["filters"] = theirs
    api.put(PATH, item)
    with pytest.raises(InfrastructureError, match="no rollout has written"):
        router.arrange(Arrangement({"green": 10.0}), epoch=1)
    router.write({"blue": 100.0, "green": 0.0}, epoch=1)
    before = copy.deepcopy(api.objects[PATH]["spec"])
    router.arrange(Arrangement({"green": 10.0}), epoch=1)
    backend = {"name": "llm-green", "port": 8000}
    ours = {"type": "RequestMirror", "requestMirror": {"backendRef": backend, "percent": 10}}
    assert api.objects[PATH]["spec"]["rules"][1].pop("filters") == [*theirs, ours]
    del before["rules"][1]["filters"]
    assert api.objects[PATH]["spec"] == before
    item = copy.deepcopy(api.objects[PATH])
    item["spec"]["rules"][1]["filters"] = [*theirs, ours]
    api.put(PATH, item)
    version = api.objects[PATH]["metadata"]["resourceVersion"]
    router.arrange(Arrangement({"green": 10.0}), epoch=1)
    assert api.objects[PATH]["metadata"]["resourceVersion"] == version
    router.arrange(Arrangement({"green": 0.5}), epoch=1)
    part = api.objects[PATH]["spec"]["rules"][1]["filters"][2]["requestMirror"]
    assert part == {"backendRef": backend, "fraction": {"numerator": 50, "denominator": 10_000}}
    router.write({"blue": 90.0, "green": 10.0}, epoch=1)
    assert api.objects[PATH]["spec"]["rules"][1]["filters"][2]["requestMirror"] == part
    router.arrange(Arrangement(), epoch=2)
    assert api.objects[PATH]["spec"]["rules"][1]["filters"] == theirs
    with pytest.raises(FencedError):
        router.arrange(Arrangement({"green": 10.0}), epoch=1)


@pytest.mark.parametrize(
    "wanted", [Arrangement({"red": 10.0}), Arrangement({"green": 101.0}), Arrangement(sticky=Sticky("header", "user"))]
)
def test_an_arrangement_that_a_route_cannot_have(api: FakeKube, router: HttpRouteRouter, wanted: Arrangement) -> None:
    router.write({"blue": 100.0, "green": 0.0}, epoch=1)
    version = api.objects[PATH]["metadata"]["resourceVersion"]
    with pytest.raises(ValueError, match="slot"):
        router.arrange(wanted, epoch=1)
    assert api.objects[PATH]["metadata"]["resourceVersion"] == version


def test_what_is_copied_is_told_and_rules_that_do_not_agree_are_nobodys_wish(
    api: FakeKube, router: HttpRouteRouter
) -> None:
    def serve(_: str, item: Object) -> None:
        said = [
            {"type": kind, "status": "True", "observedGeneration": item["metadata"]["generation"]}
            for kind in ("Accepted", "ResolvedRefs")
        ]
        item["status"] = {"parents": [{"parentRef": item["spec"]["parentRefs"][0], "conditions": said}]}

    api.react = serve
    router.write({"blue": 100.0, "green": 0.0}, epoch=1)
    assert router.verify().arrangement == Arrangement()
    router.arrange(Arrangement({"green": 0.5}), epoch=1)
    assert router.verify().arrangement == Arrangement({"green": 0.5})
    item = copy.deepcopy(api.objects[PATH])
    item["spec"]["rules"].append({"backendRefs": backends()})
    api.put(PATH, item)
    assert router.verify().arrangement not in (Arrangement(), Arrangement({"green": 0.5}))
    router.arrange(Arrangement({"green": 0.5}), epoch=1)
    assert router.verify().arrangement == Arrangement({"green": 0.5})


def answers(slot: str, cookie: str = "") -> list[Object]:
    """The filter by which a back end names its slot."""
    add = {"add": [{"name": "set-cookie", "value": cookie}]} if cookie else {}
    modifier = {"set": [{"name": "x-servegate-slot", "value": slot}], **add}
    return [{"type": "ResponseHeaderModifier", "responseHeaderModifier": modifier}]


def test_users_get_a_cookie_and_a_rule_for_it_and_everything_else_stays(api: FakeKube, router: HttpRouteRouter) -> None:
    router.write({"blue": 60.0, "green": 40.0}, epoch=1)
    before = copy.deepcopy(api.objects[PATH]["spec"])
    router.arrange(Arrangement({"green": 10.0}, Sticky("cookie", "arm", "v2-1")), epoch=1)
    spec = copy.deepcopy(api.objects[PATH]["spec"])
    spec["rules"], ours = spec["rules"][:2], spec["rules"][2:]
    copies = spec["rules"][1].pop("filters")
    assert spec == before
    everybody = {"name": "host", "type": "RegularExpression", "value": "(?:servegate)?.*"}
    life = "Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax"
    for rule in ours:
        assert (rule["timeouts"], rule["filters"]) == ({"request": "0s"}, copies)
    assert ours[0]["matches"] == [{"path": {"value": "/"}, "headers": [everybody]}]
    assert ours[0]["backendRefs"] == [
        {**ref, "filters": answers(slot, f"arm={slot}.v2-1; {life}")}
        for slot, ref in zip(NAMES, backends(60, 40), strict=True)
    ]
    for slot, rule in zip(NAMES, ours[1:], strict=True):
        cookie = {"name": "cookie", "type": "RegularExpression"}
        cookie["value"] = rf"^(?:.*;\s*)?arm={slot}\.v2\-1(?:\s*;.*)?$"
        assert rule["matches"] == [{"path": {"value": "/"}, "headers": [everybody, cookie]}]
        assert rule["backendRefs"] == [{"name": NAMES[slot], "port": 8000, "weight": 1, "filters": answers(slot)}]
    # A slot without weight keeps nobody.
    router.write({"blue": 100.0, "green": 0.0}, epoch=1)
    after = api.objects[PATH]["spec"]["rules"]
    assert [ref["weight"] for ref in after[2]["backendRefs"]] == [100, 0]
    assert [rule["matches"][0]["headers"][0]["value"] for rule in after[3:]] == [
        everybody["value"],
        "asleep.servegate.invalid",
    ]
    router.write({"blue": 60.0, "green": 40.0}, epoch=1)
    router.arrange(Arrangement(), epoch=1)
    assert api.objects[PATH]["spec"] == before


def test_rules_of_users_come_and_go_asleep(api: FakeKube, router: HttpRouteRouter) -> None:
    """Envoy has a cluster for each, and no request may reach one that it does not have yet, or no longer."""
    router.write({"blue": 50.0, "green": 50.0}, epoch=1)
    seen: list[list[str]] = []

    def note(_path: str, item: Object) -> None:
        seen.append([rule["matches"][0]["headers"][0]["type"] for rule in item["spec"]["rules"][2:]])

    api.react = note
    router.arrange(Arrangement(sticky=Sticky("cookie", "arm", "1")), epoch=1)
    assert seen == [["Exact"] * 3, ["RegularExpression"] * 3]
    router.arrange(Arrangement(sticky=Sticky("cookie", "arm", "2")), epoch=1)
    assert seen[2:] == [["RegularExpression"] * 3]
    router.arrange(Arrangement(), epoch=1)
    assert seen[3:] == [["Exact"] * 3, []]


def test_rules_of_users_that_somebody_changed_are_nobodys_wish_and_are_mended(
    api: FakeKube, router: HttpRouteRouter
) -> None:
    wanted = Arrangement(sticky=Sticky("cookie", "arm", "1"))
    router.write({"blue": 50.0, "green": 50.0}, epoch=1)
    router.arrange(wanted, epoch=1)
    good = copy.deepcopy(api.objects[PATH]["spec"])

    def without_one(rules: list[Object]) -> None:
        del rules[3]

    def elsewhere(rules: list[Object]) -> None:
        rules[3]["backendRefs"][0]["name"] = "llm-green"

    def without_cookie(rules: list[Object]) -> None:
        del rules[2]["backendRefs"][0]["filters"]

    def longer(rules: list[Object]) -> None:
        rules[1]["timeouts"] = {"request": "1s"}

    for change in (without_one, elsewhere, without_cookie, longer):
        item = copy.deepcopy(api.objects[PATH])
        change(item["spec"]["rules"])
        api.put(PATH, item)
        assert router.verify().arrangement != wanted, change
        router.arrange(wanted, epoch=1)
        assert router.verify().arrangement == wanted, change
        assert len(api.objects[PATH]["spec"]["rules"]) == 5
        api.put(PATH, {**api.objects[PATH], "spec": copy.deepcopy(good)})


def test_a_back_end_with_headers_of_its_own_is_left_alone(api: FakeKube, router: HttpRouteRouter) -> None:
    theirs = {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x", "value": "1"}]}}
    item = copy.deepcopy(api.objects[PATH])
    item["spec"]["rules"][1]["backendRefs"][0]["filters"] = [theirs]
    api.put(PATH, item)
    router.write({"blue": 50.0, "green": 50.0}, epoch=1)
    before = api.objects[PATH]
    with pytest.raises(InfrastructureError, match="llm-blue has a ResponseHeaderModifier of its own"):
        router.arrange(Arrangement(sticky=Sticky("cookie", "arm", "1")), epoch=1)
    assert api.objects[PATH] == before
