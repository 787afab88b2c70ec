"""Real vLLM in the pods: the image's entry point, its arguments and environment from the slots, its own metrics.

Two servers share two cores, so requests are few, and probes are as patient as those of a real cluster.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

import pytest
import urllib3
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
what=$1
shift
case $what in
serve) exec {python} -m vllm.entrypoints.openai.api_server --model "$@" ;;
run-batch) exec {python} -m vllm.entrypoints.openai.run_batch "$@" ;;
esac
exit 2
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
ASKED = [
    {
        "custom_id": f"item-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "support",
            "messages": [{"role": "user", "content": f"Count from {number} to ten"}],
            "max_tokens": 8,
            "min_tokens": 8,
            "ignore_eos": True,
        },
    }
    for number in range(4)
]
"""A file in OpenAI's batch format, line by line."""


def patient(item: Object, engine: Engine) -> Object:
    """Room for a real engine, probes that wait for it, and the small model where the batch Job names its own."""
    room = {"requests": {"memory": "4Gi"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"}}
    if item["kind"] == "Deployment":
        item["spec"]["progressDeadlineSeconds"] = 600
        pod = item["spec"]["template"]["spec"]
        pod["terminationGracePeriodSeconds"] = 180
        container = next(each for each in pod["containers"] if each["name"] == "engine")
        container["resources"] = room
        container["startupProbe"] |= {"timeoutSeconds": 5, "failureThreshold": 400}
        container["readinessProbe"] |= {"periodSeconds": 2, "timeoutSeconds": 5}
        container["livenessProbe"] |= {"periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 6}
    if item["kind"] == "CronJob" and item["metadata"]["name"] == "llm-batch":
        (container,) = item["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        kept = [
            each for each in container["args"] if not each.startswith(("--model=", "--revision=", "--max-model-len="))
        ]
        container["args"] = [*kept, f"--model={engine.model_dir}", *flags(engine)]
        container["image"] = container["image"].replace("example.invalid/llm", IMAGE)
        container["resources"] = room
    return item


def flags(engine: Engine) -> list[str]:
    """What two servers on two cores need."""
    argv, _ = command(engine, host="0.0.0.0", port=0, args=())
    found = argv[argv.index("--dtype") :]
    at = found.index("--shutdown-timeout")  # follows from the manifest
    return [*found[:at], *found[at + 2 :]]


def release(name: str, engine: Engine) -> Release:
    """The small model."""
    return Release(
        name=name,
        image=Image(repository=IMAGE, digest="sha256:" + name[1:] * 64),
        model=Model(uri=str(engine.model_dir), served_name="support"),
        engine=EngineOf(name="vllm", version=engine.version),
        args=tuple(flags(engine)),
    )


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """v1 in blue, which has all the traffic. Beside its start the batch Job answers a file."""
    folder = tmp_path_factory.mktemp("real")
    engine = ensure(print)
    shim = folder / "bin" / "vllm"
    shim.parent.mkdir()
    shim.write_text(VLLM.replace("{python}", str(engine.python)))
    shim.chmod(0o755)
    _, env = command(engine, host="0.0.0.0", port=0, args=())
    env = {**env, "PATH": f"{shim.parent}:{os.environ['PATH']}"}
    cluster.add_image(IMAGE, sys.executable, "-c", ENTRY, str(FLAGS), env=env)
    made = Place(cluster, folder, "batch", changed=lambda item: patient(item, engine), plan=PLAN)
    key, _ = key_pair(folder)
    for name in ("v1", "v2"):
        one = release(name, engine)
        one.write(folder / f"{name}.json")
        (folder / f"{name}.verdict.json").write_bytes(signed(verdict(one, decided=1.0), one, key))
    volume = cluster.add_volume(made.namespace, "llm-batch")
    (folder / "batch").symlink_to(volume)
    (volume / "input.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in ASKED))
    cluster.kubectl("-n", made.namespace, "create", "job", "--from=cronjob/llm-batch", "tonight")
    made.fill("blue", release("v1", engine), timeout=300)
    made.open()
    yield made
    made.close()


def test_a_file_of_requests_is_answered_offline(place: Place) -> None:
    status, said = place.ended("tonight", timeout=300)
    assert status == "Complete", said
    answers = [json.loads(line) for line in (place.folder / "batch" / "output.jsonl").read_text().splitlines()]
    assert {each["custom_id"] for each in answers} == {each["custom_id"] for each in ASKED}
    for each in answers:
        assert each["response"]["status_code"] == 200, each
        assert each["response"]["body"]["usage"]["completion_tokens"] == 8, each


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


def test_an_answer_that_is_under_way_is_finished_when_its_pod_has_to_go(place: Place) -> None:
    """preStop, then SIGTERM to the entry point, which stops vLLM when nobody asks any more."""
    (pod,) = place.cluster.get("-n", place.namespace, "pods", "-l", "servegate.dev/slot=blue")["items"]
    body = {
        "model": "support",
        "messages": [{"role": "user", "content": "Tell me a story"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        # Far more than comes in the two seconds of preStop.
        "max_tokens": 150,
        "min_tokens": 150,
        "ignore_eos": True,
    }
    url, headers = f"{place.cluster.gateway_url}/v1/chat/completions", {"Host": f"{place.namespace}.test"}
    response = urllib3.request("POST", url, json=body, headers=headers, timeout=120, preload_content=False)
    chunks = response.stream(64)
    text = next(chunks)
    place.cluster.kubectl("-n", place.namespace, "scale", "deployment/llm-blue", "--replicas=0")
    text += b"".join(chunks)
    said = place.cluster.pod_log(pod["metadata"]["name"])
    assert text.rstrip().endswith(b"[DONE]"), (text[-300:], said[-2000:])
    assert b'"completion_tokens":150' in text, text[-300:]
    assert "SIGTERM: serving until nobody asks" in said, said[-2000:]
    alive = ("-n", place.namespace, "pods", "--field-selector", f"metadata.name={pod['metadata']['name']}")
    place.cluster.until("the pod to be gone", lambda: not place.cluster.get(*alive)["items"], 180)
    said = place.cluster.pod_log(pod["metadata"]["name"])
    assert "stopping vLLM, 0 requests in flight" in said, said[-2000:]
    assert "did not stop in time" not in said, said[-2000:]
