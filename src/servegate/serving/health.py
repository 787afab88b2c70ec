"""The container's health check: exit code 0 when the engine answers /health with 200.

Kubernetes has probes of its own and does not run it; Docker and Podman do.
"""

from __future__ import annotations

import http.client
import os
import sys
from pathlib import Path

from servegate.serving.arguments import listens_at
from servegate.serving.probe import get


def main(entry_point: Path = Path("/proc/1/cmdline")) -> int:
    """Ask once. The check gets the container's environment but not its arguments: those are process 1's."""
    words = entry_point.read_bytes().decode("utf-8", "replace").split("\0")
    port, tls = listens_at(os.environ, words)
    try:
        status, _ = get(port, tls, "/health", timeout=3)
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"no answer at port {port}: {error}\n")
        return 1
    sys.stdout.write(f"/health answers {status}\n")
    return int(status != 200)


if __name__ == "__main__":
    sys.exit(main())
