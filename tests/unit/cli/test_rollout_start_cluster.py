"""What `rollout start` asks of a cluster before it begins: its Prometheus, and whether it is a place for drills."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_deployments import empty_deployment
from fake_kube import FakeKube, RefusedError
from fake_prometheus import FakePrometheus, send_json
from rollout_world import RULES
from verdicts import key_pair, release, signed, verdict

from servegate.cli import main
from servegate.contract import canonical_json
from servegate.process import free_ports

KUBECONFIG = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
"""What the client made of the variable when it was imported."""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKube]:
    """An API server, and the folder of somebody who rolls v1 out there."""
    fake = FakeKube()
    fake.put("/api/v1/namespaces/llm", {"kind": "Namespace"})
    monkeypatch.setattr(KUBECONFIG, str(fake.kubeconfig(tmp_path)))
    monkeypatch.chdir(tmp_path)
    release("v1").write(tmp_path / "v1.json")
    (tmp_path / "plan.json").write_bytes(canonical_json(RULES))
    private, public = key_pair(tmp_path)
    (tmp_path / "trust.yaml").write_text(f"version: 1\nname: t\nsigners: [{{name: desk, key: {public.name}}}]\n")
    (tmp_path / "verdicts").mkdir()
    made = release("v1")
    drill = signed(verdict(made, decided=1.0), made, private, drill="game day")
    (tmp_path / "verdicts" / "v1.json").write_bytes(drill)
    for name in ("state", "history", "intents"):
        fake.put(f"/api/v1/namespaces/llm/configmaps/servegate-{name}", {"kind": "ConfigMap"})
    fake.put("/apis/coordination.k8s.io/v1/namespaces/llm/leases/servegate", {"kind": "Lease"})
    yield fake
    fake.close()


def start(url: str | None, monkeypatch: pytest.MonkeyPatch, *more: str, site: str = "") -> int:
    """Exit code of the command."""
    site = f"version: 1\nkind: kubernetes\nnamespace: llm\n{site}" + (f"prometheus: {{url: {url}}}\n" if url else "")
    Path("site.yaml").write_text(site)
    arguments = ["start", "v1.json", "--site", "site.yaml", "--plan", "plan.json", *more]
    monkeypatch.setattr(
        sys, "argv", ["servegate", "rollout", *arguments, "--trust", "trust.yaml", "--verdict", "verdicts"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    return int(str(ended.value.code))


def test_nobody_there(api: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    assert start(f"http://127.0.0.1:{port}", monkeypatch) == 4
    assert f"127.0.0.1:{port}" in capsys.readouterr().err
    assert not [call for call in api.calls if call[0] != "GET"]


@pytest.mark.parametrize(("status", "words"), [(401, "401"), (403, "403")])
def test_one_that_wants_to_know_who_asks(
    api: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, words: str
) -> None:
    prometheus = FakePrometheus(instead=lambda handler: send_json(handler, {"error": "who are you?"}, status))
    prometheus.start()
    try:
        assert start(prometheus.url, monkeypatch) == 4
    finally:
        prometheus.stop()
    said = capsys.readouterr().err
    assert words in said
    assert "bearer_token_file" in said
    assert not [call for call in api.calls if call[0] != "GET"]


def test_a_namespace_that_is_not_there_is_named(
    api: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del api.objects["/api/v1/namespaces/llm"]
    assert start("http://127.0.0.1:9", monkeypatch) == 4
    assert 'namespaces "llm" not found' in capsys.readouterr().err


def test_one_that_knows_no_slot(
    api: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prometheus = FakePrometheus()
    prometheus.start()
    try:
        assert start(prometheus.url, monkeypatch) == 2
    finally:
        prometheus.stop()
    assert "has no engine with slot='blue', slot='green'" in capsys.readouterr().err
    assert not [call for call in api.calls if call[0] != "GET"]


def test_the_verdict_of_a_drill_counts_in_a_namespace_for_drills_alone(
    api: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(None, monkeypatch) == 3
    assert "a drill's verdict (game day); it counts only in a namespace for drills" in capsys.readouterr().err
    api.put(
        "/api/v1/namespaces/llm", {"kind": "Namespace", "metadata": {"labels": {"servegate.dev/drills": "allowed"}}}
    )
    assert start(None, monkeypatch) == 2
    # The verdict has been accepted: what is missing now is the release that serves.
    assert "the store has seen no rollout yet: what serves now?" in capsys.readouterr().err


# --- room -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def full(api: FakeKube) -> FakeKube:
    """Two slots for two replicas, one GPU each, where one GPU is free; verdicts of drills count."""
    api.put(
        "/api/v1/namespaces/llm", {"kind": "Namespace", "metadata": {"labels": {"servegate.dev/drills": "allowed"}}}
    )
    for slot in ("blue", "green"):
        api.put(f"/apis/apps/v1/namespaces/llm/deployments/llm-{slot}", empty_deployment(f"llm-{slot}", slot))
    status = {"allocatable": {"nvidia.com/gpu": "1", "pods": "9"}, "conditions": [{"type": "Ready", "status": "True"}]}
    api.put("/api/v1/nodes/gpu-0", {"metadata": {"name": "gpu-0"}, "spec": {}, "status": status})
    Path("plan.json").write_bytes(canonical_json({**RULES, "replicas": 2}))
    release("v0").write(Path("v0.json"))
    return api


def changed(api: FakeKube) -> list[tuple[str, str]]:
    return [call for call in api.calls if call[0] not in ("GET", "WATCH")]


SHORT = "room for green: 1 of 2 replicas find a node beside what runs; 1 node: no more nvidia.com/gpu"


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_rollout_without_room_is_refused_before_anything_is_changed(
    full: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    assert start(None, monkeypatch, "--stable", "v0.json", *more) == 4
    said = capsys.readouterr()
    assert SHORT in " ".join((said.out + said.err).split())
    assert changed(full) == []


def test_a_dry_run_says_what_would_happen(
    full: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full.objects["/api/v1/nodes/gpu-0"]["status"]["allocatable"]["nvidia.com/gpu"] = "2"
    assert start(None, monkeypatch, "--stable", "v0.json", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "v1" in said
    assert "would go into green, beside v0 in blue" in said
    assert "all 2 replicas that it needs beside what runs find a node" in said
    assert start(None, monkeypatch, "--stable", "v0.json", "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["begins"], found["slots"]) == (True, {"blue": "v0", "green": "v1"})
    assert (found["room"]["slot"], found["room"]["wanted"], found["room"]["fits"]) == ("green", 2, 2)
    assert changed(full) == []


def test_where_nodes_may_not_be_read_the_scheduler_says_it_later(
    full: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbid(_: str, path: str) -> None:
        if path == "/api/v1/nodes":
            raise RefusedError(403, 'nodes is forbidden: User "x" cannot list resource "nodes"')

    full.before = forbid
    assert start(None, monkeypatch, "--stable", "v0.json", "--dry-run") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert 'is not known before: nodes is forbidden: User "x" cannot list resource "nodes"' in said
    assert "FailedScheduling" in said


def test_where_nodes_are_added_too_little_room_is_said_and_no_reason(
    full: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(None, monkeypatch, "--stable", "v0.json", "--dry-run", site="nodes: added\n") == 0
    assert SHORT in " ".join(capsys.readouterr().err.split())


def test_shift_is_proposed_where_it_would_do(
    full: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(None, monkeypatch, "--stable", "v0.json") == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "`capacity: shift` with `spare: 1` would do, and a rollback would take" in said
