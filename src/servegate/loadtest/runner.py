"""One measured run: start the load process, wait, read the records, write the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from servegate import __version__
from servegate.contract import sha256_file
from servegate.endpoint import Endpoint, EndpointFacts
from servegate.errors import InfrastructureError
from servegate.loadtest.launch import REPORT, LoadProcess
from servegate.loadtest.profile import LoadedProfile
from servegate.loadtest.sidecar import RecordTail
from servegate.loadtest.status import ClientStatus
from servegate.report.model import Conditions, Report, Samples, Subject
from servegate.report.records import RequestRecord

_POLL = 0.2
_MARGIN = 30.0


def run(
    loaded: LoadedProfile,
    endpoint: Endpoint,
    output: Path,
    *,
    subject: Subject | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Send a profile and measure it.

    Args:
        loaded: what to send; must have a duration.
        endpoint: where to.
        output: folder for report.json, records.jsonl, and the rest of the load process's files.
        subject: what is judged; default: what the endpoint says of itself.
        progress: told how far it is, several times a second.

    Returns:
        The report, also written to `output/report.json`. A void one says why in its findings.

    Raises:
        ConfigError: the profile has no end.
        InfrastructureError: the endpoint is down or serves other models, the load process broke, the disk is full.
            The records written until then are kept.
    """
    length = loaded.finite()
    facts = endpoint.describe()
    process = LoadProcess(loaded, Endpoint(endpoint.url, facts.model, endpoint.api_key), output)
    try:
        status = process.wait_started()
        tail = RecordTail(process.records)
        records = _follow(process, tail, status.started, length, loaded.profile.drain, progress)
        status = process.final()
        records += tail.new()
    except KeyboardInterrupt:
        process.stop()
        raise
    finally:
        process.ended()
    report = _report(loaded, facts, subject, records, status, _alive(endpoint), process.records)
    report.write(output / REPORT)
    return report


def _follow(
    process: LoadProcess,
    tail: RecordTail,
    started: float,
    length: float,
    drain: float,
    progress: Callable[[str], None],
) -> list[RequestRecord]:
    records: list[RequestRecord] = []
    failed = 0
    deadline = time.monotonic() + length + 2 * drain + _MARGIN
    while process.child.returncode is None:
        if time.monotonic() > deadline:
            raise InfrastructureError(f"the load process does not come to an end; log: {process.log}")
        new = tail.new()
        failed += sum(not record.ok for record in new)
        records += new
        status = process.status()
        elapsed = max(0.0, time.time() - started)
        in_flight = status.in_flight if status else 0
        where = f"{elapsed:.0f} of {length:.0f} s" if elapsed < length else "waiting for the last answers"
        counts = f"{len(records)} requests, " + (f"{failed} failed, " if failed else "") + f"{in_flight} open"
        progress(f"{where}, {counts}")
        process.child.wait(_POLL)
    return records


def _alive(endpoint: Endpoint) -> bool:
    try:
        return endpoint.get("/v1/models")[0] < 500
    except InfrastructureError:  # that is the answer
        return False


def _report(
    loaded: LoadedProfile,
    facts: EndpointFacts,
    subject: Subject | None,
    records: list[RequestRecord],
    status: ClientStatus,
    alive: bool,
    sidecar: Path,
) -> Report:
    # scipy comes with these: not before a run needs it.
    from servegate.loadtest.findings import findings
    from servegate.loadtest.measures import measures

    profile = loaded.profile
    if (status.profile_sha256, status.prompts_sha256) != (loaded.profile_sha256, loaded.prompts_sha256):
        raise InfrastructureError("the load process sent another profile than the one given")
    other = {"arrival": profile.arrival.kind, "rate": f"{profile.arrival.rate:g}/s"}
    if status.cpu is not None:
        other["client_cpu"] = f"{status.cpu:.2f} of a core"
    other["client_connections"] = str(status.connections)
    other["most_in_flight"] = str(status.most_in_flight)
    return Report(
        kind="load",
        name=profile.name,
        subject=subject or Subject(release=None, name=facts.model, endpoint=facts),
        conditions=Conditions(
            dataset_sha256=loaded.prompts_sha256,
            profile_sha256=loaded.profile_sha256,
            seed=profile.seed,
            temperature=profile.temperature,
            concurrency=None,
            client=status.client,
            other=other,
        ),
        started=status.started,
        finished=max([status.updated, status.started, *(record.done for record in records)]),
        tool=f"servegate {__version__}",
        measures=tuple(measures(records, profile, status.started)),
        samples=(Samples(path=sidecar.name, sha256=sha256_file(sidecar), record="RequestRecord", n=len(records)),),
        findings=tuple(findings(records, status, alive)),
    )
