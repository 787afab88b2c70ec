"""What `rollout start` asks of a cluster before it begins: its Prometheus, and whether it is a place for drills."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_kube import FakeKube
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


def start(url: str | None, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of the command."""
    site = "version: 1\nkind: kubernetes\nnamespace: llm\n" + (f"prometheus: {{url: {url}}}\n" if url else "")
    Path("site.yaml").write_text(site)
    arguments = ["start", "v1.json", "--site", "site.yaml", "--plan", "plan.json"]
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
