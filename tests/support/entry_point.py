"""The image's entry point as a process, with the simulator in the place of vLLM."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from servegate.process import free_ports

FLAGS = Path(__file__).parents[1] / "fixtures" / "vllm-0.32.0-flags.json"
# The simulator has flags that vLLM has not (its faults): they come through the environment of the stand-in.
_VLLM = """#!{python}
import os, sys
from servegate.simulator.app import main
assert sys.argv[1] == "serve", sys.argv
sys.exit(main(["--model", sys.argv[2], *sys.argv[3:], *os.environ.get("STAND_IN", "").split()]))
"""
ENTRY = """import pathlib, sys
from servegate.serving.__main__ import main
sys.exit(main(sys.argv[2:], pathlib.Path(sys.argv[1])))
"""


class Container:
    """One run of the entry point, with `vllm` found in a folder of its own."""

    def __init__(
        self, folder: Path, *arguments: str, engine: str = _VLLM, around: Sequence[str] = (), **environ: str
    ) -> None:
        (self.port,) = free_ports(1)
        shim = folder / "bin" / "vllm"
        shim.parent.mkdir(parents=True)
        shim.write_text(engine.replace("{python}", sys.executable), "utf-8")
        shim.chmod(0o755)
        env = {
            **os.environ,
            "PATH": f"{shim.parent}:{os.environ['PATH']}",
            "SERVE_ARG_PORT": str(self.port),
            "SERVE_DRAIN_QUIET_SECONDS": "1",
            **environ,
        }
        self.log = folder / "log"
        with self.log.open("wb") as log:
            command = [*around, sys.executable, "-c", ENTRY, str(FLAGS), *arguments]
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def wait_ready(self, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while True:
            assert self.process.poll() is None, self.log.read_text("utf-8")
            assert time.monotonic() < deadline, self.log.read_text("utf-8")
            try:
                if self.ask(1) == 200:
                    return
            except OSError:
                time.sleep(0.05)

    def ask(self, tokens: int) -> int:
        """One answer of that length; the status when it came whole."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            body = {
                "messages": [{"role": "user", "content": "Tell me a story"}],
                "max_tokens": tokens,
                "min_tokens": tokens,
                "ignore_eos": True,
            }
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            whole = json.loads(response.read())
            assert response.status != 200 or whole["usage"]["completion_tokens"] == tokens
            return response.status
        finally:
            connection.close()

    def in_flight(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return any(
            line.startswith("vllm:num_requests_running") and float(line.split()[-1]) for line in text.split("\n")
        )

    def end(self) -> int:
        return self.process.wait(60)
