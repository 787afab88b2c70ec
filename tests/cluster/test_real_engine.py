"""Real vLLM in the pods: the image's entry point, its arguments and environment from the slots, its own metrics.

Two servers share two cores, so requests are few, and probes are as patient as those of a real cluster.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_place import Place, Users
from entry_point import ENTRY, FLAGS
from manifests import Object
from verdicts import key_pair, signed, verdict

from cluster import Cluster
from servegate.demo.vllm_cpu import Engine, command, ensure
from servegate.release import Engine as EngineOf
from servegate.release import Image, Model, Release

# It may have to install everything first.
pytestmark = pytest.mark.timeout(1200)

IMAGE = "servegate.test/vllm-cpu"
# The package is called vllm-cpu here, so that there is no `vllm` command.
VLLM = """#!/bin/sh
test "$1" = serve && shift
exec {python} -m vllm.entrypoints.openai.api_server --model "$@"
"""
RATE = 1.5
PLAN = f"""
version: 1
name: vllm
tick: 1s
expect: {{requests_per_second: {RATE}}}
alpha: 10%
steps:
  - {{weight: 10%, min_time: 5s}}
  - {{weight: 50%, min_time: 50s, min_requests: 10}}
  - {{weight: 100%, min_time: 5s}}
checks:
  - {{kind: errors-vs-stable, name: errors, share: 60%, interval: 3s, odds_ratio: 1.5}}
  - {{kind: latency-vs-stable, name: ttft, share: 20%, metric: ttft, margin: 100%, interval: 5s, min_requests: 2,
     weather: {{sd: 30%, lasts: 30s}}}}
  - {{kind: errors-slo, name: slo, share: 20%, at_most: 5%, interval: 3s}}
watchdogs: {{unready: 90s, no_data: 90s, route: 90s}}
rollback: {{prove: 5s}}
limits: {{prepare: 5m, step: 5m}}
"""


def patient(item: Object) -> Object:
    """Room for a real engine, and probes that wait for it."""
    if item["kind"] == "Deployment":
        item["spec"]["progressDeadlineSeconds"] = 600
        pod = item["spec"]["template"]["spec"]
        engine = next(each for each in pod["containers"] if each["name"] == "engine")
        engine["resources"] = {"requests": {"memory": "4Gi"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"}}
        engine["startupProbe"] |= {"timeoutSeconds": 5, "failureThreshold": 400}
        engine["readinessProbe"] |= {"periodSeconds": 2, "timeoutSeconds": 5}
        engine["livenessProbe"] |= {"periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 6}
    return item


def release(name: str, engine: Engine) -> Release:
    """The small model under the flags that two servers on two cores need."""
    argv, _ = command(engine, host="0.0.0.0", port=0, args=())
    flags = argv[argv.index("--dtype") :]
    at = flags.index("--shutdown-timeout")  # follows from the manifest
    return Release(
        name=name,
        image=Image(repository=IMAGE, digest="sha256:" + name[1:] * 64),
        model=Model(uri=str(engine.model_dir), served_name="support"),
        engine=EngineOf(name="vllm", version=engine.version),
        args=(*flags[:at], *flags[at + 2 :]),
    )


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path) -> Iterator[Place]:
    engine = ensure(print)
    shim = tmp_path / "bin" / "vllm"
    shim.parent.mkdir()
    shim.write_text(VLLM.replace("{python}", str(engine.python)))
    shim.chmod(0o755)
    _, env = command(engine, host="0.0.0.0", port=0, args=())
    env = {**env, "PATH": f"{shim.parent}:{os.environ['PATH']}"}
    cluster.add_image(IMAGE, sys.executable, "-c", ENTRY, str(FLAGS), env=env)
    made = Place(cluster, tmp_path, changed=patient, plan=PLAN)
    key, _ = key_pair(tmp_path)
    for name in ("v1", "v2"):
        one = release(name, engine)
        one.write(tmp_path / f"{name}.json")
        (tmp_path / f"{name}.verdict.json").write_bytes(signed(verdict(one, decided=1.0), one, key))
    made.fill("blue", release("v1", engine), timeout=300)
    made.open()
    yield made
    made.close()


def test_a_release_of_real_engines_is_promoted_and_taken_back(place: Place) -> None:
    users = Users(place.cluster.gateway_url, f"{place.namespace}.test", threads=2, pause=0.5)
    try:
        code, out = place.start("v2")
        assert code == 0, out
        assert "PROMOTED" in out
        assert place.router.read() == {"blue": 0.0, "green": 100.0}
        judged = {name: each["intervals"] for name, each in place.state()["checks"].items()}
        assert all(judged.values()), judged
        code, out = place.run("rollback", "--reason", "drill")
        assert code == 0, out
        assert place.router.read() == {"blue": 100.0, "green": 0.0}
    finally:
        seen = users.stop()
    assert set(seen) == {"complete"}, (seen, users.bad, out)
    assert seen.total() > 30, seen
