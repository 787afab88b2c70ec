"""Custom resource definitions of what the components of k8s/ use, from the projects' own Go modules.

Kept in the user's cache, apart from the programs of the test cluster, so that another version here builds nothing anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from cluster.binaries import ClusterUnavailableError, cache, install_go

SOURCES = (
    ("github.com/kedacore/keda/v2@v2.21.0", "config/crd/bases/keda.sh_scaledobjects.yaml"),
    ("github.com/kedacore/http-add-on@v0.12.0", "config/crd/bases/http.keda.sh_httpscaledobjects.yaml"),
    ("github.com/kserve/kserve@v0.20.0", "config/crd/full/llmisvc/serving.kserve.io_llminferenceservices.yaml"),
    (
        "sigs.k8s.io/gateway-api-inference-extension@v1.6.0",
        "config/crd/bases/inference.networking.k8s.io_inferencepools.yaml",
    ),
    (
        "github.com/external-secrets/external-secrets@v1.3.2",
        "config/crds/bases/external-secrets.io_externalsecrets.yaml",
    ),
    ("k8s.io/autoscaler/vertical-pod-autoscaler@v1.8.1", "deploy/vpa-v1-crd-gen.yaml"),
    ("sigs.k8s.io/karpenter@v1.8.0", "pkg/apis/crds/karpenter.sh_nodepools.yaml"),
    ("github.com/argoproj/argo-cd/v3@v3.2.0", "manifests/crds/application-crd.yaml"),
    (
        "github.com/fluxcd/kustomize-controller@v1.9.0",
        "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml",
    ),
)
"""Module with its version, and the file in it."""


def files() -> list[Path]:
    """The definitions as JSON lists of documents, fetched now when the cache has none.

    Raises:
        ClusterUnavailableError: a module cannot be fetched.
    """
    folder = cache() / "crds" / hashlib.sha256(repr(SOURCES).encode()).hexdigest()[:16]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        go = shutil.which("go") or install_go()
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as place:
            made = Path(place) / "made"
            made.mkdir()
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(lambda source: _definitions(go, Path(place), *source), SOURCES))
            for number, documents in enumerate(found):
                (made / f"{number}.json").write_text(json.dumps(documents))
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # else somebody was faster with the same
                    raise
    return sorted(folder.iterdir())


def _definitions(go: str, place: Path, module: str, file: str) -> list[Any]:
    """Without descriptions and without versions that are not stored: KServe's file is 2 MB, more than etcd takes."""
    env = {**os.environ, "GOFLAGS": "-mod=mod", "GOWORK": "off"}
    command = [go, "mod", "download", "-json", module]
    run = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    if run.returncode:
        raise ClusterUnavailableError(f"{module} cannot be fetched: {(run.stdout + run.stderr).strip()[-500:]}")
    text = (Path(json.loads(run.stdout)["Dir"]) / file).read_text()
    documents = [item for item in yaml.load_all(text, yaml.CSafeLoader) if item]
    for item in documents:
        item["spec"]["versions"] = [version for version in item["spec"]["versions"] if version["storage"]]
        item.pop("status", None)
    return [_without_descriptions(item) for item in documents]


def _without_descriptions(item: Any) -> Any:
    if isinstance(item, list):
        return [_without_descriptions(each) for each in item]
    if isinstance(item, dict):
        return {
            key: _without_descriptions(value)
            for key, value in item.items()
            if key != "description" or not isinstance(value, str)
        }
    return item
