"""One pod, from its binding to a node to its removal, in a thread of its own."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.kubelet.container import Container, now
from cluster.kubelet.volumes import NotYetError, References, expand
from servegate.errors import InfrastructureError
from servegate.process import Child
from servegate.rollout.kube import Kube, KubeError

Object = dict[str, Any]
TICK = 0.05
ROOT = Path(__file__).with_name("root.py")


@dataclass(frozen=True)
class Setting:
    """What all pods have in common.

    Attributes:
        images: repository → {"command": […], "env": {…}, "folder": "…"}.
        bridge: (name, address, length of the prefix) of the bridge all pods hang on.
        spaces: folder of what runs (`Container.spaces`).
        env: variables every container gets, such as where the API server is.
    """

    kube: Kube
    folder: Path
    images: Object
    bridge: tuple[str, str, int]
    spaces: Path
    env: dict[str, str]


class PodRunner(threading.Thread):
    """Runs one pod."""

    def __init__(self, setting: Setting, pod: Object, address: str) -> None:
        super().__init__(name=pod["metadata"]["name"], daemon=True)
        self.setting, self.pod, self.address = setting, pod, address
        meta = pod["metadata"]
        self.path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self.folder = setting.folder / f"{meta['namespace']}_{meta['name']}_{meta['uid'][:8]}"
        self.leaving = threading.Event()
        self.lost = threading.Event()
        self.grace = 30.0
        self.references = References(setting.kube, pod)
        self._pool = ThreadPoolExecutor(max_workers=4)
        self._sent: Object = {}
        self._changed: dict[str, tuple[str, str]] = {}
        self._sandbox: Child | None = None
        self._began = now()

    def leave(self, grace: float) -> None:
        """The pod has been deleted."""
        self.grace = grace
        self.leaving.set()

    def vanish(self) -> None:
        """Its machine is gone: it ends at once, and nobody hears of it."""
        self.lost.set()
        self.leaving.set()

    def run(self) -> None:
        """Until it is gone."""
        try:
            self._run()
        except Exception:
            print(f"{self.name}: {traceback.format_exc()}", file=sys.stderr, flush=True)
            raise
        finally:
            if self._sandbox is not None:
                self._sandbox.stop(grace=0.0)
            self._pool.shutdown(wait=False, cancel_futures=True)
            shutil.rmtree(self.folder / "roots", ignore_errors=True)

    def _run(self) -> None:
        spec = self.pod["spec"]
        self._sandbox = self._make_sandbox()
        first = [self._container(item) for item in spec.get("initContainers") or ()]
        main = [self._container(item) for item in spec["containers"]]
        policy = spec.get("restartPolicy", "Always")
        done = False
        while not self.leaving.is_set():
            pending = next((item for item in first if not self._completed(item)), None)
            for container in [pending] if pending is not None else main:
                if container.waiting is not None and time.monotonic() >= container.due:
                    self._launch(container)
                status = container.child.returncode if container.child is not None else None
                again = (policy == "Always" and pending is None) or (policy != "Never" and bool(status))
                container.look(again)
            ended = [item.terminated for item in main if item.terminated is not None]
            done = len(ended) == len(main)
            phase = "Running" if pending is None and any(item.child for item in main) else "Pending"
            if any(item.restarts for item in main):
                phase = "Running"
            if done:
                phase = "Failed" if any(item["exitCode"] for item in ended) else "Succeeded"
            elif pending is not None and pending.terminated is not None:
                phase = "Failed"
            self._report(phase, first, main, pending is None)
            if done:
                self.leaving.wait()
                break
            self.leaving.wait(TICK)
        if self.lost.is_set():
            for container in (*first, *main):
                container.stop()
            return
        threads = [threading.Thread(target=item.terminate, args=(self.grace,)) for item in main]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # A pod that leaves has ended before its object goes: whoever counts pods (a Job) waits for that.
        for container in main:
            container.look(again=False)
        failed = any((item.terminated or {"exitCode": 137})["exitCode"] for item in main)
        self._report("Failed" if failed else "Succeeded", first, main, initialized=True)
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.pod["metadata"]["uid"]}}
        self._patient("DELETE", self.path, body)

    @staticmethod
    def _completed(container: Container) -> bool:
        return container.terminated is not None and container.terminated["exitCode"] == 0

    def _make_sandbox(self) -> Child:
        """A network namespace with the pod's address, held by a process that does nothing."""
        name, gateway, length = self.setting.bridge
        child = Child("sandbox", ["unshare", "--net", "sleep", "infinity"], self.folder / "sandbox.log")
        own = Path("/proc/self/ns/net").readlink()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child.pid}/ns/net").readlink() == own:
            child.check()
            if time.monotonic() > deadline:
                raise InfrastructureError("a network namespace does not come")
            time.sleep(0.005)
        # By the address: a pod that gets the one of a pod that is gone is found at once, whatever neighbours remember.
        hardware = "02:00:" + ipaddress.ip_address(self.address).packed[-4:].hex(":")
        outer = f"p{self.pod['metadata']['uid'].replace('-', '')[:12]}"
        inside = ["nsenter", "-t", str(child.pid), "-n", "ip"]
        for command in (
            [
                "ip",
                "link",
                "add",
                outer,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "address",
                hardware,
                "netns",
                str(child.pid),
            ],
            ["ip", "link", "set", outer, "master", name, "up"],
            [*inside, "addr", "add", f"{self.address}/{length}", "dev", "eth0"],
            [*inside, "link", "set", "eth0", "up"],
            [*inside, "link", "set", "lo", "up"],
            [*inside, "route", "add", "default", "via", gateway],
        ):
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode:
                raise InfrastructureError(f"{' '.join(command)}: {run.stderr.strip()}")
        return child

    def _container(self, spec: Object) -> Container:
        made = Container(spec, self.address, lambda: self._start(spec), self._pool, self.setting.spaces)
        if _repository(spec["image"]) not in self.setting.images:
            made.image_problem = f'failed to pull and unpack image "{spec["image"]}": not found'
        return made

    def _launch(self, container: Container) -> None:
        if container.image_problem is not None:
            reason = "ErrImagePull" if container.waiting == {"reason": "ContainerCreating"} else "ImagePullBackOff"
            container.waiting = {"reason": reason, "message": container.image_problem}
            container.due = time.monotonic() + 1
            return
        try:
            container.launch()
        except NotYetError as error:
            # A volume that is missing keeps the pod in ContainerCreating; a variable is an error of configuration.
            reason = "ContainerCreating" if error.volume else "CreateContainerConfigError"
            container.waiting = {"reason": reason, "message": str(error)}
            container.due = time.monotonic() + 0.5
        except KubeError as error:  # the API server is away
            container.waiting = {"reason": "ContainerCreating", "message": str(error)}
            container.due = time.monotonic() + 0.5

    def _start(self, spec: Object) -> Child:
        assert self._sandbox is not None
        sources = {}
        try:
            for volume in self.pod["spec"].get("volumes") or ():
                claims = self.setting.folder / "claims"
                sources[volume["name"]] = self.references.volume(volume, self.folder, claims, self.address)
        except NotYetError as error:
            error.volume = True
            raise
        mounts = []
        for item in spec.get("volumeMounts") or ():
            if item["name"] in sources:
                source = str(sources[item["name"]] / item.get("subPath", ""))
                mounts.append([source, item["mountPath"], bool(item.get("readOnly"))])
        aliases = self.pod["spec"].get("hostAliases") or ()
        lines = [f"{item['ip']} {' '.join(item['hostnames'])}" for item in aliases]
        hosts = self.folder / "hosts"
        hosts.write_text("\n".join([Path("/etc/hosts").read_text(), *lines, *self.references.services(), ""]))
        mounts.append([str(hosts), "/etc/hosts", True])
        image = self.setting.images[_repository(spec["image"])]
        env = self.references.environment(spec, self.address)
        command = [expand(part, env) for part in spec.get("command") or image["command"]]
        command += [expand(part, env) for part in spec.get("args") or ()]
        path = self.folder / f"{spec['name']}.json"
        roots = self.folder / "roots" / f"{spec['name']}-{time.monotonic_ns()}"
        repository = str(Path(__file__).resolve().parents[4])
        document = {
            "folder": str(roots),
            "mounts": mounts,
            "keep": [sys.prefix, sys.base_prefix, repository, "/tmp"],
            "cwd": spec.get("workingDir") or image.get("folder", "/"),
            "env": {
                **{key: os.environ[key] for key in ("PATH", "LANG", "HOME") if key in os.environ},
                **self.setting.env,
                **image.get("env", {}),
                **env,
                "HOSTNAME": self.pod["metadata"]["name"],
            },
            "command": command,
        }
        roots.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
        enter = ["nsenter", "-t", str(self._sandbox.pid), "-n", "unshare", "-m", sys.executable, "-I", str(ROOT)]
        log = self.folder / f"{spec['name']}.log"
        log.unlink(missing_ok=True)
        return Child(f"{self.name}/{spec['name']}", [*enter, str(path)], log)

    def _report(self, phase: str, first: list[Container], main: list[Container], initialized: bool) -> None:
        ready = all(item.ready for item in main)
        conditions = [
            self._condition("PodScheduled", True),
            self._condition("Initialized", initialized),
            self._condition("ContainersReady", ready),
            self._condition("Ready", ready),
        ]
        status = {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [item.status() for item in main],
            "hostIP": self.setting.bridge[1],
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": self._began,
        }
        if first:
            status["initContainerStatuses"] = [item.status() for item in first]
        if status != self._sent:
            self._patient("PATCH", f"{self.path}/status", {"status": status})
            self._sent = status

    def _condition(self, kind: str, holds: bool) -> Object:
        status = "True" if holds else "False"
        if self._changed.get(kind, ("", ""))[0] != status:
            self._changed[kind] = (status, now())
        return {"type": kind, "status": status, "lastTransitionTime": self._changed[kind][1]}

    def _patient(self, method: str, path: str, body: Object) -> None:
        """A request that waits for an API server that is away; an object that is gone is fine."""
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        while True:
            try:
                self.setting.kube.call(method, path, body, content=content)
                return
            except KubeError as error:
                if error.status in (404, 409):
                    self.leaving.set()
                    return
                time.sleep(0.3)


def _repository(image: str) -> str:
    """An image's name without tag and digest; a registry's port stays."""
    host, slash, name = image.partition("@")[0].rpartition("/")
    return f"{host}{slash}{name.partition(':')[0]}"
