"""The edge of the gate: policies, reports and releases come from files here, and only here."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from servegate.config import load, parse, validate
from servegate.contract import sha256_file
from servegate.endpoint import EndpointFacts
from servegate.errors import ConfigError
from servegate.garbage import collection_paused
from servegate.gates import baseline_files
from servegate.gates.evaluate import evaluate
from servegate.gates.place import lines_of, place
from servegate.gates.policy import Policy
from servegate.release import Release
from servegate.report.backing import Backing
from servegate.report.model import Report, Samples, Subject
from servegate.report.records import EvalRecord, read_records, write_records
from servegate.report.verdict import Verdict

if TYPE_CHECKING:  # only `gate plan` needs the statistics of planning, and they take long to import
    from servegate.gates.plan import Planned

_MAX_FOREIGN = 256 * 2**20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def decide(
    policy: Path,
    reports: Sequence[Path],
    baselines: Sequence[Path],
    release: str | None,
    *,
    now: float,
    answers: bool = False,
) -> tuple[Verdict, Backing]:
    """Read everything a verdict needs and judge it.

    Args:
        policy: policy file.
        reports: report files of the candidate.
        baselines: report files of the release to compare with, or a folder of baselines; none: the folder at its
            usual place, where a check needs one.
        release: release file or digest; None: the one the reports are of.
        now: seconds since the Unix epoch.
        answers: read the answers even where nothing is compared, for views that show them.

    Returns:
        The verdict and what it rests on.

    Raises:
        ConfigError: a file is wrong, or the question makes no sense (see `evaluate`).
    """
    with collection_paused():
        rules, lines = load_placed(policy)
        given = load_reports(reports)
        before, known = load_compared(rules, baselines, answers=answers)
        if answers or _compares(rules):
            known |= load_answers(reports, given)
        judged = None if release is None else load_release(release)
        verdict = evaluate(rules, given, before, answers=known, release=judged, now=now, decided_by=decider())
        return place(verdict, policy, lines), Backing(given, before, known)


def _compares(policy: Policy) -> bool:
    return any(check.baseline is not None for check in policy.checks)


def load_compared(
    policy: Policy, baselines: Sequence[Path], *, answers: bool = False
) -> tuple[list[Report], dict[str, list[EvalRecord]]]:
    """The reports a policy compares with, and the answers behind them.

    Args:
        baselines: report files, or a folder of baselines; none: the folder at its usual place, where a check needs one.
        answers: read the answers even where nothing is compared.

    Raises:
        ConfigError: a file is wrong, or a folder holds no baselines.
    """
    compares = _compares(policy)
    files = baseline_files.found(baselines).reports if baselines or compares else ()
    found = load_reports(files)
    return found, load_answers(files, found) if answers or compares else {}


def adapt(
    tool: str, path: Path, output: Path, *, name: str | None, release: str | None, endpoint: str | None
) -> Report:
    """Turn another tool's result file into a report, and write it with the answers the tool kept.

    Args:
        tool: a key of `FORMATS`.
        path: the tool's file.
        output: where the report goes; answers go beside it.
        name: of the report; None: the tool's.
        release: release file or digest that was measured.
        endpoint: URL that was measured; None: the one the file names.

    Raises:
        ConfigError: not such a file, or nobody says what was measured.
    """
    from servegate.gates.adapters import lm_eval, read
    from servegate.gates.adapters.common import Source, as_report, guarded

    pattern = lm_eval.companions(path.name) if tool == "lm-eval" else None
    beside = sorted(path.parent.glob(pattern)) if pattern else []
    data = _bytes(path)
    source = Source(str(path), data, path.stat().st_mtime, {item.name: _bytes(item) for item in beside})
    found = read(tool, source)
    judged = None if release is None else load_release(release)
    url = endpoint or found.url
    if judged is None and url is None:
        raise ConfigError(f"{path}: the file does not say what was measured: give --release or --endpoint")
    samples = None
    if found.records:
        sidecar = output.with_suffix(".answers.jsonl")
        digest = write_records(sidecar, found.records)
        samples = Samples(path=sidecar.name, sha256=digest, record="EvalRecord", n=len(found.records))
    subject = Subject(
        release=judged.identity() if isinstance(judged, Release) else judged,
        name=judged.name if isinstance(judged, Release) else None,
        endpoint=None if url is None else EndpointFacts(url=url, model=found.model),
    )
    with guarded(source, tool):
        report = as_report(found, name or tool, subject, samples)
    report.write(output)
    return report


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FOREIGN:
            raise ConfigError(f"{path}: larger than {_MAX_FOREIGN // 2**20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def foresee(policy: Path, baselines: Sequence[Path], again: Sequence[Path]) -> list[Planned]:
    """Read everything a plan needs and plan it.

    Args:
        policy: policy file.
        baselines: report files of the model as it is, or a folder of baselines; none: the folder at its usual place.
        again: report files of a second run of the same model.

    Raises:
        ConfigError: a file is wrong, or two reports fit where one is meant.
    """
    from servegate.gates.plan import plan

    known = baseline_files.found(baselines)
    files, more = known.reports, [*again, *(() if again else known.again)]
    first, second = load_reports(files), load_reports(more)
    answers = load_answers([*files, *more], [*first, *second])
    return plan(load_policy(policy), first, second, answers=answers, noise=known.noise)


def load_policy(path: Path) -> Policy:
    """Read a policy. Raises ConfigError with file, line and the nearest key."""
    return load_placed(path)[0]


def load_placed(path: Path) -> tuple[Policy, dict[str, int]]:
    """Read a policy and the line of each of its checks. Raises ConfigError with file, line and the nearest key."""
    data, lines = parse(path)
    return validate(data, Policy, str(path), lines), lines_of(data, lines)


def load_reports(paths: Sequence[Path]) -> list[Report]:
    """Read reports. Raises ConfigError naming the file that is not one."""
    return [Report.read(path) for path in paths]


def load_backing(reports: Sequence[Path], baselines: Sequence[Path]) -> Backing:
    """Read what a verdict rests on, for views that show more than the verdict holds. Raises ConfigError."""
    files = baseline_files.found(baselines).reports if baselines else ()
    given, before = load_reports(reports), load_reports(files)
    return Backing(given, before, load_answers([*reports, *files], [*given, *before]))


def load_answers(paths: Sequence[Path], reports: Sequence[Report]) -> dict[str, list[EvalRecord]]:
    """Read the answers behind reports, by digest of their sidecar.

    A sidecar that is not there is left out: the gate then compares without pairs, and says so.

    Raises:
        ConfigError: a sidecar lies outside the report's folder, has changed since, or is no such file.
    """
    answers = {}
    for path, report in zip(paths, reports, strict=True):
        for samples in report.samples:
            if samples.record != "EvalRecord":
                continue
            if Path(samples.path).is_absolute() or ".." in Path(samples.path).parts:
                raise ConfigError(f"{path}: answers {samples.path!r} lie outside the report's folder")
            sidecar = path.parent / samples.path
            if not sidecar.is_file():
                continue
            if sha256_file(sidecar) != samples.sha256:
                raise ConfigError(f"{sidecar}: has changed since {path} was written")
            answers[samples.sha256] = list(read_records(sidecar, EvalRecord))
    return answers


def load_release(text: str) -> Release | str:
    """A release file, or a digest `sha256:…` as it is.

    Raises:
        ConfigError: neither.
    """
    if _DIGEST.fullmatch(text):
        return text
    if text.startswith("sha256:"):
        raise ConfigError(f"{text[:80]!r} is not a digest: sha256: and 64 hex digits")
    return load(Path(text), Release)


def asker() -> str:
    """Who asks for something, for the record: who started the workflow, else the user."""
    env = os.environ
    return env["GITHUB_ACTOR"] if env.get("GITHUB_ACTIONS") == "true" and env.get("GITHUB_ACTOR") else decider()


def decider() -> str:
    """Who runs the gate, for the verdict: the workflow run where there is one, else the user."""
    env = os.environ
    if env.get("GITHUB_ACTIONS") == "true":
        return f"{env.get('GITHUB_REPOSITORY', '?')} {env.get('GITHUB_WORKFLOW', '?')} #{env.get('GITHUB_RUN_ID', '?')}"
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"
