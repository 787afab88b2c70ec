"""Starts and stops one cluster: etcd, API server, controllers, scheduler, GPU nodes, Envoy Gateway and Envoy."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from cluster.binaries import ClusterUnavailableError, programs
from cluster.network import BRIDGE, NODES, Network
from cluster.pki import Pki
from servegate.contract import write_atomic
from servegate.errors import InfrastructureError
from servegate.process import Child
from servegate.rollout.routers.envoy import find_envoy

MANIFESTS = Path(__file__).parent / "manifests"
GATEWAY = Path(__file__).parents[3] / "k8s" / "gateway" / "envoy-gateway.yaml"
KUBECTL = Path(sys.executable).with_name("kubectl")
START_TIMEOUT = 90.0
GATEWAY_PORT = 18080
"""As manifests/gateway.yaml says; Envoy Gateway itself listens on 8080."""
PAUSE = "servegate.test/pause"
SIMULATOR = "servegate.test/simulator"
# What a container has started, in a session of its own perhaps, ends with the cluster, however that ends: `read`
# returns when nobody holds the other end of the pipe. In one look at all processes: the name of a namespace that has
# ended is the next one's.
GUARD = """
read -r _
find /proc -maxdepth 3 -path "/proc/[0-9]*/ns/mnt" -printf "%l %P\\n" 2>/dev/null | while read -r space process; do
    [ -e "$0/$space" ] && kill -9 "${process%%/*}"
