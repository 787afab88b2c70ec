"""Environment and arguments of the container against the flags of a real vLLM 0.32.0."""

from __future__ import annotations

from pathlib import Path

import pytest

from servegate.serving.arguments import UsageError, build, listens_at
from servegate.serving.flags import Flags, read

FLAGS = read(Path(__file__).parents[2] / "fixtures" / "vllm-0.32.0-flags.json")
WITHOUT_DRAIN = Flags("0.17.0", tuple(flag for flag in FLAGS.flags if "--shutdown-timeout" not in flag.names))


def problems(environ: dict[str, str], *extra: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        build(environ, extra, FLAGS)
    return str(caught.value).splitlines()


def test_the_environment_becomes_the_command_line() -> None:
    serve = build(
        {
            "SERVE_MODEL": "org/chat",
            "SERVE_ARG_MAX_MODEL_LEN": "4096",
            "SERVE_ARG_ENFORCE_EAGER": "true",
            "SERVE_ARG_ENABLE_PREFIX_CACHING": "false",
            "SERVE_ARG_SERVED_MODEL_NAME": '["chat", "chat-v2"]',
            "SERVE_ARG_HF_OVERRIDES": '{"rope": 1}',
            "PATH": "/usr/bin",
        },
        [],
        FLAGS,
    )
    assert serve.arguments == (
        "org/chat",
        "--no-enable-prefix-caching",
        "--enforce-eager",
        '--hf-overrides={"rope": 1}',
        "--max-model-len=4096",
        "--served-model-name",
        "chat",
        "chat-v2",
        "--shutdown-timeout",
        "60",
    )
    assert (serve.port, serve.tls, serve.drain, serve.quiet) == (8000, False, 60.0, 5.0)


def test_arguments_of_the_container_follow_and_the_model_stays_first() -> None:
    serve = build({"SERVE_ARG_PORT": "9000"}, ["org/chat", "--max_num_seqs", "8", "--seed=-1"], FLAGS)
    assert serve.arguments[:5] == ("org/chat", "--port=9000", "--max_num_seqs", "8", "--seed=-1")
    assert serve.port == 9000


@pytest.mark.parametrize(
    "extra",
    [
        ["m", "--seed", "-1"],
        ["m", "-tp", "2"],
        ["m", "-O3"],
        ["m", "--compilation-config.mode", "3", "--compilation-config.cudagraph_mode", "NONE"],
        ["m", "--middleware", "a", "--middleware", "b"],
        ["m", "--served-model-name", "a", "b", "--enforce-eager"],
        ["m", "--runner=generate"],
        ["--model", "m"],
    ],
)
def test_spellings_vllm_accepts(extra: list[str]) -> None:
    assert build({}, extra, FLAGS).arguments[: len(extra)] == tuple(extra)


def test_an_unknown_flag_is_answered_with_the_nearest() -> None:
    assert problems({"SERVE_MODEL": "m", "SERVE_ARG_MAX_MODEL_LENGTH": "1"}) == [
        "SERVE_ARG_MAX_MODEL_LENGTH: vLLM 0.32.0 has no flag --max-model-length; did you mean SERVE_ARG_MAX_MODEL_LEN?"
    ]
    assert problems({}, "m", "--max-model-length", "1", "--disable-log-requests") == [
        "--max-model-length: vLLM 0.32.0 has no such flag; did you mean --max-model-len?",
        "--disable-log-requests: vLLM 0.32.0 has no such flag; did you mean --enable-log-requests?",
    ]


def test_every_problem_is_told_at_once() -> None:
    found = problems(
        {
            "SERVE_MODLE": "m",
            "SERVE_ARG_ENFORCE_EAGER": "maybe",
            "SERVE_ARG_RUNNER": "generat",
            "SERVE_DRAIN_SECONDS": "a minute",
            "SERVE_ARG_PORT": "http",
        }
    )
    assert [line.partition(":")[0] for line in found] == [
        "SERVE_ARG_ENFORCE_EAGER",
        "SERVE_ARG_RUNNER",
        "SERVE_MODLE",
        "no model",
        "SERVE_DRAIN_SECONDS",
        "--port",
    ]
    assert found[1].endswith("did you mean generate?")
    assert found[2].endswith("did you mean SERVE_MODEL?")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["m", "--enforce-eager", "yes"], "--enforce-eager: takes no value; 'yes' belongs to no flag"),
        (["m", "--max-model-len"], "--max-model-len: needs a value"),
        (["m", "--max-model-len", "1", "2"], "--max-model-len: takes one value; '2' belongs to no flag"),
        (["m", "--port", "1", "--port", "2"], "--port: given twice"),
        (["m", "--runner", "chat"], "--runner: 'chat' is not one of auto, draft, generate, pooling"),
        (["m", "--port", "70000"], "--port: '70000' is not a port"),
        (["m; rm -rf /", "-x"], "-x: vLLM 0.32.0 has no such flag"),
        (["--enforce-eager"], "no model"),
    ],
)
def test_a_wrong_argument(extra: list[str], message: str) -> None:
    assert problems({}, *extra)[-1].startswith(message)


def test_the_same_flag_in_both_places_is_no_matter_of_order() -> None:
    found = problems({"SERVE_MODEL": "a", "SERVE_ARG_PORT": "1"}, "b", "--port", "2")
    assert found == [
        "--port: given twice (SERVE_ARG_PORT and the container's arguments)",
        "the model is named twice: SERVE_MODEL=a and argument b",
    ]


def test_the_variables_kubernetes_sets_for_a_service_called_serve_are_not_ours() -> None:
    links = {
        "SERVE_PORT": "tcp://10.0.0.1:80",
        "SERVE_SERVICE_HOST": "10.0.0.1",
        "SERVE_SERVICE_PORT_HTTP": "80",
        "SERVE_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert build({"SERVE_MODEL": "m", **links}, [], FLAGS).arguments[0] == "m"


def test_vllm_drains_only_where_it_can_and_nobody_said_otherwise() -> None:
    assert "--shutdown-timeout" not in build({"SERVE_MODEL": "m"}, [], WITHOUT_DRAIN).arguments
    given = build({"SERVE_MODEL": "m"}, ["--shutdown-timeout", "7"], FLAGS)
    assert given.arguments == ("m", "--shutdown-timeout", "7")
    assert given.drain == 7.0
    both = build({"SERVE_MODEL": "m", "SERVE_DRAIN_SECONDS": "9"}, ["--shutdown-timeout=7"], FLAGS)
    assert both.drain == 9.0
    assert build({"SERVE_MODEL": "m", "SERVE_DRAIN_SECONDS": "12.5"}, [], FLAGS).arguments[-1] == "12"


def test_keys_are_not_logged() -> None:
    serve = build({"SERVE_MODEL": "m", "SERVE_ARG_HF_TOKEN": "s3"}, ["--api-key", "s1", "s2", "--port", "1"], FLAGS)
    assert serve.shown() == "vllm serve m --hf-token=*** --api-key *** *** --port 1 --shutdown-timeout 60"


def test_where_it_listens() -> None:
    assert listens_at({}, ["python3", "-m", "servegate.serving", "m"]) == (8000, False)
    assert listens_at({"SERVE_ARG_PORT": "81", "SERVE_ARG_SSL_CERTFILE": "c"}, ["m"]) == (81, True)
    assert listens_at({"SERVE_ARG_PORT": "81"}, ["m", "--port=82"]) == (82, False)
