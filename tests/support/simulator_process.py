"""A real simulator process, and a small HTTP client for it."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any


@dataclass
class Simulator:
    process: subprocess.Popen[str]
    port: int
    control_port: int

    def request(
        self, method: str, path: str, body: Any = None, port: int | None = None, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=20)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": content_type})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ask(self, question: str, **more: Any) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0, **more}
        status, answer = self.request("POST", "/v1/chat/completions", body)
        assert status == 200, answer
        found: dict[str, Any] = json.loads(answer)
        return found

    def metrics(self) -> dict[str, float]:
        text = self.request("GET", "/metrics")[1].decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _space, value in lines}

    def faults(self, *specs: str) -> dict[str, Any]:
        body = {"faults": list(specs)}
        status, answer = self.request("PUT", "/faults", body, port=self.control_port)
        assert status == 200, answer
        found: dict[str, Any] = json.loads(answer)
        return found

    def control(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.request("GET", "/faults", port=self.control_port)[1])
        return found


def start(*flags: str) -> Simulator:
    """Start a server on free ports and wait for the line that says it is ready."""
    command = [sys.executable, "-m", "servegate.simulator", "--port", "0", "--control-port", "0", "--model", "tiny"]
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = ""
    control = 0
    for line in process.stderr:
        seen += line
        if found := re.search(r"faults at http://127\.0\.0\.1:(\d+)", line):
            control = int(found.group(1))
        if found := re.search(r"ready at http://[^:]+:(\d+)", line):
            return Simulator(process, int(found.group(1)), control)
    process.wait(5)
    raise AssertionError(f"the simulator did not start: {seen}")
