"""The pipeline in another repository, and what the doctor says about it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from servegate.errors import ConfigError
from servegate.github.api import RefusedError
from servegate.pipeline import doctor
from servegate.pipeline.doctor import Finding, State
from servegate.pipeline.scaffold import Settings, plan
from servegate.pipeline.scaffold import State as FileState
from servegate.pipeline.site import ClusterSite, load_site

COMMIT = "0123456789" * 4
SOURCE = f"team/servegate@{COMMIT}"
BIN = Path(sys.executable).parent


def servegate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "servegate"), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("team")
    done = servegate(
        "init", str(folder), "--model", "hf://Qwen/Qwen3-8B", "--served-name", "support", "--workflows", SOURCE
    )
    assert done.returncode == 0, done.stderr
    assert "SERVEGATE_EVAL_URL" in done.stdout
    return folder


def test_a_new_repository_has_nothing_missing(made: Path) -> None:
    done = servegate("doctor", str(made), "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert {item["state"] for item in found if item["what"] != "builder"} == {"ok"}
    names = {item["what"] for item in found}
    assert {"evals/suites/support.yaml", "Dockerfile", "release.yaml", ".github/workflows/release.yml"} <= names


def test_the_files_of_our_own_demonstrations_stay_here(made: Path) -> None:
    names = {path.name for path in made.rglob("*") if path.is_file()}
    assert not {name for name in names if "vllm-cpu" in name or name == "machine.yaml"}


def test_the_workflows_call_ours_at_a_commit_and_please_the_linters(made: Path) -> None:
    text = (made / ".github/workflows/ci.yml").read_text("utf-8")
    assert f"uses: team/servegate/.github/workflows/ci.yml@{COMMIT} # v" in text
    assert "@REPOSITORY@" not in text
    subprocess.run(["git", "init", "-q"], cwd=made, check=True)
    for linter in ([str(BIN / "actionlint")], [str(BIN / "zizmor"), "--offline", "--persona", "pedantic", "."]):
        done = subprocess.run(linter, cwd=made, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_caller_passes_exists_in_the_called_workflow(made: Path) -> None:
    import yaml

    for name in ("ci", "release", "model-eval", "rollback", "rollback-drill"):
        caller = yaml.safe_load((made / f".github/workflows/{name}.yml").read_text("utf-8"))
        called = yaml.safe_load((Path(__file__).parents[3] / f".github/workflows/{name}.yml").read_text("utf-8"))
        (job,) = caller["jobs"].values()
        assert set(job["with"]) <= set(called[True]["workflow_call"]["inputs"])
        for inner in called["jobs"].values():
            for scope, level in inner["permissions"].items():
                assert job["permissions"].get(scope) in (level, "write"), (name, scope)


def test_namespace_gpu_and_cloud_are_everywhere_they_belong(tmp_path: Path) -> None:
    import yaml

    options = ("--namespace", "chat", "--gpu", "NVIDIA-L40S", "--cloud", "google", "--workflows", SOURCE)
    done = servegate("init", str(tmp_path), "--model", "hf://a/b", *options)
    assert done.returncode == 0, done.stderr
    assert re.search(r"SERVEGATE_LOGIN +google\n.*SERVEGATE_CLUSTER_ACCOUNT", done.stdout, re.DOTALL)
    assert "kubernetes:chat-staging" in done.stdout
    assert not (tmp_path / "k8s/overlays/eks").exists()
    for overlay, name in (("production", "chat"), ("staging", "chat-staging")):
        build = [str(BIN / "kubectl"), "kustomize", str(tmp_path / "k8s/overlays" / overlay)]
        found = list(yaml.safe_load_all(subprocess.run(build, capture_output=True, check=True).stdout))
        assert [item["metadata"]["name"] for item in found if item["kind"] == "Namespace"] == [name]
        assert {item["metadata"].get("namespace", name) for item in found} == {name}
        slots = [item["spec"]["template"]["spec"] for item in found if item["kind"] == "Deployment"]
        assert [slot["nodeSelector"] for slot in slots] == 2 * [{"nvidia.com/gpu.product": "NVIDIA-L40S"}]
    sites = [load_site(tmp_path / "rollout" / file) for file in ("kubernetes.yaml", "kubernetes-staging.yaml")]
    assert [site.namespace for site in sites if isinstance(site, ClusterSite)] == ["chat", "chat-staging"]
    caller = yaml.safe_load((tmp_path / ".github/workflows/release.yml").read_text("utf-8"))
    (job,) = caller["jobs"].values()
    assert (job["with"]["namespace"], job["with"]["staging-namespace"]) == ("chat", "chat-staging")


def test_without_them_the_files_are_ours(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    same = [file for file in plan(Settings("hf://a/b", "b"), tmp_path) if file.path.startswith(("k8s/", "rollout/"))]
    assert len(same) > 50
    assert all((root / file.path).read_bytes() == file.content for file in same)


def test_what_differs_is_kept_and_what_is_the_same_is_not_touched(tmp_path: Path) -> None:
    assert servegate("init", str(tmp_path), "--model", "hf://a/b").returncode == 0
    mine = tmp_path / "gates/release.yaml"
    mine.write_text("version: 1  # mine\n", "utf-8")
    before = (tmp_path / "Dockerfile").stat().st_mtime_ns
    done = servegate("init", str(tmp_path), "--model", "hf://a/b")
    assert done.returncode == 0
    assert "kept       gates/release.yaml\n" in done.stdout
    assert "kept 1 file that differ" in done.stdout
    assert mine.read_text("utf-8") == "version: 1  # mine\n"
    assert (tmp_path / "Dockerfile").stat().st_mtime_ns == before
    assert (
        "overwrite  gates/release.yaml" in servegate("init", str(tmp_path), "--model", "hf://a/b", "--overwrite").stdout
    )
    assert mine.read_text("utf-8") != "version: 1  # mine\n"


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = servegate("init", str(tmp_path), "--model", "hf://a/b", "--dry-run")
    assert "new        Dockerfile\n" in done.stdout
    assert done.stdout.endswith("Nothing was written.\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "Qwen/Qwen3-8B"},
        {"model": 'hf://a/b"\nargs: [--x]'},
        {"served_name": "a b"},
        {"namespace": "Chat"},
        {"namespace": "chat\nx: y"},
        {"gpu": "L40S, }"},
        {"served_name": "${{ secrets.X }}"},
        {"revision": "main\n"},
        {"image": "ghcr.io/Team/chat"},
        {"workflows": "team/servegate@main"},
        {"workflows": f"team/servegate@{COMMIT}\n"},
    ],
)
def test_a_setting_that_is_not_one_word_is_refused(tmp_path: Path, changed: dict[str, str]) -> None:
    settings = Settings(**{"model": "hf://a/b", "served_name": "b", **changed})
    with pytest.raises(ConfigError, match="is not such as"):
        plan(settings, tmp_path)


def test_a_link_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    target, outside = tmp_path / "target", tmp_path / "outside"
    outside.mkdir()
    target.mkdir()
    (target / "gates").symlink_to(outside)
    with pytest.raises(ConfigError, match="leads out of"):
        plan(Settings("hf://a/b", "b"), target)


def test_every_file_is_new_in_an_empty_folder(tmp_path: Path) -> None:
    assert {file.state for file in plan(Settings("hf://a/b", "b"), tmp_path)} == {FileState.NEW}


def test_the_doctor_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "gates").mkdir()
    (tmp_path / "gates/release.yaml").write_text("version: 1\nchekcs: []\n", "utf-8")
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / ".github/workflows/own.yml").write_text("steps:\n  - uses: actions/checkout@v6\n", "utf-8")
    done = servegate("doctor", str(tmp_path))
    assert done.returncode == 2
    assert "chekcs: unknown key; did you mean 'checks'?" in done.stdout
    assert "missing  files      suite: no suite in evals/suites\n" in done.stdout
    assert "wrong    workflows  .github/workflows/own.yml: not pinned: actions/checkout@v6\n" in done.stdout
    assert "→ servegate init writes" in done.stdout
    assert re.search(r"^\d+ to do\.$", done.stdout, re.MULTILINE)


def test_two_versions_of_vllm_are_found(tmp_path: Path) -> None:
    for file in plan(Settings("hf://a/b", "b"), tmp_path):
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).write_bytes(file.content)
    release = tmp_path / "release.yaml"
    release.write_text(re.sub(r"version: \S+", "version: 0.1.0", release.read_text("utf-8")), "utf-8")
    (wrong,) = (item for item in doctor.image(tmp_path) if item.state is State.WRONG)
    assert wrong.what == "version of vLLM"
    assert "release.yaml says 0.1.0, the Dockerfile" in wrong.found


class _GitHub:
    """GitHub's answers, by path."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    def get(self, path: str) -> Any:
        path, _, query = path.removeprefix("/repos/team/chat").partition("?")
        found = self.answers[path]
        if isinstance(found, Exception):
            raise found
        if "variables" in found:
            page, size = (int(parse_qs(query)[key][0]) for key in ("page", "per_page"))
            found = {"variables": found["variables"][(page - 1) * min(size, 30) : page * min(size, 30)]}
        return found


