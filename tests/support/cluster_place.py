"""A namespace with the shipped manifests, users who stream answers through the gateway, and terminals to work in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gitops
import plans
import urllib3
import yaml
from cluster.run import GATEWAY_PORT, SIMULATOR
from controllers import IMAGE
from manifests import Object, placed
from verdicts import key_pair, signed, verdict

from cluster import Cluster
from servegate.endpoint import request
from servegate.errors import InfrastructureError
from servegate.process import python
from servegate.release import Engine, Image, Model, Release
from servegate.rollout.kube import Kube
from servegate.rollout.ports import Arrangement, Arranging, Router
from servegate.rollout.routers.http_route import HttpRouteRouter
from servegate.rollout.workloads.deployments import DeploymentWorkload
from servegate.rollout.workloads.slots import SlotWorkload

THREADS, PAUSE = 4, 0.15
NAMES = {"blue": "llm-blue", "green": "llm-green"}
BUILTIN = Model(uri="builtin://knowledge", served_name="support")
SHORT = plans.short()
RELEASES: dict[str, tuple[str, ...]] = {
    "v1": (),
    "v2": (),
    "v3": ("--fault=errors:rate=0.5,after=12s",),
    "v4": ("--no-such-flag",),
    "v5": ("--fault=errors:rate=1",),
    "v6": (),
    "v7": (),
    "v8": (),
}
FAULTS = {"v7": "errors:rate=0.5"}
"""Made in front of the engine, where component drill is."""
HUNGRY = "servegate.test/hungry"
"""Image of an engine that takes more and more memory."""
IMAGES = {"v6": "servegate.test/absent", "v8": HUNGRY}
"""Of those that are not the simulator."""


class Users:
    """Streams answers through the gateway, reads each to its end, and counts what came of them.

    Attributes:
        seen: what came of the requests, "complete" for a stream with its end.
        bad: (seconds since the epoch, what) of all others.
    """

    def __init__(self, url: str, host: str, *, threads: int = THREADS, pause: float = PAUSE) -> None:
        self.url, self.host, self.pause, self.seen = url, host, pause, Counter[str]()
        self.bad: list[tuple[float, str]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        pool = urllib3.PoolManager()
        body = {
            "model": "support",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 12,
            "stream": True,
        }
        while not self._stop.wait(self.pause):
            what = self._one(pool, body)
            self.seen[what] += 1
            if what != "complete":
                self.bad.append((time.time(), what))

    def _one(self, pool: urllib3.PoolManager, body: dict[str, Any]) -> str:
        try:
            response = pool.request(
                "POST",
                f"{self.url}/v1/chat/completions",
                json=body,
                headers={"Host": self.host},
                retries=False,
                timeout=60,
                preload_content=False,
            )
            text = b"".join(response.stream(4096))
            response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            return type(error).__name__
        if response.status != 200:
            return f"HTTP {response.status}"
        return "complete" if text.rstrip().endswith(b"[DONE]") else "cut"

    def stop(self) -> Counter[str]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.seen


class Place:
    """A namespace with the shipped manifests, and terminals to work in.

    Args:
        components: of the overlay.
        changed: makes of a document what is applied.
        plan: text of plan.yaml.
        model: of the releases.
    """

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        *components: str,
        changed: Callable[[Object], Object] = lambda item: item,
        plan: str = SHORT,
        model: Model = BUILTIN,
    ) -> None:
        self.cluster, self.folder, self.namespace = cluster, folder, f"llm-{uuid.uuid4().hex[:6]}"
        self.model = model
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        cluster.add_image(IMAGE, sys.executable, env={"PATH": path})
        eat = "import time\nx = []\nwhile True: x.append(b'x' * 2**24); time.sleep(0.05)"
        cluster.add_image(HUNGRY, sys.executable, "-c", eat)
        found = placed("local", self.namespace, *components)
        cluster.apply(*(changed(item) for item in found))
        self.kube = Kube(self.namespace, kubeconfig=cluster.kubeconfig)
        self.router: Router = HttpRouteRouter(self.kube, "llm", NAMES)
        self.workload: SlotWorkload = DeploymentWorkload(self.kube, "llm")
        (folder / "plan.yaml").write_text(plan)
        (folder / "site.yaml").write_text(
            f"version: 1\nkind: kubernetes\nnamespace: {self.namespace}\nfolder: out\npatience: 20s\n"
        )
        key, public = key_pair(folder)
        (folder / "trust.yaml").write_text(f"version: 1\nname: t\nsigners: [{{name: desk, key: {public.name}}}]\n")
        for name in RELEASES:
            made = release(name, model)
            made.write(folder / f"{name}.json")
            drill = "a drill" if name in FAULTS else None
            (folder / f"{name}.verdict.json").write_bytes(signed(verdict(made, decided=1.0), made, key, drill=drill))

    def close(self) -> None:
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false")

    @property
    def url(self) -> str:
        """Where users connect who can resolve the namespace's host name."""
        return f"http://{self.namespace}.test:{GATEWAY_PORT}"

    @property
    def store(self) -> str:
        return f"kubernetes:{self.namespace}"

    def account(self, name: str) -> Path:
        """A kubeconfig of one of the shipped service accounts."""
        config = json.loads(self.cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
        token = self.cluster.kubectl("-n", self.namespace, "create", "token", name).strip()
        config["users"][0]["user"] = {"token": token}
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """What a terminal has in its environment; without a kubeconfig of its own the administrator's."""
        return {**os.environ, "KUBECONFIG": str(kubeconfig or self.cluster.kubeconfig), "SERVEGATE_STORE": self.store}

    def terminal(self, *arguments: str, kubeconfig: Path | None = None) -> subprocess.Popen[str]:
        """A command whose machine knows the namespace's host name, as DNS does of users' machines."""
        hosts = self.folder / "hosts"
        hosts.write_text(f"{Path('/etc/hosts').read_text()}\n{self.cluster.addresses.inside} {self.namespace}.test\n")
        knowing = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
        return subprocess.Popen(
            [*knowing, *python("-c", "from servegate.cli import main; main()", "rollout", *arguments)],
            env=self.environment(kubeconfig),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, kubeconfig: Path | None = None) -> tuple[int, str]:
        child = self.terminal(*arguments, kubeconfig=kubeconfig)
        out, _ = child.communicate(timeout=240)
        return child.returncode, out

    def started(self, name: str) -> list[str]:
        """Arguments that roll a release out."""
        return [
            *("start", f"{name}.json", "--site", "site.yaml", "--plan", "plan.yaml", "--stable", "v1.json"),
            *("--verdict", f"{name}.verdict.json", "--trust", "trust.yaml"),
        ]

    def start(self, name: str) -> tuple[int, str]:
        return self.run(*self.started(name))

    def state(self) -> dict[str, Any]:
        """The state in the store; empty before the first."""
        text = (self.kube.get("ConfigMap", "servegate-state").get("data") or {}).get("state")
        found: dict[str, Any] = json.loads(text)["state"] if text else {}
        return found

    def until(self, what: str, holds: Callable[[dict[str, Any]], object], timeout: float = 90.0) -> None:
        """Wait until the state in the store is as wanted."""

        def met() -> bool:
            try:
                state = self.state()
            except InfrastructureError:  # the API server may be away
                return False
            return bool(state and holds(state))

        try:
            self.cluster.until(what, met, timeout)
        except InfrastructureError as error:
            raise AssertionError(f"{error}; {self.told()}") from error

    def told(self) -> str:
        """What is known of the rollout and of its controllers in pods, for whoever reads a failure."""
        state = self.state()
        said = {key: state.get(key) for key in ("phase", "step", "weights", "reason", "waiting", "ready")}
        pods = self.cluster.get("-n", self.namespace, "pods", "-l", "app.kubernetes.io/component=controller")["items"]
        names = [pod["metadata"]["name"] for pod in pods]
        return f"{said}; " + "; ".join(f"{name}: {self.cluster.pod_log(name)[:4000]}" for name in names)

    def ended(self, job: str, timeout: float = 150.0) -> tuple[str, str]:
        """Wait for the end of a Job: Complete or Failed (or "", when it does not end), and what its pods said."""
        found: list[str] = []

        def over() -> bool:
            status = self.cluster.get("-n", self.namespace, "job", job).get("status", {})
            found[:] = [item["type"] for item in status.get("conditions", ()) if item["status"] == "True"]
            return bool({"Complete", "Failed"} & set(found))

        try:
            self.cluster.until(f"the end of job {job}", over, timeout)
        except InfrastructureError as error:
            found[:] = [str(error)]
        pods = self.cluster.get("-n", self.namespace, "pods", "-l", f"job-name={job}")["items"]
        said = "".join(
            f"{json.dumps(pod['status'].get('containerStatuses'))}\n{self.cluster.pod_log(pod['metadata']['name'])}"
            for pod in pods
        )
        return next((each for each in ("Complete", "Failed") if each in found), ""), said

    def apply_git(self) -> None:
        """What Argo CD does at a sync: everything that Git says, by force, except what it is told to leave alone."""
        for item in placed("local", self.namespace):
            kind, name = item["kind"], item["metadata"]["name"]
            if kind in gitops.rules():
                item = gitops.respecting(item, self.cluster.get("-n", self.namespace, kind, name))
            text = yaml.safe_dump(item)
            force = ("--server-side", "--force-conflicts", "--field-manager=argocd-controller")
            self.cluster.kubectl("apply", *force, "-f", "-", stdin=text)

    def fill(self, slot: str, what: str | Release, timeout: float = 90.0) -> None:
        """Put a release into a slot and wait until it is ready."""
        made = release(what, self.model) if isinstance(what, str) else what
        self.workload.ensure(slot, made, 1)
        self.cluster.until(f"{made.name} in {slot}", lambda: self.workload.status(slot).ready == 1, timeout)

    def weigh(self, green: float) -> None:
        """Write weights and wait until the gateway says that it serves by them."""
        self.router.write({"blue": 100 - green, "green": green}, epoch=1)
        self.cluster.until(f"green {green} %", lambda: self.router.verify().accepted)

    def arrange(self, wanted: Arrangement) -> None:
        """Write mirrors and stickiness, as far as the router has them."""
        assert isinstance(self.router, Arranging)
        self.router.arrange(wanted, epoch=1)

    def serve(self) -> Users:
        """v1 in blue, and users on it."""
        self.fill("blue", "v1")
        self.open()
        return Users(self.cluster.gateway_url, f"{self.namespace}.test")

    def open(self) -> None:
        """All traffic to blue, and wait until the gateway serves it."""
        self.weigh(0)
        headers = {"Host": f"{self.namespace}.test"}

        def served() -> bool:
            try:
                return request("GET", f"{self.cluster.gateway_url}/health", headers=headers, timeout=2)[0] == 200
            except InfrastructureError:  # Envoy listens when the first route has come
                return False

        self.cluster.until("the gateway to serve", served)


def release(name: str, model: Model = BUILTIN) -> Release:
    return Release(
        name=name,
        image=Image(repository=IMAGES.get(name, SIMULATOR), digest="sha256:" + name[1:] * 64),
        model=model,
        engine=Engine(name="simulator", version="1"),
        args=("--seed", name[1:], *RELEASES[name]),
        env={"SERVEGATE_FAULT": FAULTS[name]} if name in FAULTS else {},
    )
