"""The test cluster itself: it is real, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster.network import BRIDGE, HARDWARE
from processes import wait_until_exit

from cluster import Cluster
from servegate.endpoint import request


def pod(name: str, namespace: str, image: str = "servegate.test/pause", **spec: object) -> dict[str, object]:
    resources = {"limits": {"nvidia.com/gpu": "1"}}
    container = {"name": "main", "image": image, "resources": resources, **spec}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}}


def phase(cluster: Cluster, namespace: str, name: str) -> str:
    return str(cluster.get("-n", namespace, "pod", name)["status"].get("phase"))


def test_it_is_kubernetes_with_gpus(cluster: Cluster, namespace: str) -> None:
    assert json.loads(cluster.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"] == "v1.36.3"
    cluster.apply(pod("fits", namespace))
    large = pod("large", namespace, resources={"limits": {"nvidia.com/gpu": "9"}})
    cluster.apply(large)
    cluster.until("a pod to run", lambda: phase(cluster, namespace, "fits") == "Running")

    def why() -> str:
        conditions = cluster.get("-n", namespace, "pod", "large")["status"].get("conditions", [])
        return "".join(item.get("message", "") for item in conditions)

    cluster.until("the scheduler to say no", lambda: "Insufficient nvidia.com/gpu" in why())


def test_a_pod_is_a_process_with_an_address_of_its_own(cluster: Cluster, namespace: str) -> None:
    """Environment, volumes, probes, preStop, SIGTERM: as the manifest says."""
    script = (
        "import http.server, os, signal, sys, threading, time\n"
        "def term(*_):\n"
        "    print('term', round(time.time() - float(open('/state/asked').read()), 1), flush=True)\n"
        "    os._exit(0)\n"
        "signal.signal(signal.SIGTERM, term)\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        if self.path == '/stop': open('/state/asked', 'w').write(str(time.time()))\n"
        "        self.send_response(200); self.end_headers()\n"
        "        text = os.environ['GREETING'] + open('/etc/of-the-pod/name').read() + os.environ['IP']\n"
        "        self.wfile.write(text.encode())\n"
        "    def log_message(self, *a): pass\n"
        "time.sleep(1.5)\n"
        "http.server.ThreadingHTTPServer(('0.0.0.0', 8000), H).serve_forever()\n"
    )
    cluster.kubectl("-n", namespace, "create", "configmap", "settings", "--from-literal=name=world")
    cluster.add_image("servegate.test/python", sys.executable, "-c")
    item = pod(
        "server",
        namespace,
        "servegate.test/python",
        args=[script],
        ports=[{"containerPort": 8000, "name": "http"}],
        env=[
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "GREETING", "value": "hello "},
        ],
        volumeMounts=[
            {"name": "settings", "mountPath": "/etc/of-the-pod"},
            {"name": "state", "mountPath": "/state"},
        ],
        readinessProbe={"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        lifecycle={"preStop": {"httpGet": {"path": "/stop", "port": "http"}}},
    )
    spec = item["spec"]
    assert isinstance(spec, dict)
    spec["volumes"] = [{"name": "settings", "configMap": {"name": "settings"}}, {"name": "state", "emptyDir": {}}]
    cluster.apply(item)
    cluster.until("the process to run", lambda: phase(cluster, namespace, "server") == "Running")
    found = cluster.get("-n", namespace, "pod", "server")
    assert not found["status"]["containerStatuses"][0]["ready"]
    cluster.wait("Ready", "-n", namespace, "pod/server")
    address = cluster.get("-n", namespace, "pod", "server")["status"]["podIP"]
    assert request("GET", f"http://{address}:8000/") == (200, f"hello world{address}".encode())
    assert not Path("/etc/of-the-pod").exists()
    cluster.kubectl("-n", namespace, "delete", "pod", "server")
    assert "term 0." in cluster.pod_log("server")


def test_a_crash_loop_and_a_missing_image_look_as_they_do_in_a_cluster(cluster: Cluster, namespace: str) -> None:
    cluster.add_image("servegate.test/shell", "sh", "-c")
    cluster.apply(
        pod("crash", namespace, "servegate.test/shell", args=["echo no such model; exit 7"]),
        pod("missing", namespace, "servegate.test/unknown"),
        pod("secret", namespace, env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "none", "key": "a"}}}]),
    )

    def state(name: str) -> dict[str, Any]:
        statuses = cluster.get("-n", namespace, "pod", name)["status"].get("containerStatuses", [{}])
        return {**statuses[0].get("state", {}), "last": statuses[0].get("lastState", {}).get("terminated", {})}

    def waits(name: str, reason: str) -> bool:
        return bool(state(name).get("waiting", {}).get("reason") == reason)

    cluster.until("a crash loop", lambda: waits("crash", "CrashLoopBackOff"))
    assert (state("crash")["last"]["exitCode"], state("crash")["last"]["message"]) == (7, "no such model")
    cluster.until("a failed pull", lambda: waits("missing", "ImagePullBackOff"))
    cluster.until("an error of configuration", lambda: waits("secret", "CreateContainerConfigError"))


def test_the_pods_way_out_keeps_its_address_whoever_leaves(cluster: Cluster) -> None:
    """One that took a port's is silent for half a minute, when that port goes, to whoever had learned it."""
    assert cluster.network is not None
    paths = [f"/sys/class/net/{BRIDGE}/{name}" for name in ("address", "addr_assign_type")]
    run = subprocess.run(cluster.network.command(["cat", *paths]), capture_output=True, text=True, check=True)
    assert run.stdout.split() == [HARDWARE, "3"]  # NET_ADDR_SET


@pytest.mark.timeout(300)
def test_two_run_side_by_side_and_leave_nothing(cluster: Cluster) -> None:
    with Cluster(nodes=1, gpus=1, gateway=False) as other:
        assert other.addresses != cluster.addresses
        assert other.kubectl("get", "nodes", "-o", "name").split() == ["node/gpu-0"]
        pids, folder, name = [child.pid for child in other.children.values()], other.folder, other.network
        assert name is not None
    assert all(wait_until_exit(pid, 5) for pid in pids)
    assert not folder.exists()
    assert name.name not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert len(cluster.get("nodes")["items"]) == 2


@pytest.mark.timeout(300)
def test_a_killed_one_leaves_no_process(tmp_path: Path) -> None:
    """Nor what a container has started in a session of its own."""
    seconds = str(10**6 + os.getpid())
    container = {
        "name": "one",
        "image": "servegate.test/detached",
        "args": ["-c", f"setsid sleep {seconds} & sleep 600"],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}
    code = (
        "import sys, time; from cluster import Cluster; c = Cluster(nodes=1, gateway=False); "
        f"c.add_image('servegate.test/detached', 'sh'); c.apply({pod}); c.wait('Ready', 'pod', 'p'); "
        "print(*[x.pid for x in c.children.values()], flush=True); time.sleep(600)"
    )

    def asleep() -> bool:
        return (
            subprocess.run(["pgrep", "-f", f"^sleep {seconds}$"], stdout=subprocess.DEVNULL, check=False).returncode
            == 0
        )

    def until(holds: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + 10
        while not holds():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            pids = [int(pid) for pid in running.stdout.readline().split()]
            assert len(pids) >= 6
            assert until(asleep)
        finally:
            running.kill()
    assert all(wait_until_exit(pid, 10) for pid in pids)
    assert until(lambda: not asleep())
    with Cluster(nodes=1, gateway=False) as again:  # where the killed one was
        assert "gpu-0" in again.kubectl("get", "nodes")