def settings_of(answers: dict[str, Any]) -> list[Finding]:
    # The stand-in has of the client what the doctor asks.
    return list(doctor.github("team/chat", _GitHub(answers)))  # type: ignore[arg-type]


def test_settings_on_github_are_looked_at() -> None:
    reviewed = {"protection_rules": [{"type": "required_reviewers"}]}
    names = ("release", "production", "staging", "production-rollback", "staging-rollback")
    limited = {"deployment_branch_policy": {"protected_branches": False, "custom_branch_policies": True}}
    store = {"variables": [{"name": "SERVEGATE_STORE", "value": "kubernetes:llm"}]}
    others = [{"name": f"OTHER_{number}", "value": "x"} for number in range(40)]  # more than GitHub puts on one page
    good = {
        "/actions/variables": {"variables": [*others, {"name": "SERVEGATE_EVAL_URL", "value": "https://x"}]},
        **{f"/environments/{name}": {"protection_rules": [], **limited} for name in names},
        **{f"/environments/{name}": {**reviewed, **limited} for name in names[:2]},
        **{f"/environments/{name}/variables": store for name in names[1:]},
        "/actions/permissions/workflow": {"default_workflow_permissions": "read"},
    }
    assert {item.state for item in settings_of(good)} == {State.OK}
    bad = {
        "/actions/variables": {"variables": []},
        **{f"/environments/{name}": RefusedError("not found", 404) for name in names},
        "/actions/permissions/workflow": {"default_workflow_permissions": "write"},
    }
    assert [item.state for item in settings_of(bad)] == [*[State.MISSING] * 6, State.WRONG]
    assert all(item.todo.startswith("Settings ›") for item in settings_of(bad))
    for name, rules, said in (
        ("release", {"protection_rules": [], **limited}, "has no reviewers"),
        ("production", {"protection_rules": [], **limited}, "has no reviewers"),
        ("production-rollback", {**reviewed, **limited}, "has reviewers"),
        # A branch that anybody may push, with a workflow that names this environment, has its identity.
        ("production", {**reviewed, "deployment_branch_policy": None}, "a workflow of any branch may run in it"),
        ("production-rollback", {"protection_rules": []}, "a workflow of any branch may run in it"),
    ):
        (wrong,) = (item for item in settings_of({**good, f"/environments/{name}": rules}) if item.state is State.WRONG)
        assert (wrong.what, wrong.found) == (f"environment {name}", said)


def test_an_environment_without_a_store_is_told_and_one_for_all_will_do() -> None:
    made = {"protection_rules": [], "deployment_branch_policy": {"protected_branches": True}}
    names = tuple(doctor.ENVIRONMENTS)
    answers: dict[str, Any] = {
        "/actions/variables": {"variables": []},
        **{f"/environments/{name}": made for name in names},
        **{f"/environments/{name}/variables": {"variables": []} for name in names},
        "/actions/permissions/workflow": {"default_workflow_permissions": "read"},
    }
    told = [item.what for item in settings_of(answers) if item.found == "SERVEGATE_STORE is not set"]
    assert told == [f"environment {name}" for name in names if name != "release"]
    everywhere = {"variables": [{"name": "SERVEGATE_STORE", "value": "kubernetes:llm"}]}
    answers["/actions/variables"] = everywhere
    assert not [item for item in settings_of(answers) if "SERVEGATE_STORE" in item.found]
