"""A real Prometheus (Debian package `prometheus`) that scrapes what a test wants, each second."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from servegate.process import Child, free_ports


@dataclass
class PrometheusServer:
    """A running one. `retarget` changes what it scrapes."""

    child: Child
    folder: Path
    url: str

    def retarget(self, targets: Sequence[tuple[int, dict[str, str]]]) -> None:
        """Scrape these (port, labels) from now on."""
        groups = [{"targets": [f"127.0.0.1:{port}"], "labels": labels} for port, labels in targets]
        part = self.folder / "targets.tmp"
        part.write_text(json.dumps(groups))
        part.rename(self.folder / "targets.json")

    def stop(self) -> None:
        self.child.stop(grace=5.0)


def start(folder: Path, *flags: str, web: str | None = None, scheme: str = "http") -> PrometheusServer:
    """Start one that scrapes nothing yet; `web` is its web configuration (TLS, users)."""
    (port,) = free_ports(1)
    folder.mkdir(parents=True, exist_ok=True)
    rules = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": "engines",
                "file_sd_configs": [{"files": [str(folder / "targets.json")], "refresh_interval": "1s"}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(rules))
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        *flags,
    ]
    if web is not None:
        (folder / "web.yml").write_text(web)
        command.append(f"--web.config.file={folder / 'web.yml'}")
    child = Child("prometheus", command, folder / "prometheus.log")
    url = f"{scheme}://127.0.0.1:{port}"
    if web is None:
        deadline = time.monotonic() + 30
        while True:
            child.check()
            try:
                with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
                    break
            except OSError:
                assert time.monotonic() < deadline, "Prometheus does not start"
                time.sleep(0.05)
    return PrometheusServer(child, folder, url)
