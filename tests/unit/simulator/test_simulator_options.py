"""The command line: vLLM's flags, and one clear message for what is wrong."""

from __future__ import annotations

import pytest

from servegate.simulator.options import read


def test_flags_of_the_real_server() -> None:
    options = read(
        ["--model", "org/m", "--served-model-name", "a", "b", "--max-model-len", "1000", "--max-num-seqs", "4",
         "--num-gpu-blocks-override", "100", "--block-size", "16", "--max-num-queued-reqs", "3",
         "--shutdown-timeout", "5", "--no-enable-prefix-caching", "--chat-template", "t.jinja",
         "--decode-step-ms", "2.5",
         "--fault", "errors:rate=0.1", "--fault", "hang:after=1m"], "p")  # fmt: skip
    assert options.served_names == ("a", "b")
    assert (options.engine.num_blocks, options.engine.max_num_seqs, options.engine.prefix_caching) == (100, 4, False)
    assert options.engine.decode_step == 0.0025
    assert (options.shutdown_timeout, options.max_num_queued_reqs) == (5.0, 3)
    assert [fault.kind for fault in options.faults] == ["errors", "hang"]


def test_defaults() -> None:
    options = read([], "p")
    assert (options.host, options.port, options.control_port) == ("127.0.0.1", 8000, None)
    assert options.served_names == (options.model,)
    assert options.shutdown_timeout == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-num-sequences", "3"], "unknown argument --max-num-sequences; did you mean --max-num-seqs?"),
        (["--zzz=3"], "unknown argument --zzz\n"),
        (["--max-num", "3"], "unknown argument --max-num"),
        (["--port", "99999"], "'99999' is not a whole number from 0 to 65535"),
        (["--seed", "x"], "not a whole number"),
        (["--decode-step-ms", "0"], "not a number above 0"),
        (["--fault", "erors:rate=1"], "did you mean 'errors'"),
        (["--shutdown-timeout", "soon"], "not a duration"),
        (
            ["--max-model-len", "1000", "--num-gpu-blocks-override", "3"],
            "needs 63 KV blocks of 16 tokens, but there are 3",
        ),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        read(arguments, "servegate simulator")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("servegate simulator: ")
    assert "Traceback" not in said


def test_help_describes_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    from servegate.simulator.faults import KINDS

    with pytest.raises(SystemExit) as end:
        read(["--help"], "p")
    assert end.value.code == 0
    said = capsys.readouterr().out
    for kind, parameters in KINDS.items():
        assert f"  {kind} " in said
        assert all(parameter in said for parameter in parameters)
