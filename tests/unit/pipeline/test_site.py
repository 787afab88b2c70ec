"""Sites, how releases are started on one, and answers compared."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fake_kube import FakeKube, RefusedError

from servegate.config import validate
from servegate.errors import ConfigError, InfrastructureError
from servegate.pipeline.launch import launcher
from servegate.pipeline.machine import up
from servegate.pipeline.outputs import comparing, plain
from servegate.pipeline.site import (
    LONGEST_APP,
    ClusterSite,
    MachineSite,
    allows_drills,
    load_machine,
    load_site,
    opened,
    remembered,
)
from servegate.release import Engine, Model, Release
from servegate.rollout.plan_experiment import Outputs
from servegate.rollout.routers.kserve import KServeRouter
from servegate.rollout.workloads.kserve import KServeWorkload

SITE: dict[str, Any] = {
    "version": 1, "kind": "machine", "folder": "out/m", "port": 8080, "admin_port": 8081,
    "slots": {"blue": [8101, 8102], "green": [8103, 8104]},
}  # fmt: skip
KUBECONFIG = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
"""What the client made of the variable when it was imported."""
SHIPPED = Path(__file__).parents[3] / "rollout" / "machine.yaml"


def release(engine: str = "vllm", **changes: Any) -> Release:
    model = Model(uri="hf://org/name", revision="abc", served_name="m")
    values: dict[str, Any] = {"name": "v1", "model": model, "engine": Engine(name=engine, version="1"), **changes}
    return Release(**values)


def test_the_shipped_site_is_read_and_its_folder_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    site = load_machine(SHIPPED)
    assert site.root == tmp_path / "out" / "machine"
    assert site.store.parent == site.root
    assert remembered(site.model_dump(mode="json"), "store") == site


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"port": 8101}, "port 8101 is used twice"),
        ({"slots": {"blue": [1]}}, "slots"),
        ({"slots": {"blue": [1], "Green!": [2]}}, "slots"),
        ({"slots": {"blue": [], "green": [2]}}, "slots.blue"),
        ({"kind": "moon"}, "machine"),
        ({"prot": 1}, "did you mean 'port'"),
        ({"vllm": []}, "vllm"),
    ],
)
def test_sites_that_cannot_be_are_refused(changes: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate({**SITE, **changes}, MachineSite, "site.yaml")


def test_a_store_that_names_no_site_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="start it again with its --site"):
        remembered(None, "store")


def test_a_machine_must_know_what_serves(tmp_path: Path) -> None:
    site = validate({**SITE, "folder": str(tmp_path)}, MachineSite, "site.yaml")
    with pytest.raises(ConfigError, match="--stable"), up(site, None, lambda _: None):
        pass


def test_how_engines_are_started() -> None:
    launch = launcher(("vllm", "serve"))
    command = list(launch("blue", release(args=("--max-num-seqs", "8"), env={"A": "b"}), 8101).command)
    assert command[:5] == ["vllm", "serve", "org/name", "--revision", "abc"]
    assert command[-2:] == ["--max-num-seqs", "8"]
    assert command[command.index("--port") + 1] == "8101"
    assert launch("blue", release(env={"A": "b"}), 1).env == {"A": "b"}
    local = release(model=Model(uri="file:///models/x", served_name="m"))
    assert "/models/x" in launch("blue", local, 1).command
    assert "servegate.simulator" in launch("blue", release("simulator"), 1).command
    for argument in ("--port", "--served_model_name=x", "--host"):
        with pytest.raises(ConfigError, match="is set by servegate"):
            launch("blue", release(args=(argument,)), 1)


@pytest.fixture
def engine() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert body["temperature"] == 0
            text = body["messages"][-1]["content"]
            status = 500 if text == "fail" else 200
            if body["model"] == "two" and text == "differ":
                text = "something else"
            if body["model"] == "two" and text == "case":
                text = " CASE\n"
            content = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_answers_are_laid_side_by_side(engine: str, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    texts = ("same", "case", "differ", "fail", "never asked")
    file.write_text("".join(json.dumps({"id": text, "prompt": text}) + "\n" for text in texts))
    compare = comparing(validate({"prompts": str(file), "count": 4}, Outputs, "o"))
    one, two = release(), release(model=Model(uri="hf://a/b", served_name="two"))
    seen = compare(engine, engine, one, two)
    assert (seen.asked, seen.same, seen.failed, seen.examples) == (3, 2, 1, ("differ",))
    assert 0.6 < seen.similarity < 1
    assert plain(" A\n b ") == "a b"
    with pytest.raises(ConfigError, match=r"none\.jsonl"):
        comparing(validate({"prompts": str(tmp_path / "none.jsonl")}, Outputs, "o"))


def test_a_cluster_is_read_and_its_namespace_may_be_given_instead(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("version: 1\nkind: kubernetes\nfolder: out\n")
    with pytest.raises(ConfigError, match="namespace"):
        load_site(file)
    site = load_site(file, "team")
    assert isinstance(site, ClusterSite)
    assert (site.namespace, site.app, site.route) == ("team", "llm", "llm")
    assert remembered(site.model_dump(mode="json"), "store") == site
    with pytest.raises(ConfigError, match="a machine is wanted"):
        load_machine(SHIPPED.with_name("kubernetes.yaml"))


def test_a_cluster_counts_requests_at_one_gateway_only(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    text = (
        "version: 1\nkind: kubernetes\nnamespace: llm\ngateway: http://stats.gateway:19001\nbackends: InferencePool\n"
    )
    file.write_text(text)
    site = load_site(file)
    assert isinstance(site, ClusterSite)
    assert (site.gateway, site.backends) == ("http://stats.gateway:19001", "InferencePool")
    file.write_text(text + "prometheus: {url: http://prometheus, gateway: {}}\n")
    with pytest.raises(ConfigError, match="every request would count twice"):
        load_site(file)
    file.write_text(text.replace("http://stats", "stats"))
    with pytest.raises(ConfigError, match="gateway"):
        load_site(file)


def test_a_machine_has_no_namespace_and_an_unknown_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--namespace is for a site of kind kubernetes"):
        load_site(SHIPPED, "team")
    file = tmp_path / "site.yaml"
    file.write_text("version: 1\nkind: nomad\n")
    with pytest.raises(ConfigError, match="kind"):
        load_site(file)


def test_verdicts_of_drills_count_where_the_namespace_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeKube()
    monkeypatch.setattr(KUBECONFIG, str(api.kubeconfig(tmp_path)))
    site = ClusterSite(version=1, kind="kubernetes", namespace="llm")
    path = "/api/v1/namespaces/llm"
    try:
        for labels, allowed in (
            ({}, False),
            ({"servegate.dev/drills": "no"}, False),
            ({"servegate.dev/drills": "allowed"}, True),
        ):
            api.put(path, {"kind": "Namespace", "metadata": {"labels": labels}})
            assert allows_drills(site) is allowed

        def refuse(_method: str, _path: str) -> None:
            raise RefusedError(status, "no")

        api.before, status = refuse, 403
        assert not allows_drills(site)  # nobody may be told that a namespace is for drills by who cannot read it
        status = 500
        with pytest.raises(InfrastructureError, match="HTTP 500"):
            allows_drills(site)
    finally:
        api.close()
    assert not allows_drills(validate(SITE, MachineSite, "site.yaml"))


def test_slots_of_kserve_come_with_their_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeKube()
    monkeypatch.setattr(KUBECONFIG, str(api.kubeconfig(tmp_path)))
    file = tmp_path / "site.yaml"
    text = "version: 1\nkind: kubernetes\nnamespace: llm\nroute: group\nbackends: LLMInferenceService\n"
    file.write_text(text)
    try:
        with opened(load_site(file)) as place:
            assert isinstance(place.workload, KServeWorkload)
            assert isinstance(place.router, KServeRouter)
            assert place.workload.service("blue") == "llm-blue-kserve-workload-svc"
            assert (place.router.group, place.router.services) == ("group", {"blue": "llm-blue", "green": "llm-green"})
    finally:
        api.close()
    # Past 63 characters KServe makes up other names.
    assert len(f"{'a' * LONGEST_APP}-green-kserve-workload-svc") == 63
    file.write_text(f"{text}app: {'a' * LONGEST_APP}\n")
    load_site(file)
    file.write_text(f"{text}app: {'a' * (LONGEST_APP + 1)}\n")
    with pytest.raises(ConfigError, match="at most 37 characters"):
        load_site(file)
