"""What a controller in a Job needs comes along whole, and says where it is in the pod."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rollout_world import RULES
from verdicts import key_pair, release, signed, verdict

from servegate.contract import sha256
from servegate.errors import ConfigError
from servegate.gates.trust import load_trust
from servegate.pipeline import order as orders
from servegate.pipeline.live_quality import read_suites
from servegate.pipeline.order import MOUNT, order
from servegate.pipeline.site import load_site
from servegate.release import File, Release
from servegate.rollout.plan import load_plan

QUALITY = {
    "kind": "quality",
    "name": "answers",
    "share": "10%",
    "suite": "evals/s.yaml",
    "items": 12,
    "rate": 1,
    "margin": "5%",
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody who wants v1 rolled out."""
    monkeypatch.chdir(tmp_path)
    made = release("v1")
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    template = File(sha256=sha256(b"{{ messages }}"), path="template.jinja")
    made = made.model_copy(update={"chat_template": template})
    made.write(tmp_path / "v1.json")
    release("v0").write(tmp_path / "v0.json")
    private, public = key_pair(tmp_path)
    (tmp_path / "trust").mkdir()
    public.rename(tmp_path / "trust/release.pub")
    Path("trust/trust.yaml").write_text("version: 1\nname: t\nsigners: [{name: desk, key: release.pub}]\n")
    Path("verdict.json").write_bytes(signed(verdict(made, decided=1.0), made, private))
    Path("site.yaml").write_text("version: 1\nkind: kubernetes\nnamespace: llm\ncontext: mine\n")
    Path("evals").mkdir()
    Path("evals/s.yaml").write_text("version: 1\nname: s\ndataset: s.jsonl\n")
    rows = [json.dumps({"id": f"q{n}", "input": f"{n}?", "target": ["1"]}) for n in range(12)]
    Path("evals/s.jsonl").write_text("\n".join(rows))
    checks = [{**RULES["checks"][0], "share": "90%"}, QUALITY]
    Path("plan.yaml").write_text(json.dumps({**RULES, "checks": checks}))
    return tmp_path


def gathered(**changed: Any) -> dict[str, bytes]:
    names = {"site": "site.yaml", "plan": "plan.yaml", "trust": "trust/trust.yaml", "verdict": "verdict.json"}
    given: Any = {key: Path(value) for key, value in {**names, **changed}.items()}
    return order(Path("v1.json"), **given)


def test_everything_that_is_named_comes_along(desk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(orders, "MOUNT", str(tmp_path / "pod"))
    before = read_suites(load_plan(Path("plan.yaml")))
    files = gathered(stable="v0.json")
    pod = tmp_path / "pod"
    pod.mkdir()
    for name, content in files.items():
        assert "/" not in name
        (pod / name).write_bytes(content)
    identity = Release.model_validate_json(Path("v1.json").read_bytes()).identity()
    for name in ("template.jinja", "v1.json", "trust/release.pub", "evals/s.jsonl", "evals/s.yaml"):
        Path(name).unlink()  # in the pod there is no checkout
    monkeypatch.chdir(pod)
    made = Release.model_validate_json(Path("release.json").read_bytes())
    assert made.identity() == identity
    assert made.chat_template is not None
    assert Path(made.chat_template.path or "").read_text() == "{{ messages }}"
    assert load_site(Path("site.yaml")).model_dump()["context"] is None
    suites = read_suites(load_plan(Path("plan.yaml")))
    assert [(key, suite.sha256, suite.dataset_sha256) for key, suite in suites.items()] == [
        (key, suite.sha256, suite.dataset_sha256) for key, suite in before.items()
    ]
    (signer,) = load_trust(Path("trust.yaml")).signers
    assert "PUBLIC KEY" in Path(signer.key or "").read_text()
    assert set(files) == {
        *("release.json", "release-chat_template", "stable.json", "site.yaml", "plan.yaml", "trust.yaml"),
        *("verdict.json", "signer-0.pub", "suite-1.yaml", "suite-1.jsonl"),
    }


def test_the_place_in_the_pod_is_where_the_manifest_mounts_it() -> None:
    job = Path(__file__).parents[3] / "k8s/components/controller/job.yaml"
    assert f"mountPath: {MOUNT}\n" in job.read_text()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "site.yaml",
            "version: 1\nkind: machine\nfolder: f\nport: 1\nadmin_port: 2\nslots: {a: [3], b: [4]}\n",
            "a Job",
        ),
        ("evals/s.yaml", "version: 1\nname: s\ndataset: elsewhere.jsonl\n", "elsewhere.jsonl: cannot be read"),
        ("template.jinja", "another", "but the release names"),
        ("verdict.json", None, "verdict.json: cannot be read"),
        ("trust/release.pub", None, "release.pub: cannot be read"),
        ("plan.yaml", "version: 1\nalhpa: 1%\n", "did you mean 'alpha'"),
    ],
)
def test_what_a_pod_would_stumble_over_is_said_here(desk: Path, file: str, text: str | None, said: str) -> None:
    Path(file).unlink()
    if text is not None:
        Path(file).write_text(text)
    with pytest.raises(ConfigError, match=said):
        gathered()


def test_more_than_a_config_map_takes_is_told_with_the_file(desk: Path) -> None:
    rows = [json.dumps({"id": f"q{n}", "input": "x" * 100_000, "target": ["1"]}) for n in range(12)]
    Path("evals/s.jsonl").write_text("\n".join(rows))
    with pytest.raises(ConfigError, match=r"1,2\d\d,\d{3} bytes are too many .* most are in suite-1.jsonl"):
        gathered()
