"""Watches the pods of all nodes and runs each in a thread; ends with its parent, and every process with it."""

from __future__ import annotations

import ipaddress
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from cluster.kubelet.pod import PodRunner, Setting
from cluster.kubelet.proxy import ServiceProxy
from servegate.rollout.kube import Kube, KubeError

LOOK = 0.1


def main(file: str) -> None:
    """`file`: JSON with kubeconfig, folder, images, spaces, bridge [name, address, prefix] and env.

    Beside it lost.json, once a machine is lost: names of nodes. `lost-NAME` says that nothing of one runs any more.
    """
    given = json.loads(Path(file).read_text())
    lost, lost_file = list[str](), Path(file).with_name("lost.json")
    kube = Kube("default", kubeconfig=Path(given["kubeconfig"]))
    images = Path(given["images"])
    setting = Setting(kube, Path(given["folder"]), {}, tuple(given["bridge"]), Path(given["spaces"]), given["env"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ServiceProxy(Kube("default", kubeconfig=Path(given["kubeconfig"]))).start()
    runners: dict[str, PodRunner] = {}
    ranges: dict[str, ipaddress.IPv4Network] = {}
    while True:
        try:
            setting.images.update(json.loads(images.read_text()))
            if lost_file.exists():
                lost = json.loads(lost_file.read_text())
            for name in lost:
                _lose(name, runners, Path(file).with_name(f"lost-{name}"))
            pods = kube.call("GET", "/api/v1/pods", query={"fieldSelector": "spec.nodeName!="})["items"]
            for pod in pods:
                if pod["spec"]["nodeName"] not in lost:
                    _see(setting, pod, runners, ranges)
            there = {pod["metadata"]["uid"] for pod in pods}
            for uid in set(runners) - there:
                runners[uid].leave(0.0)
                if not runners[uid].is_alive():
                    del runners[uid]
        except KubeError as error:
            print(error, file=sys.stderr, flush=True)
        time.sleep(LOOK)


def _lose(node: str, runners: dict[str, PodRunner], done: Path) -> None:
    gone = [runner for runner in runners.values() if runner.pod["spec"]["nodeName"] == node]
    for runner in gone:
        runner.vanish()
    if not any(runner.is_alive() for runner in gone):
        done.touch()


def _see(
    setting: Setting, pod: dict[str, Any], runners: dict[str, PodRunner], ranges: dict[str, ipaddress.IPv4Network]
) -> None:
    uid, node = pod["metadata"]["uid"], pod["spec"]["nodeName"]
    if uid not in runners:
        if pod["metadata"].get("deletionTimestamp") is None and pod.get("status", {}).get("phase") == "Pending":
            if node not in ranges:
                found = setting.kube.call("GET", f"/api/v1/nodes/{node}")
                ranges[node] = ipaddress.IPv4Network(found["spec"]["podCIDR"])
            taken = {runner.address for runner in runners.values()}
            free = (str(address) for address in ranges[node].hosts() if str(address) != setting.bridge[1])
            runners[uid] = PodRunner(setting, pod, next(address for address in free if address not in taken))
            runners[uid].start()
        elif pod["metadata"].get("deletionTimestamp") is not None:
            # Of a kubelet before us: nothing of it runs.
            path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
            setting.kube.call("DELETE", path, {"gracePeriodSeconds": 0})
    elif pod["metadata"].get("deletionTimestamp") is not None:
        runners[uid].leave(float(pod["metadata"].get("deletionGracePeriodSeconds", 30)))


if __name__ == "__main__":
    main(sys.argv[1])
