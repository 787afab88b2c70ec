"""`make cluster`: a cluster for a person, until Ctrl-C; with a command, until that has ended. `--build`: no cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from cluster.binaries import programs
from cluster.run import KUBECTL, Cluster, ClusterUnavailableError
from servegate.errors import ServegateError


def main(command: list[str]) -> int:
    """Start, wait or run `command` with KUBECONFIG and GATEWAY_URL set, stop. Returns the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if command == ["--build"]:
        try:
            programs()
        except ClusterUnavailableError as error:
            print(f"*** NO TEST CLUSTER, its tests will be SKIPPED: {error}", file=sys.stderr)
            return 4 if os.environ.get("CI") else 0
        return 0
    try:
        began = time.monotonic()
        with Cluster() as cluster:
            took = time.monotonic() - began
            if command:
                env = {"KUBECONFIG": str(cluster.kubeconfig), "GATEWAY_URL": cluster.gateway_url}
                env["PATH"] = f"{KUBECTL.parent}{os.pathsep}{os.environ['PATH']}"
                with_path = ["/usr/bin/env", *command]  # finds the command on the new PATH
                return subprocess.run(with_path, env={**os.environ, **env}, check=False).returncode
            print(f"The cluster is up after {took:.0f} s; Ctrl-C stops it and leaves nothing.")
            print(f"  export KUBECONFIG={cluster.kubeconfig}")
            print(f"  gateway  {cluster.gateway_url}", flush=True)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return 0
    except (ClusterUnavailableError, ServegateError) as error:
        print(f"test cluster: {error}", file=sys.stderr)
        return 4


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
