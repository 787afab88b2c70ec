"""`servegate demo`: the whole pipeline on one machine."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(help="Take a healthy and a defective release through the whole pipeline on this machine.")
@click.option("--engine", type=click.Choice(["simulator", "vllm"]), default="simulator", show_default=True)
@click.option(
    "--defect",
    type=click.Choice(["errors", "ttft"]),
    default="errors",
    show_default=True,
    help="What is wrong with release 3 (simulator): one request in ten fails, or the first token takes twice as long.",
)
@click.option("--output", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
def command(engine: str, defect: str, output: Path) -> None:
    """Run the demo and say where its results are."""
    import os
    import signal

    from servegate.demo.engine import DemoEngine
    from servegate.demo.machine import SLOTS
    from servegate.demo.run import run
    from servegate.errors import ExitCode
    from servegate.report.stages import Stages

    def stop(_number: int, _frame: object) -> None:
        # Once: end everything in order. Twice: end now; the kernel ends the children with us.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: os._exit(ExitCode.INTERRUPTED))
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)
    chosen: DemoEngine
    if engine == "vllm":
        from servegate.demo.real import Real

        chosen = Real()
    else:
        from servegate.demo.simulated import Simulated

        chosen = Simulated("ttft" if defect == "ttft" else "errors", SLOTS)
    with Stages() as stages:
        result = run(chosen, output, stages)
        stages.note(f"Report: {result.page}")
        stages.note(f"Numbers: {result.summary}")
    raise SystemExit(result.exit_code)
