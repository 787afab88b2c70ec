"""What no runner on this machine can show: permissions, pins, environments, concurrency, and who may say what where."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from servegate.cli import cli

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONS = sorted(ROOT.glob(".github/actions/*/action.yml")) + sorted(ROOT.glob("action.yml"))
STAND_INS = ROOT / "tests/workflows/stand_ins"
INTERFACES: dict[str, dict[str, list[str]]] = json.loads((ROOT / "tests/workflows/actions.json").read_text("utf-8"))
_PIN = re.compile(r"uses: (?P<name>[\w.-]+/[\w.-]+)@(?P<sha>[0-9a-f]{40}) # (?P<version>v\d+\.\d+\.\d+)$")


def load(path: Path) -> dict[str, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text("utf-8"))
    if True in found:  # YAML 1.1 reads the key `on` as true
        found["on"] = found.pop(True)
    return found


def jobs() -> Iterator[tuple[Path, str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            yield path, name, job


def steps() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path, _, job in jobs():
        for step in job.get("steps", ()):
            yield path, step
    for path in ACTIONS:
        for step in load(path)["runs"]["steps"]:
            yield path, step


def events(path: Path) -> dict[str, Any]:
    on = load(path)["on"]
    return on if isinstance(on, dict) else dict.fromkeys([on] if isinstance(on, str) else on)


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: str(path.relative_to(ROOT)))
def test_other_peoples_actions_are_pinned_with_their_version(path: Path) -> None:
    for line in path.read_text("utf-8").splitlines():
        if "uses:" in line and "uses: $/" not in line:
            assert _PIN.search(line), line


def test_one_action_has_one_pin_and_there_are_few() -> None:
    text = "\n".join(path.read_text("utf-8") for path in (*WORKFLOWS, *ACTIONS))
    pins: dict[str, set[tuple[str, str]]] = {}
    for match in filter(None, map(_PIN.search, text.splitlines())):
        pins.setdefault(match["name"], set()).add((match["sha"], match["version"]))
    assert all(len(found) == 1 for found in pins.values()), pins
    assert len(pins) <= 8
    assert set(pins) <= set(INTERFACES)


def test_inputs_of_other_peoples_actions_exist() -> None:
    for path, step in steps():
        name = str(step.get("uses", "")).partition("@")[0]
        if name in INTERFACES:
            unknown = set(step.get("with", {})) - set(INTERFACES[name]["inputs"])
            assert not unknown, (path, name, unknown)


# act itself checks out.
@pytest.mark.parametrize("name", sorted(set(INTERFACES) - {"actions/checkout"}))
def test_a_stand_in_has_the_interface_of_the_real_action(name: str) -> None:
    stand_in = load(STAND_INS / name.replace("/", "-") / "action.yml")
    assert set(stand_in.get("inputs", {})) <= set(INTERFACES[name]["inputs"])
    assert set(stand_in.get("outputs", {})) <= set(INTERFACES[name]["outputs"])


def test_inputs_of_our_own_actions_and_workflows_exist() -> None:
    def check(uses: object, given: dict[str, Any]) -> None:
        if not str(uses).startswith("$/"):
            return
        target = ROOT / str(uses).removeprefix("$/")
        if target.suffix == ".yml":
            known = events(target)["workflow_call"].get("inputs", {})
        else:
            known = load(target / "action.yml").get("inputs", {})
        required = {name for name, item in known.items() if item.get("required")}
        assert required <= set(given) <= set(known), (uses, given)

    for _, step in steps():
        check(step.get("uses"), step.get("with", {}))
    for _, _, job in jobs():
        check(job.get("uses"), job.get("with", {}))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_nothing_is_permitted_but_what_a_job_names_with_its_reason(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {}
    lines = path.read_text("utf-8").splitlines()
    for name, job in workflow["jobs"].items():
        assert job.get("permissions"), name
    for line in lines:
        if re.match(r"\s+[a-z-]+: (read|write)\b", line):
            assert re.search(r"# \w+ \w+", line), line


def test_a_caller_permits_what_a_called_workflow_asks_for() -> None:
    level = {"none": 0, "read": 1, "write": 2}
    for path, name, job in jobs():
        if str(job.get("uses", "")).startswith("$/"):
            for called in load(ROOT / job["uses"].removeprefix("$/"))["jobs"].values():
                for scope, wanted in called["permissions"].items():
                    given = job["permissions"].get(scope, "none")
                    assert level[given] >= level[wanted], (path, name, scope)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_event_runs_strangers_code_with_rights(path: Path) -> None:
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(events(path))


def test_a_pull_request_gets_no_secret_and_no_way_to_push() -> None:
    for path in WORKFLOWS:
        if "pull_request" in events(path):
            text = path.read_text("utf-8") + (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
            assert "secrets." not in text
            assert "secrets:" not in text
            for permission in ("packages: write", "id-token: write", "contents: write", "attestations: write"):
                assert permission not in text


def test_no_expression_stands_in_a_shell() -> None:
    for path, step in steps():
        assert "${{" not in step.get("run", ""), (path, step["name"])


def test_a_check_out_keeps_no_credentials() -> None:
    for path, step in steps():
        if str(step.get("uses", "")).startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, path


def test_every_job_ends() -> None:
    for path, name, job in jobs():
        assert "uses" in job or 0 < job["timeout-minutes"] <= 360, (path, name)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_concurrency_is_decided(path: Path) -> None:
    workflow = load(path)
    groups = [workflow["concurrency"]] if "concurrency" in workflow else []
    groups += [job["concurrency"] for job in workflow["jobs"].values() if "concurrency" in job]
    assert groups
    assert all({"group", "cancel-in-progress"} <= set(group) for group in groups)


def test_a_release_is_never_cancelled_half_way_and_waits_for_its_approval() -> None:
    release = load(ROOT / ".github/workflows/release.yml")
    assert release["concurrency"]["cancel-in-progress"] is False
    assert load(ROOT / ".github/workflows/publish.yml")["jobs"]["publish"]["environment"] == "release"
    writers = [name for name, job in release["jobs"].items() if job["permissions"].get("contents") == "write"]
    assert writers == ["publish"]


def test_a_rollback_waits_for_nobody() -> None:
    rollback, rollout = (load(ROOT / f".github/workflows/{name}.yml")["jobs"] for name in ("rollback", "rollout"))
    back, out = rollback["rollback"], rollout["rollout"]
    assert "concurrency" not in load(ROOT / ".github/workflows/rollback.yml")
    assert back["concurrency"]["group"].startswith("rollback-")
    assert out["concurrency"]["group"].startswith("rollout-")
    # An environment of its own: reviewers of the rollout's would be waited for.
    assert back["environment"] == "${{ inputs.environment }}-rollback"
    assert out["environment"] == "${{ inputs.environment }}"
    assert "needs" not in back
    # Neither is ended in the middle by a later one.
    assert not back["concurrency"]["cancel-in-progress"]
    assert not out["concurrency"]["cancel-in-progress"]


def test_a_production_rollback_is_confirmed_by_typing() -> None:
    on = events(ROOT / ".github/workflows/rollback.yml")
    for event in ("workflow_dispatch", "workflow_call"):
        assert on[event]["inputs"]["reason"]["required"] is True
        assert on[event]["inputs"]["confirm"]["default"] == ""


def test_who_logs_in_to_a_cluster_may_ask_for_its_identity_and_holds_no_secret() -> None:
    for path, name, job in jobs():
        uses = [step.get("uses") for step in job.get("steps", ())]
        if "$/.github/actions/cluster" in uses:
            assert job["permissions"]["id-token"] == "write", (path, name)
            assert job["environment"], (path, name)
            assert "secrets." not in json.dumps(job), (path, name)


def test_only_the_digest_travels_from_the_build_on() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    assert "needs.image.outputs.repository }}@${{ needs.image.outputs.digest }}" in text
    assert set(load(ROOT / ".github/workflows/image.yml")["on"]["workflow_call"]["outputs"]) == {
        "repository",
        "registry",
        "digest",
        "size",
        "attestation-url",
    }


def test_a_called_workflow_describes_its_interface() -> None:
    for path in WORKFLOWS:
        call = events(path).get("workflow_call") or {}
        for item in call.get("inputs", {}).values():
            assert item["description"]
            assert item["type"]
        for kind in ("outputs", "secrets"):
            assert all(item["description"] for item in call.get(kind, {}).values()), path
    for path in ACTIONS:
        for kind in ("inputs", "outputs"):
            assert all(item["description"] for item in load(path).get(kind, {}).values()), path


def test_the_commands_exist() -> None:
    seen = set()
    for path, step in steps():
        for noun, verb in re.findall(r"\bservegate ([a-z]+)(?: ([a-z]+)\b)?", step.get("run", "")):
            command = cli.get_command(click.Context(cli), noun)
            assert command is not None, (path, noun)
            if isinstance(command, click.Group):
                assert command.get_command(click.Context(command), verb) is not None, (path, noun, verb)
            seen.add(noun)
    assert {"evals", "smoke", "gate", "image", "release"} <= seen


def test_the_targets_exist() -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    asked = {name for _, step in steps() for name in re.findall(r"^make ([a-z-]+)$", step.get("run", ""), re.MULTILINE)}
    assert {"check", "test"} <= asked <= known


def test_what_the_linter_ignores_has_a_reason_and_is_counted_in_the_docs() -> None:
    """Comments can hide more than one finding each, so the linter is asked, with the comments out of force."""
    for path in (*WORKFLOWS, *ACTIONS):
        for line in path.read_text("utf-8").splitlines():
            if "zizmor:" in line:
                assert re.search(r"zizmor: ignore\[[a-z-]+\] \w+ \w+", line), (path, line)
    zizmor = [str(Path(sys.executable).with_name("zizmor")), "--offline", "--quiet", "--persona", "pedantic"]
    asked = [*zizmor, "--no-ignores", "--no-exit-codes", "--format", "json", "."]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    findings = json.loads(done.stdout)
    keys = [(item["ident"], item["locations"][0]["symbolic"]["key"]) for item in findings]
    places = sorted((ident, key["Local"]["verbatim_path"]) for ident, key in keys)
    actions = ("cluster", "setup", "setup")  # of the last, each of two lines
    assert places == [("github-env", f"./.github/actions/{name}/action.yml") for name in actions]
    assert f"It says “{len(places)} ignored”" in (ROOT / "docs/workflows.md").read_text("utf-8")


def test_every_pin_is_raised_by_dependabot_after_a_while() -> None:
    found = load(ROOT / ".github/dependabot.yml")["updates"]
    assert {item["package-ecosystem"] for item in found} == {"github-actions", "docker", "pip", "gomod"}
    assert all(item["cooldown"]["default-days"] >= 7 for item in found)


TALKS = ("packages", "registry", "sigstore", "go", "cluster", "engine")
BY_ACTION = {
    "$/.github/actions/setup": "packages",
    "$/.github/actions/build-image": "registry",
    "docker/login-action": "registry",
    "$/.github/actions/sbom": "go",
    "actions/attest": "sigstore",
    "$/.github/actions/cluster": "cluster",
}


def talks_to(job: dict[str, Any]) -> set[str]:
    """Whom a job talks to besides GitHub, by the actions it uses and the commands it runs."""
    uses = {str(step.get("uses", "")).partition("@")[0] for step in job["steps"]}
    runs = "\n".join(step.get("run", "") for step in job["steps"])
    found = {BY_ACTION[name] for name in uses if name in BY_ACTION}
    if re.search(r"gh attestation verify|gate verify|rollout (start|drill)", runs):
        found.add("sigstore")
    asks = re.search(r"servegate ((smoke|evals|loadtest) run|rollout drill)", runs)
    if "$/.github/actions/engine" not in uses and asks:
        found.add("engine")
    return found


def test_what_a_job_talks_to_is_written_down() -> None:
    text = (ROOT / "docs/workflows.md").read_text("utf-8")
    table = text.partition("### What a job talks to")[2].partition("\n- packages:")[0]
    written = {}
    for line in re.findall(r"^\| `.*$", table, re.MULTILINE):
        job, *marks = (cell.strip() for cell in line.strip("|").split("|"))
        written[job] = {name for name, mark in zip(TALKS, marks, strict=True) if mark == "x"}
    found = {f"`{path.name}` {name}": talks_to(job) for path, name, job in jobs() if "steps" in job}
    assert written == {job: talks for job, talks in found.items() if not job.startswith("`test.yml`")}


def test_no_step_downloads_by_itself() -> None:
    scripts = [path.read_text("utf-8") for path in (*WORKFLOWS, *ACTIONS, *ROOT.glob(".github/actions/*/*.sh"))]
    for line in "\n".join(scripts).splitlines():
        if re.search(r"\b(curl|wget)\b", line):
            assert "127.0.0.1" in line or "ACTIONS_ID_TOKEN_REQUEST_URL" in line, line
        assert not re.search(r"\b(npx|pipx|uvx|go install|docker pull)\b", line), line
        if re.search(r"-m pip\b(?!.*\)$)|\"\$\{pip\[@\]\}\"", line):  # the command, or the array that holds it
            assert "--require-hashes" in line or "--no-deps" in line, line


def test_what_decides_has_an_owner() -> None:
    lines = (ROOT / ".github/CODEOWNERS").read_text("utf-8").splitlines()
    owned = [line.split() for line in lines if line and not line.startswith("#")]
    assert all(len(entry) >= 2 and all("@" in owner for owner in entry[1:]) for entry in owned)
    places = {entry[0] for entry in owned}
    assert {"/.github/", "/action.yml", "/Dockerfile", "/gates/", "/rollout/"} <= places
    assert all((ROOT / place.strip("/")).exists() for place in places)


def test_no_job_holds_a_secret_but_a_key_its_caller_hands_in() -> None:
    """Clusters, clouds, registries and signatures are reached by the identity of the job."""
    named = set()
    for path in (*WORKFLOWS, *ACTIONS):
        named |= set(re.findall(r"secrets\.([\w-]+)", path.read_text("utf-8")))
        assert "secrets: inherit" not in path.read_text("utf-8"), path
    assert named <= {"api-key"}


def test_an_image_is_verified_before_a_deployment_touches_anything() -> None:
    steps_ = [step["name"] for step in load(ROOT / ".github/workflows/deploy.yml")["jobs"]["deploy"]["steps"]]
    touches = steps_.index("Log in to the cluster")
    assert steps_.index("By digest, and by no tag") < steps_.index("Who built it") < touches
    assert steps_.index("A verdict that counts") < touches
    rollout = [step["name"] for step in load(ROOT / ".github/workflows/rollout.yml")["jobs"]["rollout"]["steps"]]
    assert rollout.index("A verdict that counts") < rollout.index("Log in to the cluster")


def test_production_waits_for_the_verdict_and_for_what_the_image_holds() -> None:
    release = load(ROOT / ".github/workflows/release.yml")["jobs"]
    assert set(release["production"]["needs"]) == {"quality", "sbom", "restore"}
    assert set(release["quality"]["needs"]) >= {"staging"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_file_can_be_read_at_once(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400
