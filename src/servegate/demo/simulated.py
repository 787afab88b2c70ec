"""The demo on the simulator: no GPU, no download."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

from servegate import __version__
from servegate.demo.engine import Files
from servegate.endpoint import request
from servegate.errors import ConfigError, InfrastructureError
from servegate.process import free_ports, python
from servegate.release import Engine, Model, Release
from servegate.report.story import Defect
from servegate.rollout.workloads.processes import Launch

DefectKind = Literal["errors", "ttft"]
MODEL = "support-assistant"
FAULTS: dict[DefectKind, tuple[str, str]] = {
    "errors": ("errors:rate=0.1", "10 % of its requests fail with HTTP 500"),
    "ttft": ("latency:factor=2,what=ttft", "time to first token is doubled"),
}


class Simulated:
    """Releases that differ in their arguments; the defect is switched on once users reach the release.

    Args:
        kind: the defect of release 3.
        slots: names of the slots, each with a control port of its own.
    """

    name = "simulator"
    files = Files(
        suite="evals/suites/support.yaml",
        load="loadtest/profiles/release.yaml",
        live="loadtest/profiles/live.yaml",
        policy="gates/release.yaml",
        plan="rollout/canary.yaml",
    )
    start_timeout = 30.0

    def __init__(self, kind: DefectKind, slots: tuple[str, ...]) -> None:
        self.kind = kind
        self._control = dict(zip(slots, free_ports(len(slots)), strict=True))
        self._broken: str | None = None

    def prepare(self, progress: Callable[[str], None]) -> None:
        """Nothing to download; the extra must be installed."""
        progress("part of the package")
        if find_spec("aiohttp") is None:
            raise ConfigError("the simulator needs the extra `serving`: pip install 'servegate[serving]'")

    def releases(self) -> tuple[Release, Release, Release]:
        """v1 serves; v2 takes larger batches; v3 is v2 with another seed, and a defect that is not in its arguments."""
        return (
            self._release("v1.0.0", "--max-num-seqs", "64"),
            self._release("v2.0.0", "--max-num-seqs", "96"),
            self._release("v3.0.0", "--max-num-seqs", "96", "--seed", "3"),
        )

    def launch(self, slot: str, release: Release, port: int) -> Launch:
        """One simulator."""
        arguments = ("--served-model-name", release.model.served_name, "--host", "127.0.0.1", "--port", str(port))
        control = ("--control-port", str(self._control[slot]))
        return Launch(python("-m", "servegate.simulator", *arguments, *control, *release.args), {})

    def breaks(self, slot: str) -> None:
        """Switch the fault on."""
        if self._broken is None:
            body = json.dumps({"faults": [FAULTS[self.kind][0]]}).encode()
            headers = {"Content-Type": "application/json"}
            status, answer = request("PUT", self._url(slot), body=body, headers=headers)
            if status != 200:
                raise InfrastructureError(f"the simulator refused the fault: {answer[:200].decode(errors='replace')}")
            self._broken = slot

    def defect(self) -> Defect | None:
        """Ask the simulator when the fault was first felt."""
        if self._broken is None:
            return None
        status, answer = request("GET", self._url(self._broken))
        faults = json.loads(answer)["faults"] if status == 200 else []
        first = next((fault["first_effect_at"] for fault in faults if fault["first_effect_at"] is not None), None)
        return None if first is None else Defect(FAULTS[self.kind][1], float(first))

    def _url(self, slot: str) -> str:
        return f"http://127.0.0.1:{self._control[slot]}/faults"

    def _release(self, name: str, *args: str) -> Release:
        return Release(
            name=name,
            model=Model(uri="builtin://knowledge", revision=None, served_name=MODEL),
            engine=Engine(name="simulator", version=__version__),
            args=args,
        )