done
exit 0
"""
# What runs in a cluster without clouds and volumes.
CONTROLLERS = (
    "deployment-controller,replicaset-controller,job-controller,cronjob-controller,endpointslice-controller,"
    "namespace-controller,garbage-collector-controller,pod-garbage-collector-controller,disruption-controller,"
    "serviceaccount-controller,serviceaccount-token-controller,root-ca-certificate-publisher-controller,"
    "horizontal-pod-autoscaler-controller,node-lifecycle-controller,taint-eviction-controller,"
    "resourcequota-controller,clusterrole-aggregation-controller,ttl-after-finished-controller,"
    "persistentvolume-binder-controller,persistentvolumeclaim-protection-controller"
)


class Cluster:
    """A running cluster; a context manager that leaves nothing running.

    Args:
        nodes: GPU nodes, at most eight.
        gpus: `nvidia.com/gpu` of each node.
        gateway: start Envoy Gateway and Envoy too.

    Raises:
        ClusterUnavailableError: this machine cannot run one.
        InfrastructureError: a program did not start; the message has the end of its log.
    """

    def __init__(self, *, nodes: int = 2, gpus: int = 4, gateway: bool = True) -> None:
        if not 1 <= nodes <= NODES:
            raise ValueError(f"1 to {NODES} nodes, not {nodes}")
        self.programs = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="servegate-cluster-"))
        (self.folder / "spaces").mkdir()
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, str(self.folder / "spaces")], stdin=subprocess.PIPE, start_new_session=True
        )
        self.children: dict[str, Child] = {}
        self._commands: dict[str, tuple[list[str], dict[str, str]]] = {}
        self.network: Network | None = None
        try:
            self.network = Network()
            self.addresses = self.network.addresses
            self.pki = Pki(self.folder / "pki", self.addresses.inside, self.addresses.api_service)
            self.kubeconfig = self.pki.kubeconfig("admin", "system:masters")
            self._start_control_plane()
            self._start_kubelet()
            self._make_nodes(nodes, gpus)
            if gateway:
                self._start_gateway()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything, last started first, and remove all files."""
        self._guard.communicate()  # while the kubelet still holds the namespaces
        for name in reversed(self.children):
            self.children[name].stop(grace=0.0)
        self.children.clear()
        if self.network is not None:
            self.network.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def gateway_url(self) -> str:
        """The Gateway, as its clients see it."""
        return f"http://{self.addresses.inside}:{GATEWAY_PORT}"

    @property
    def envoy_admin(self) -> str:
        """Admin interface of the Envoy behind the Gateway."""
        return f"http://{self.addresses.inside}:9901"

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as the cluster's administrator.

        Raises:
            AssertionError: it failed; with what it said.
        """
        env = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        command = [str(KUBECTL), *arguments]
        run = subprocess.run(command, input=stdin, env=env, capture_output=True, text=True, check=False)
        if check and run.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {run.stderr.strip()}")
        return run.stdout if check else run.stdout + run.stderr

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get … -o json`."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def apply(self, *documents: dict[str, Any]) -> None:
        """Server-side apply of documents."""
        text = yaml.safe_dump_all(documents)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def start(self, name: str, command: Sequence[str], env: dict[str, str] | None = None) -> Child:
        """Start a program of the cluster, in its namespace."""
        assert self.network is not None
        self._commands[name] = (list(command), env or {})
        child = Child(name, self.network.command(command), self.folder / "logs" / f"{name}.log", env)
        self.children[name] = child
        return child

    def restart(self, name: str) -> Child:
        """Kill a program as a crash would, and start it again."""
        self.kill(name)
        return self.start(name, *self._commands[name])

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.children.pop(name).stop(grace=0.0)

    def until(self, what: str, holds: Callable[[], object], timeout: float = START_TIMEOUT) -> None:
        """Wait until `holds()` is true and no program has ended.

        Raises:
            InfrastructureError: it takes too long, or a program ended.
        """
        deadline = time.monotonic() + timeout
        while not holds():
            for child in self.children.values():
                child.check()
            if time.monotonic() > deadline:
                raise InfrastructureError(f"test cluster: {what}: not within {timeout:g} s")
            time.sleep(0.05)

    def wait(self, condition: str, *objects: str) -> None:
        """Wait until objects have a condition. Raises InfrastructureError."""
        command = ["wait", f"--for=condition={condition}", *objects, "--timeout=2s"]

        def met() -> bool:
            said = self.kubectl(*command, check=False)
            return "condition met" in said and "error" not in said

        self.until(f"{condition} of {' '.join(objects)}", met)

    def _start_control_plane(self) -> None:
        at, pki, path = self.addresses, self.pki.folder, self.programs.path
        clients = "http://127.0.0.1:2379"
        self.start(
            "etcd",
            [
                *(path("etcd"), "--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync", "--log-level", "warn"),
                *("--listen-client-urls", clients, "--advertise-client-urls", clients),
            ],
        )
        self.start(
            "kube-apiserver",
            [
                path("kube-apiserver"),
                f"--etcd-servers={clients}",
                "--bind-address=0.0.0.0",
                f"--advertise-address={at.inside}",
                "--secure-port=6443",
                # The Service `kubernetes` would get an address nobody proxies.
                "--endpoint-reconciler-type=none",
                f"--cert-dir={self.folder / 'api'}",
                f"--tls-cert-file={pki / 'apiserver.crt'}",
                f"--tls-private-key-file={pki / 'apiserver.key'}",
                f"--client-ca-file={pki / 'ca.crt'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={pki / 'tokens.pub'}",
                f"--service-account-signing-key-file={pki / 'tokens.key'}",
                f"--service-cluster-ip-range={at.services}",
                "--authorization-mode=RBAC",
                "--allow-privileged=true",
                "--profiling=false",
                "--event-ttl=1h",
            ],
        )
        self.until("API server", lambda: "ok" in self.kubectl("get", "--raw", "/readyz", check=False)[:2])
        manager = self.pki.kubeconfig("system:kube-controller-manager")
        scheduler = self.pki.kubeconfig("system:kube-scheduler")
        self.start(
            "kube-controller-manager",
            [
                path("kube-controller-manager"),
                *(f"--{kind}kubeconfig={manager}" for kind in ("", "authentication-", "authorization-")),
                "--bind-address=127.0.0.1",
                "--leader-elect=false",
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={pki / 'tokens.key'}",
                f"--root-ca-file={pki / 'ca.crt'}",
                f"--controllers={CONTROLLERS}",
            ],
        )
        self.start(
            "kube-scheduler",
            [
                path("kube-scheduler"),
                *(f"--{kind}kubeconfig={scheduler}" for kind in ("", "authentication-", "authorization-")),
                "--bind-address=127.0.0.1",
                "--leader-elect=false",
            ],
        )
        self.start(
            "kwok",
            [
                path("kwok"),
                f"--kubeconfig={self.kubeconfig}",
                "--manage-all-nodes=true",
                f"--cidr={at.node(15)}",
                f"--node-ip={at.inside}",
                "--server-address=127.0.0.1:10247",
                f"--config={MANIFESTS / 'kwok-stages.yaml'}",
                "--node-lease-duration-seconds=40",
            ],
        )

    def _start_kubelet(self) -> None:
        self.images: dict[str, Any] = {}
        self.lost: list[str] = []
        self.add_image(PAUSE, "sleep", "infinity")
        self.add_image(SIMULATOR, sys.executable, "-m", "servegate.simulator")
        spec = {
            "kubeconfig": str(self.kubeconfig),
            "folder": str(self.folder / "pods"),
            "images": str(self.folder / "images.json"),
            "spaces": str(self.folder / "spaces"),
            "bridge": [BRIDGE, self.addresses.bridge, self.addresses.pods.prefixlen],
            "env": {"KUBERNETES_SERVICE_HOST": self.addresses.inside, "KUBERNETES_SERVICE_PORT": "6443"},
        }
        path = self.folder / "kubelet.json"
        path.write_text(json.dumps(spec))
        support = str(Path(__file__).parents[1])
        self.start("kubelet", [sys.executable, "-m", "cluster.kubelet", str(path)], {"PYTHONPATH": support})

    def add_image(
        self, repository: str, *command: str, env: dict[str, str] | None = None, folder: str | Path = "/"
    ) -> None:
        """Let containers of this image run `command` in `folder`; whatever the tag or digest."""
        self.images[repository] = {"command": list(command), "env": env or {}, "folder": str(folder)}
        write_atomic(self.folder / "images.json", json.dumps(self.images).encode())

    def add_volume(self, namespace: str, claim: str) -> Path:
        """A volume for a claim, which may come later; the folder that pods will see there."""
        name = f"{namespace}-{claim}"
        folder = self.folder / "pods" / "claims" / name
        folder.mkdir(parents=True)
        spec = {
            "capacity": {"storage": "1Ti"},
            "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
            "claimRef": {"namespace": namespace, "name": claim},
            "hostPath": {"path": str(folder)},
        }
        self.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
        return folder

    def pod_log(self, pod: str) -> str:
        """What the containers of a pod have said so far."""
        return "".join(path.read_text(errors="replace") for path in self.folder.glob(f"pods/*_{pod}_*/*.log"))

    def add_node(self, index: int, gpus: int) -> str:
        """One more node; its name. `index`: of none that there ever was, below eight."""
        node = self._node(index, gpus)
        self.kubectl("create", "-f", "-", stdin=yaml.safe_dump(node))
        name = str(node["metadata"]["name"])
        self.wait("Ready", "node", name)
        return name

    def lose_node(self, name: str) -> None:
        """The machine of a node is gone from one moment to the next, and its object as a cloud removes it.

        Nothing on it runs on, and nobody says so: its pods stay in the API as they were.
        """
        self.lost.append(name)
        write_atomic(self.folder / "lost.json", json.dumps(self.lost).encode())
        self.until("the machine to be gone", lambda: (self.folder / f"lost-{name}").exists())
        self.kubectl("delete", "node", name)

    def _make_nodes(self, count: int, gpus: int) -> None:
        nodes = [self._node(index, gpus) for index in range(count)]
        self.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(nodes))
        account = ("get", "serviceaccount", "default", "-o", "name")
        self.until("service account", lambda: self.kubectl(*account, check=False).startswith("serviceaccount/"))
        self.wait("Ready", "node", "--all")

    def _node(self, index: int, gpus: int) -> dict[str, Any]:
        resources = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
        name, pods = f"gpu-{index}", str(self.addresses.node(index))
        labels = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "nvidia.com/gpu.product": "NVIDIA-H200",
            "topology.kubernetes.io/zone": f"zone-{index % 2}",
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
            "spec": {"podCIDR": pods, "podCIDRs": [pods]},
            "status": {"allocatable": resources, "capacity": resources},
        }

    def _start_gateway(self) -> None:
        self.kubectl("apply", "--server-side", "-f", str(self.programs.crds))
        self.wait("Established", "crd", "--all")
        self.kubectl("create", "namespace", "envoy-gateway-system")
        root = self._root_folder()
        env = {"KUBECONFIG": "/pki/admin.kubeconfig", "ENVOY_GATEWAY_NAMESPACE": "envoy-gateway-system"}
        command = ["chroot", str(root), "/envoy-gateway"]
        made = self.start("certgen", [*command, "certgen", "--disable-topology-injector"], env)
        if made.wait(START_TIMEOUT) != 0:
            raise InfrastructureError(made.obituary(made.returncode or 0))
        del self.children["certgen"]
        self._secret("envoy-gateway", root / "certs")
        self._secret("envoy", self.folder / "envoy")
        self.start("envoy-gateway", [*command, "server", "-c", "/envoy-gateway.yaml"], env)
        bootstrap = self.folder / "envoy.yaml"
        text = (MANIFESTS / "envoy.yaml").read_text().replace("@CERTS@", str(self.folder / "envoy"))
        bootstrap.write_text(text)
        # Envoy Gateway finds the configuration of an Envoy by its cluster name, <namespace>/<name> of the Gateway.
        identity = ["--service-cluster", "gateway/gateway", "--service-node", "envoy"]
        more = ["--concurrency", "1", "--log-level", "warning", "--drain-time-s", "5", "--disable-hot-restart"]
        self.start("envoy", [find_envoy(), "-c", str(bootstrap), *identity, *more])
        self.kubectl("apply", "--server-side", "-f", str(MANIFESTS / "gateway.yaml"), "-f", str(GATEWAY))
        address = {"status": {"loadBalancer": {"ingress": [{"ip": self.addresses.inside}]}}}
        patch = ["patch", "service", "envoy", "--subresource=status", "--type=merge", "-p", json.dumps(address)]
        self.kubectl("-n", "envoy-gateway-system", *patch)
        self.wait("Programmed", "-n", "gateway", "gateway/gateway")

    def _root_folder(self) -> Path:
        """A root folder for Envoy Gateway, which reads its certificates from /certs and from nowhere else."""
        root = self.folder / "root"
        for name in ("certs", "pki", "tmp", "etc"):
            (root / name).mkdir(parents=True)
        shutil.copy(self.programs.path("envoy-gateway"), root / "envoy-gateway")
        shutil.copytree(self.pki.folder, root / "pki", dirs_exist_ok=True)
        shutil.copy(MANIFESTS / "envoy-gateway.yaml", root)
        return root

    def _secret(self, name: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        secret = self.get("-n", "envoy-gateway-system", "secret", name)
        for key, value in secret["data"].items():
            (folder / key).write_bytes(base64.b64decode(value))


__all__ = ["Cluster", "ClusterUnavailableError"]
