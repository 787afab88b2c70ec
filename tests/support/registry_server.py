"""A real registry (Debian package `docker-registry`) on a port of its own, and the smallest images to put into it."""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servegate.process import Child, free_ports


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Runs one while the context lasts; its `host:port`."""
    (port,) = free_ports(1)
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {folder}/data\nhttp:\n  addr: 127.0.0.1:{port}\n",
        "utf-8",
    )
    child = Child("registry", ["docker-registry", "serve", str(config)], folder / "log")
    try:
        _wait_for_http(child, port)
        yield f"127.0.0.1:{port}"
    finally:
        child.stop()


def _wait_for_http(child: Child, port: int) -> None:
    while True:
        child.check()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/v2/")
            connection.getresponse().read()
            return
        except OSError:
            child.wait(0.1)
        finally:
            connection.close()


def push_image(reference: str, content: str, folder: Path) -> str:
    """Push an image without layers that differs by `content`; its digest."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def blob(kind: str, document: dict[str, object]) -> dict[str, object]:
        data = json.dumps(document).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}.v1+json",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    labels = {"Labels": {"content": content}}
    empty = {"type": "layers", "diff_ids": []}
    config = blob("config", {"architecture": "amd64", "os": "linux", "config": labels, "rootfs": empty})
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = blob("manifest", {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []})
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    skopeo = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{folder}", f"docker://{reference}"]
    subprocess.run(skopeo, check=True, capture_output=True)
    return str(manifest["digest"])


def digest_of(reference: str) -> str:
    """What a tag points at."""
    skopeo = ["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{reference}"]
    return subprocess.run(skopeo, check=True, capture_output=True, text=True).stdout.strip()
