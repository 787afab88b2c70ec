"""Objects that are heard of instead of asked for: what a watch knows, when it is old, and how it begins again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_kube import FakeKube, Object, RefusedError

from servegate.rollout.kube import Kube, KubeError
from servegate.rollout.kube_watch import LASTS, SILENCE, Watch

PODS = "/api/v1/namespaces/llm/pods"
MAP = "/api/v1/namespaces/llm/configmaps/servegate-intents"
ENGINE = {"app": "engine"}


@pytest.fixture
def api() -> Iterator[FakeKube]:
    fake = FakeKube()
    fake.put(MAP, {"kind": "ConfigMap", "data": {"n": "0"}})
    pod(fake, "a")
    yield fake
    fake.close()


@pytest.fixture
def kube(api: FakeKube, tmp_path: Path) -> Iterator[Kube]:
    made = Kube(kubeconfig=api.kubeconfig(tmp_path))
    made.watch("Pod", selector="app=engine")
    made.watch("ConfigMap", "servegate-intents")
    yield made
    made.close()


def pod(api: FakeKube, name: str, **labels: str) -> None:
    api.put(f"{PODS}/{name}", {"kind": "Pod", "metadata": {"name": name, "labels": {**ENGINE, **labels}}})


def until(what: Callable[[], object], seconds: float = 60.0) -> None:
    """A stream comes by a thread of its own."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def hear(api: FakeKube, kube: Kube) -> None:
    """Read until nothing more is asked."""
    for _ in range(2):
        pods(kube)
        value(kube)
    until(lambda: kube.heard("ConfigMap", "servegate-intents") and kube._watches["Pod", ""].known() is not None)
    api.calls.clear()


def pods(kube: Kube) -> set[str]:
    return {item["metadata"]["name"] for item in kube.find("Pod", ENGINE)}


def value(kube: Kube) -> str:
    return str(kube.get("ConfigMap", "servegate-intents")["data"]["n"])


def put(api: FakeKube, value: str) -> None:
    api.put(MAP, {"kind": "ConfigMap", "data": {"n": value}})


def test_what_changes_is_heard_and_nothing_is_asked(api: FakeKube, kube: Kube) -> None:
    hear(api, kube)
    pod(api, "b")
    until(lambda: pods(kube) == {"a", "b"})
    api.remove(f"{PODS}/a")
    until(lambda: pods(kube) == {"b"})
    put(api, "1")
    until(lambda: value(kube) == "1")
    assert api.calls == []


def test_who_reads_once_opens_no_stream(api: FakeKube, kube: Kube) -> None:
    pods(kube)
    value(kube)
    assert [method for method, _ in api.calls] == ["GET", "GET"]


def test_labels_choose_among_what_is_heard(api: FakeKube, kube: Kube) -> None:
    hear(api, kube)
    pod(api, "b", slot="green")
    until(lambda: pods(kube) == {"a", "b"})
    assert [item["metadata"]["name"] for item in kube.find("Pod", {"slot": "green"})] == ["b"]


def test_what_is_given_out_is_a_copy(api: FakeKube, kube: Kube) -> None:
    hear(api, kube)
    kube.get("ConfigMap", "servegate-intents")["data"]["n"] = "mine"
    assert value(kube) == "0"


def test_now_asks(api: FakeKube, kube: Kube) -> None:
    hear(api, kube)
    kube.find("Pod", now=True)
    kube.get("ConfigMap", "servegate-intents", now=True)
    assert [path for _, path in api.calls] == [PODS, MAP]


def test_what_we_write_is_known_at_once(api: FakeKube, kube: Kube) -> None:
    hear(api, kube)
    item = kube.get("ConfigMap", "servegate-intents")
    kube.replace("ConfigMap", {**item, "data": {"n": "mine"}})
    assert value(kube) == "mine"
    assert [method for method, _ in api.calls] == ["PUT"]


@pytest.mark.parametrize("single", [True, False])
def test_an_older_event_undoes_nothing(single: bool) -> None:
    def object_at(version: int) -> Object:
        return {"metadata": {"name": "x", "resourceVersion": str(version)}, "version": version}

    opened = threading.Event()

    def connect(_version: str, _lasts: int) -> object:
        opened.wait(60)
        raise OSError("over")

    watch = Watch(connect, single=single)
    watch.learn([object_at(5)], "" if single else "6")
    watch.wrote(object_at(9))
    watch._take("MODIFIED", object_at(8))
    assert [item["version"] for item in watch.known() or ()] == [9]
    watch._take("DELETED", object_at(7))
    assert [item["version"] for item in watch.known() or ()] == [9]
    watch.learn([object_at(8)], "" if single else "8")
    assert [item["version"] for item in watch.known() or ()] == [9]
    watch._take("DELETED", object_at(10))
    assert not watch.known()
    opened.set()


