"""The record of vLLM's flags: made from a parser, read back, refused when it is no record."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from servegate.serving import record
from servegate.serving.flags import Flag, Flags, FlagsError, check_version, from_parser, read


def test_a_parser_becomes_a_record_and_is_read_back(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--eager", action=argparse.BooleanOptionalAction)
    parser.add_argument("-tp", "--tensor-parallel-size", type=int)
    parser.add_argument("--names", nargs="+")
    parser.add_argument("--middleware", action="append")
    parser.add_argument("--level", choices=["low", "high"], nargs="?")
    flags = from_parser("1.2.3", parser._actions)
    assert flags.flags == (
        Flag(("--eager", "--no-eager"), "none"),
        Flag(("--tensor-parallel-size", "-tp"), "one"),
        Flag(("--names",), "many"),
        Flag(("--middleware",), "one", repeatable=True),
        Flag(("--level",), "optional", choices=("low", "high")),
    )
    file = tmp_path / "flags.json"
    file.write_text(flags.to_json(), "utf-8")
    assert read(file) == flags


@pytest.mark.parametrize("text", [None, "", "[]", '{"version": 1}', '{"version": "1", "flags": [{}]}'])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "flags.json"
    if text is not None:
        file.write_text(text, "utf-8")
    with pytest.raises(FlagsError, match=r"flags\.json: .*build the image again"):
        read(file)


def test_a_base_without_vllm_fails_the_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert record.main() == 2
    assert capsys.readouterr().err.startswith("servegate: the base image's vLLM does not say which flags it has: ")


def test_an_image_of_two_versions_is_refused() -> None:
    flags = Flags("0.29.0+cpu", ())
    check_version(flags, "0.29.0")
    check_version(flags, None)
    with pytest.raises(FlagsError, match=r"has vLLM 0\.30\.0, but its flags were recorded from 0\.29\.0\+cpu"):
        check_version(flags, "0.30.0")
