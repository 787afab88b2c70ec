"""What a controller in a Job needs to roll a release out: every file the order names, flat, for one ConfigMap.

In the pod there is no checkout. A suite of the plan, a key of the trust file or a template of the release comes along,
and the documents that name it say where it is then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from servegate.config import load, parse
from servegate.errors import ConfigError
from servegate.evals.suite import load_suite
from servegate.gates.trust import load_trust
from servegate.pipeline.live_quality import read_suites
from servegate.pipeline.site import ClusterSite, load_site
from servegate.release import File, Release, verify_file
from servegate.rollout.plan import load_plan
from servegate.rollout.plan_experiment import CounterEvents, CsvEvents

MOUNT = "/etc/rollout"
"""Where k8s/components/controller mounts the ConfigMap."""
LARGEST = 1_000_000
"""Bytes that an API server takes in one ConfigMap, with some left for its own."""

Files = dict[str, bytes]


def order(
    release: Path,
    *,
    site: Path,
    plan: Path,
    trust: Path,
    verdict: Path,
    stable: Path | None = None,
    namespace: str | None = None,
) -> Files:
    """Names and contents of the files, all of them looked at.

    Args:
        verdict: file of the signed verdict.
        stable: file of the release that serves; needed the first time.
        namespace: instead of the site's.

    Raises:
        ConfigError: a document is not valid, a file is missing or not what a release names, or all are too large.
        InfrastructureError: evals are not installed, and the plan asks a suite.
    """
    files: Files = {"verdict.json": _read(verdict)}
    files["release.json"] = _release(files, release, "release")
    if stable is not None:
        files["stable.json"] = _release(files, stable, "stable")
    if not isinstance(load_site(site, namespace), ClusterSite):
        raise ConfigError(f"{site}: is a machine; a Job needs a site of kind kubernetes")
    where = parse(site)[0]
    where.pop("context", None)  # of somebody's kubeconfig; in the pod it is the pod's account
    files["site.yaml"] = _text(where)
    files["plan.yaml"] = _plan(files, plan)
    files["trust.yaml"] = _trust(files, trust)
    size, largest = sum(map(len, files.values())), max(files, key=lambda name: len(files[name]))
    if size > LARGEST:
        raise ConfigError(
            f"{size:,} bytes are too many for a ConfigMap, which takes {LARGEST:,}; most are in {largest} "
            f"({len(files[largest]):,}): a smaller suite, or a rollout that is led from a runner"
        )
    return files


def _release(files: Files, path: Path, name: str) -> bytes:
    """The release with the places of its files as they are in the pod."""
    release = load(path, Release)
    data = release.model_dump(mode="json", exclude_none=True)
    named: dict[str, File | None] = {"chat_template": release.chat_template, "system_prompt": release.system_prompt}
    for key, file in named.items():
        if file is None:
            continue
        if file.path is None:
            raise ConfigError(f"{path}: {key}: has no path, so its content is not at hand")
        content = _read(Path(file.path))
        verify_file(file, content)
        data[key]["path"] = _put(files, f"{name}-{key}", content)
    return _text(data)


def _plan(files: Files, path: Path) -> bytes:
    """The same for a plan, its suites and prompts."""
    plan = load_plan(path)
    read_suites(plan)
    data = parse(path)[0]
    for index, check in enumerate(data.get("checks", ())):
        if "suite" not in check:
            continue
        source = Path(check["suite"])
        suite = parse(source)[0]
        dataset = f"suite-{index}.jsonl"
        _put(files, dataset, _read(source.parent / load_suite(source).config.dataset))
        suite["dataset"] = dataset
        check["suite"] = _put(files, f"suite-{index}.yaml", _text(suite))
    if plan.shadow is not None and plan.shadow.outputs is not None:
        prompts = _read(Path(plan.shadow.outputs.prompts))
        data["shadow"]["outputs"]["prompts"] = _put(files, "prompts.jsonl", prompts)
    if plan.experiment is not None:
        events = plan.experiment.events
        if isinstance(events, CsvEvents):
            raise ConfigError(f"{path}: experiment: events: a Job cannot read {events.csv}, which grows elsewhere")
        assert isinstance(events, CounterEvents)
        data["experiment"]["events"]["prometheus"] = _put(files, "prometheus.yaml", _read(Path(events.prometheus)))
    return _text(data)


def _trust(files: Files, path: Path) -> bytes:
    """The same for a trust file, its keys and roots; a policy that it names is its digest then."""
    data = load_trust(path).model_dump(mode="json", exclude_none=True)
    for index, signer in enumerate(data["signers"]):
        for key, name in (("key", f"signer-{index}.pub"), ("trusted_root", f"signer-{index}-root.json")):
            if key in signer and "://" not in signer[key]:
                _put(files, name, _read(Path(signer[key])))
                signer[key] = name  # relative to the trust file
    return _text(data)


def _put(files: Files, name: str, content: bytes) -> str:
    files[name] = content
    return f"{MOUNT}/{name}"


def _text(data: Any) -> bytes:
    """JSON, which is YAML too."""
    return json.dumps(data, ensure_ascii=False, indent=1).encode() + b"\n"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
