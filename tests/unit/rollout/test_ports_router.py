"""The contract of a Router, run against every implementation."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_kube import FakeKube, Object

from servegate.errors import InfrastructureError
from servegate.rollout.kube import Kube
from servegate.rollout.ports import Arrangement, Arranging, FencedError, Router, Sticky
from servegate.rollout.routers.envoy_file import EnvoyFileRouter
from servegate.rollout.routers.http_route import GROUPS, HttpRouteRouter, Kind
from servegate.rollout.routers.kserve import KServeRouter


@dataclass
class Plane:
    """A data plane and what a test needs of it."""

    open: Callable[[], Router]
    follow: Callable[[bool], None]
    written: Callable[[], object]
    stop: Callable[[], None]


class _Admin(http.server.BaseHTTPRequestHandler):
    """What Envoy's admin interface says of a route file it has taken over."""

    file: Path
    active: dict[str, object] | None = None
    follows = True

    def do_GET(self) -> None:
        kind = type(self)
        if kind.follows and self.file.exists():
            document = json.loads(self.file.read_text())
            kind.active = {"version_info": document["version_info"], "route_config": document["resources"][0]}
        body = json.dumps({"configs": [kind.active] if kind.active else []}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
        pass


def envoy_file(folder: Path) -> Plane:
    path = folder / "routes" / "routes.json"

    class Admin(_Admin):
        file = path

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Admin)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return Plane(
        open=lambda: EnvoyFileRouter(path, f"http://127.0.0.1:{server.server_address[1]}", ("blue", "green")),
        follow=lambda follows: setattr(Admin, "follows", follows),
        written=lambda: (path.read_bytes(), path.stat().st_ino),
        stop=stop,
    )


ROUTE = "/apis/gateway.networking.k8s.io/v1/namespaces/llm/httproutes/llm"


