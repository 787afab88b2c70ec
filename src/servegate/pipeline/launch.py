"""How a release is started as a process of this machine."""

from __future__ import annotations

from collections.abc import Sequence

from servegate.errors import ConfigError
from servegate.process import python
from servegate.release import Release
from servegate.rollout.workloads.processes import HOST, Launch, Launcher

RESERVED = ("--host", "--port", "--uds", "--model", "--served-model-name")
"""Where an engine listens and what it loads is not an argument's to say."""


def launcher(vllm: Sequence[str]) -> Launcher:
    """Starts the simulator or vLLM, whichever the release names.

    Args:
        vllm: command that the model and the arguments of `vllm serve` are added to.
    """

    def launch(_slot: str, release: Release, port: int) -> Launch:
        for argument in release.args:
            name = argument.partition("=")[0].replace("_", "-")
            if name in RESERVED:
                raise ConfigError(
                    f"{release.label()}: {name} is set by servegate and cannot be an argument of a release"
                )
        listen = ("--served-model-name", release.model.served_name, "--host", HOST, "--port", str(port))
        if release.engine.name == "simulator":
            return Launch(python("-m", "servegate.simulator", *listen, *release.args), release.env)
        revision = ("--revision", release.model.revision) if release.model.revision else ()
        return Launch([*vllm, _place(release.model.uri), *revision, *listen, *release.args], release.env)

    return launch


def _place(uri: str) -> str:
    """A model's URI as vLLM wants it: a name on the hub, or a path."""
    for scheme in ("hf://", "file://"):
        if uri.startswith(scheme):
            return uri.removeprefix(scheme)
    return uri