def test_a_closed_stream_goes_on_where_it_ended(api: FakeKube, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servegate.rollout.kube_watch.SHORT", 0.0)
    hear(api, kube)
    api.cut()
    pod(api, "b")
    until(lambda: ("WATCH", PODS) in api.calls and kube._watches["Pod", ""].known() is not None)
    until(lambda: pods(kube) == {"a", "b"})


def test_gone_means_a_new_list(api: FakeKube, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servegate.rollout.kube_watch.SHORT", 0.0)
    hear(api, kube)
    api.oldest = 10_000
    api.cut()
    until(lambda: kube._watches["Pod", ""].known() is None)
    pod(api, "b")
    assert pods(kube) == {"a", "b"}
    api.oldest = 0
    until(lambda: pods(kube) and kube._watches["Pod", ""].known() is not None)
    assert ("GET", PODS) in api.calls


def test_gone_may_come_as_an_event(api: FakeKube, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servegate.rollout.kube_watch.SHORT", 0.0)
    hear(api, kube)
    with api.lock:
        gone: Object = {"code": 410, "metadata": {"name": "x", "labels": ENGINE}}
        api._serial += 1
        api._event("ERROR", f"{PODS}/x", gone)
    until(lambda: ("GET", PODS) in api.calls or not pods(kube))
    until(lambda: kube._watches["Pod", ""].known() is not None)
    assert pods(kube) == {"a"}


def test_a_stream_that_is_refused_leaves_the_asking(api: FakeKube, kube: Kube) -> None:
    """Such as with the rights of an older release: no watch, and nothing else is lost."""

    def refuse(method: str, _path: str) -> None:
        if method == "WATCH":
            raise RefusedError(403, "no")

    api.before = refuse
    for number in range(5):
        put(api, str(number))
        assert value(kube) == str(number)
    # The pause between two tries is a second at least.
    assert [method for method, path in api.calls if path == MAP].count("WATCH") <= 2


def test_an_object_that_is_gone_is_asked_for(api: FakeKube, kube: Kube) -> None:
    hear(api, kube)
    api.remove(MAP)
    until(lambda: kube.heard("ConfigMap", "servegate-intents") is None)
    with pytest.raises(KubeError, match='configmaps "servegate-intents" not found'):
        value(kube)
    put(api, "again")
    until(lambda: kube.heard("ConfigMap", "servegate-intents"))
    assert value(kube) == "again"


def test_a_silent_stream_is_not_trusted_for_ever(api: FakeKube, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    hear(api, kube)
    watch = kube._watches["Pod", ""]
    later = time.monotonic() + LASTS + SILENCE + 1
    monkeypatch.setattr(watch, "_clock", lambda: later)
    assert watch.known() is None
    pods(kube)
    assert ("GET", PODS) in api.calls


def test_an_api_server_that_does_not_answer_makes_all_knowledge_old(api: FakeKube, kube: Kube) -> None:
    hear(api, kube)
    kube.timeout = 0.2
    with api.lock:  # nobody is answered
        with pytest.raises(KubeError, match=r"no answer in 0\.2 s"):
            kube.get("ConfigMap", "servegate-state")
        assert kube.heard("ConfigMap", "servegate-intents") is None
        with pytest.raises(KubeError, match="no answer"):
            pods(kube)
    kube.timeout = 5.0
    until(lambda: pods(kube) == {"a"} and kube._watches["Pod", ""].known() is not None)


def test_the_first_answer_is_waited_for_longer(api: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that begins beside a busy API server."""
    monkeypatch.setattr("servegate.rollout.kube.FIRST", 60.0)
    kube = Kube(kubeconfig=api.kubeconfig(tmp_path), timeout=0.1)
    busy, free = threading.Event(), threading.Event()

    def hold() -> None:
        with api.lock:
            busy.set()
            free.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    busy.wait(60)
    threading.Timer(0.5, free.set).start()
    assert value(kube) == "0"
    holder.join()
    with api.lock, pytest.raises(KubeError, match=r"no answer in 0\.1 s"):
        value(kube)
    kube.close()


def test_closing_ends_the_streams(api: FakeKube, kube: Kube) -> None:
    hear(api, kube)
    assert api.watching == 2
    kube.close()
    for _ in range(3):  # the server notices at its next word
        pod(api, "b")
        put(api, "1")
    until(lambda: not any(watch._running for watch in kube._watches.values()))