def http_route(folder: Path, kind: Kind = "Service") -> Plane:
    """An HTTPRoute; `kind` of its back ends."""
    api = FakeKube()
    follows = True

    def gateway(_: str, item: Object) -> None:
        if follows:
            conditions = [
                {"type": kind, "status": "True", "observedGeneration": item["metadata"]["generation"]}
                for kind in ("Accepted", "ResolvedRefs")
            ]
            item["status"] = {"parents": [{"parentRef": item["spec"]["parentRefs"][0], "conditions": conditions}]}

    def follow(wanted: bool) -> None:
        nonlocal follows
        follows = wanted
        gateway(ROUTE, api.objects[ROUTE])

    api.react = gateway
    rest = {"port": 8000} if kind == "Service" else {"group": GROUPS[kind], "kind": kind}
    backends = [{"name": "llm-blue", **rest}, {"name": "llm-green", **rest, "weight": 0}]
    api.put(ROUTE, {"spec": {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": backends}]}})
    kubeconfig = api.kubeconfig(folder)
    names = {"blue": "llm-blue", "green": "llm-green"}
    return Plane(
        open=lambda: HttpRouteRouter(Kube(kubeconfig=kubeconfig), "llm", names, kind=kind),
        follow=follow,
        written=lambda: api.objects[ROUTE]["metadata"]["resourceVersion"],
        stop=api.close,
    )


def inference_pool(folder: Path) -> Plane:
    return http_route(folder, "InferencePool")


SERVICES = "/apis/serving.kserve.io/v1alpha2/namespaces/llm/llminferenceservices"


def kserve(folder: Path) -> Plane:
    api = FakeKube()
    paths = [f"{SERVICES}/llm-{slot}" for slot in ("blue", "green")]
    follows = True

    def controller(*_: object) -> None:
        if follows and all(path in api.objects for path in paths):
            members = [
                {"name": path.rpartition("/")[2], "weight": api.objects[path]["spec"]["router"]["route"]["weight"]}
                for path in paths
            ]
            conditions = [{"type": kind, "status": "True"} for kind in ("HTTPRoutesReady", "GroupReady")]
            for path in paths:
                api.objects[path]["status"] = {"conditions": conditions, "router": {"group": {"members": members}}}

    def follow(wanted: bool) -> None:
        nonlocal follows
        follows = wanted
        controller()

    api.react = controller
    for path, weight in zip(paths, (100, 0), strict=True):
        api.put(path, {"spec": {"router": {"route": {"group": "llm", "weight": weight}}}})
    kubeconfig = api.kubeconfig(folder)
    names = {"blue": "llm-blue", "green": "llm-green"}
    return Plane(
        open=lambda: KServeRouter(Kube(kubeconfig=kubeconfig), names, "llm"),
        follow=follow,
        written=lambda: [api.objects[path]["metadata"]["resourceVersion"] for path in paths],
        stop=api.close,
    )


BY_COOKIE = Arrangement(sticky=Sticky("cookie", "arm", "abc-1"))
IMPLEMENTATIONS = {
    "envoy-file": envoy_file,
    "http-route": http_route,
    "inference-pool": inference_pool,
    "kserve": kserve,
}


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def plane(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plane]:
    made = IMPLEMENTATIONS[request.param](tmp_path)
    yield made
    made.stop()


def test_weights_are_read_as_written_by_anybody(plane: Plane) -> None:
    router = plane.open()
    with pytest.raises(InfrastructureError):
        router.read()
    router.write({"blue": 99.0, "green": 1.0}, epoch=1)
    assert router.read() == {"blue": 99.0, "green": 1.0} == plane.open().read()
    router.write({"blue": 0.0, "green": 100.0}, epoch=1)
    assert plane.open().read() == {"blue": 0.0, "green": 100.0}


def test_a_slot_that_is_not_named_gets_nothing(plane: Plane) -> None:
    router = plane.open()
    router.write({"green": 100.0}, epoch=1)
    assert router.read() == {"blue": 0.0, "green": 100.0}


def test_writing_the_same_again_changes_nothing(plane: Plane) -> None:
    router = plane.open()
    router.write({"blue": 90.0, "green": 10.0}, epoch=4)
    before = plane.written()
    router.write({"blue": 90.0, "green": 10.0}, epoch=4)
    plane.open().write({"green": 10.0, "blue": 90.0}, epoch=4)
    assert plane.written() == before


def test_an_older_epoch_can_do_nothing_and_a_newer_one_takes_over(plane: Plane) -> None:
    old, new = plane.open(), plane.open()
    old.write({"blue": 90.0, "green": 10.0}, epoch=1)
    new.write({"blue": 100.0, "green": 0.0}, epoch=2)
    before = plane.written()
    with pytest.raises(FencedError, match="epoch 1"):
        old.write({"blue": 0.0, "green": 100.0}, epoch=1)
    assert plane.written() == before
    new.write({"blue": 50.0, "green": 50.0}, epoch=2)
    assert old.read() == {"blue": 50.0, "green": 50.0}


def test_the_same_weights_under_a_newer_epoch_fence_too(plane: Plane) -> None:
    old, new = plane.open(), plane.open()
    old.write({"blue": 100.0, "green": 0.0}, epoch=1)
    new.write({"blue": 100.0, "green": 0.0}, epoch=2)
    with pytest.raises(FencedError):
        old.write({"blue": 0.0, "green": 100.0}, epoch=1)


def test_verify_says_what_the_data_plane_really_does(plane: Plane) -> None:
    router = plane.open()
    assert not router.verify().accepted
    router.write({"blue": 100.0, "green": 0.0}, epoch=1)
    assert router.verify().accepted
    assert router.verify().weights == {"blue": 100.0, "green": 0.0}
    plane.follow(False)
    router.write({"blue": 50.0, "green": 50.0}, epoch=1)
    status = router.verify()
    assert not status.accepted
    assert status.weights == {"blue": 100.0, "green": 0.0}
    assert status.message
    plane.follow(True)
    assert plane.open().verify().accepted


def test_a_data_plane_that_does_not_answer_is_not_accepted_and_does_not_raise(plane: Plane) -> None:
    router = plane.open()
    router.write({"blue": 100.0, "green": 0.0}, epoch=1)
    plane.stop()
    status = router.verify()
    assert (status.accepted, dict(status.weights)) == (False, {})
    assert "refused" in status.message


@pytest.mark.parametrize(
    "weights",
    [
        {"blue": 50.0, "green": 49.0},
        {"blue": 110.0, "green": -10.0},
        {"blue": float("nan"), "green": 100.0},
        {"blue": 50.0, "red": 50.0},
        {"blue": 99.99999, "green": 0.00001},
        {},
    ],
)
def test_weights_that_make_no_sense_are_refused_and_change_nothing(plane: Plane, weights: dict[str, float]) -> None:
    router = plane.open()
    router.write({"blue": 100.0, "green": 0.0}, epoch=1)
    before = plane.written()
    with pytest.raises(ValueError, match=r"weights|slot"):
        router.write(weights, epoch=1)
    assert plane.written() == before


def test_users_keep_their_slot_while_weights_change_where_the_router_can_do_that(plane: Plane) -> None:
    router = plane.open()
    router.write({"blue": 50.0, "green": 50.0}, epoch=2)
    if not isinstance(router, Arranging):
        assert router.verify().arrangement is None
        return
    before = router.verify().arrangement
    router.arrange(BY_COOKIE, epoch=2)
    assert (before, router.verify().arrangement) == (Arrangement(), BY_COOKIE)
    written = plane.written()
    router.arrange(BY_COOKIE, epoch=2)
    assert plane.written() == written
    for green in (10.0, 0.0, 100.0, 50.0):
        router.write({"blue": 100 - green, "green": green}, epoch=2)
        assert router.verify().arrangement == BY_COOKIE
        assert router.read() == {"blue": 100 - green, "green": green}
    both = Arrangement({"green": 20.0}, Sticky("cookie", "arm", "abc-2"))
    router.arrange(both, epoch=3)
    assert router.verify().arrangement == both
    with pytest.raises(FencedError):
        router.arrange(Arrangement(), epoch=2)
    router.arrange(Arrangement(), epoch=3)
    assert router.verify().arrangement == Arrangement()


def test_users_keep_their_slot_by_a_header_or_the_router_says_that_it_cannot(plane: Plane) -> None:
    router = plane.open()
    router.write({"blue": 50.0, "green": 50.0}, epoch=1)
    wanted = Arrangement(sticky=Sticky("header", "x-user-id"))
    if isinstance(router, Arranging) and "header" in router.sticky_by:
        router.arrange(wanted, epoch=1)
        assert router.verify().arrangement == wanted
    elif isinstance(router, Arranging):
        before = plane.written()
        with pytest.raises(ValueError, match="by a header"):
            router.arrange(wanted, epoch=1)
        assert plane.written() == before
