"""Verdicts as a rollout asks for them: refused with a reason, relaxed for a way back, overridden in writing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from verdicts import NOW, key_pair, release, signed, verdict

from servegate.errors import ExitCode, InfrastructureError, NoVerdictError
from servegate.gates.trust import load_trust
from servegate.pipeline.verdicts import RefusedError, Verdicts, files
from servegate.report.verdict import Outcome, Verdict

RELEASE = release(image=None)


def desk(folder: Path, *given: Verdict, **rules: object) -> Verdicts:
    key, public = key_pair(folder)
    document = {"version": 1, "name": "t", "signers": [{"name": "desk", "key": public.name}], **rules}
    (folder / "trust.yaml").write_text(yaml.safe_dump(document))
    (folder / "signed").mkdir()
    for number, item in enumerate(given):
        (folder / "signed" / f"{number}.json").write_bytes(signed(item, RELEASE, key))
    return Verdicts(load_trust(folder / "trust.yaml"), files([folder / "signed"]), clock=lambda: NOW)


def test_a_pass_lets_a_rollout_begin(tmp_path: Path) -> None:
    good = verdict(RELEASE)
    verdicts = desk(tmp_path, good)
    verdicts.require(RELEASE)
    assert verdicts.find(RELEASE)(RELEASE.identity()) == good
    assert verdicts.find()(RELEASE.identity()) == good
    with pytest.raises(NoVerdictError, match="on other releases"):
        verdicts.find(RELEASE)("sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        ([], ExitCode.NO_VERDICT, "none was found"),
        ([verdict(RELEASE, Outcome.FAIL)], ExitCode.GATE_FAILED, "the latest verdict is FAIL"),
        ([verdict(RELEASE, Outcome.VOID)], ExitCode.NO_VERDICT, "the latest verdict is VOID"),
        ([verdict(RELEASE, decided=NOW - 9000)], ExitCode.NO_VERDICT, "2 h 30 min old; at most 2h counts"),
    ],
)
def test_all_else_is_refused_with_its_exit_code(
    tmp_path: Path, given: list[Verdict], code: ExitCode, says: str
) -> None:
    verdicts = desk(tmp_path, *given, max_age="2h")
    with pytest.raises(RefusedError, match=f"v1.4.0 .* is not rolled out: .*{says}") as error:
        verdicts.require(RELEASE)
    assert error.value.exit_code is code
    if code is ExitCode.GATE_FAILED:
        found = verdicts.find(RELEASE)(RELEASE.identity())
        assert found is not None
        assert found.outcome is Outcome.FAIL  # the rollout says that it failed, not that it is missing
    else:
        with pytest.raises(NoVerdictError, match=says):
            verdicts.find(RELEASE)(RELEASE.identity())


def test_a_way_back_needs_only_a_pass_of_its_time_and_is_written_down(tmp_path: Path) -> None:
    old = verdict(RELEASE, decided=NOW - 400 * 86400)
    verdicts = desk(tmp_path, old, verdict(RELEASE, Outcome.FAIL), max_age="2h")
    audit = tmp_path / "emergencies.jsonl"
    assert verdicts.past(audit)(RELEASE, "kim@desk", "5xx") == old
    line = json.loads(audit.read_text())
    assert (line["event"], line["by"], line["reason"], line["at"]) == ("emergency", "kim@desk", "5xx", NOW)
    with pytest.raises(InfrastructureError, match="what cannot be written down is not done"):
        verdicts.past(tmp_path)(RELEASE, "kim@desk", "5xx")


def test_an_override_is_a_persons_word_and_says_so(tmp_path: Path) -> None:
    verdicts, audit = desk(tmp_path, verdict(RELEASE, Outcome.FAIL)), tmp_path / "emergencies.jsonl"
    with pytest.raises(NoVerdictError, match="no verdict was a pass"):
        verdicts.past(audit)(RELEASE, "kim@desk", "5xx")
    found = verdicts.past(audit, override=True)(RELEASE, "kim@desk", "5xx")
    assert found is not None
    assert (found.outcome, found.policy, found.decided_by) == (Outcome.PASS, "override", "kim@desk")
    (check,) = found.results
    assert check.outcome is Outcome.VOID
    assert "overridden by kim@desk: 5xx; the rules had said: no verdict was a pass" in check.message
    events = [json.loads(line)["event"] for line in audit.read_text().splitlines()]
    assert events == ["emergency", "override"]
