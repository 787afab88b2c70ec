"""Reports and verdicts as they could have been, with everything a page can show, and with foreign text in them."""

from __future__ import annotations

import math
from typing import Any, Literal

from servegate.release import Engine, Model, Release
from servegate.report.backing import Backing
from servegate.report.canary import (
    AlertTaken,
    CanaryStory,
    Guarded,
    MetricSeen,
    Proof,
    ProofPoint,
    SampleRatio,
    Trial,
    Watch,
    WayBack,
)
from servegate.report.model import Conditions, Finding, Interval, Measure, Report, Samples, Subject
from servegate.report.records import EvalRecord, Evidence
from servegate.report.verdict import CheckResult, Discordant, Outcome, Verdict

START = 1_790_000_000.0
HASH = "sha256:" + "4b" * 32

# Text as a hostile model, dataset or pull request would have it.
HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)> &amp; {{ 7*7 }} {% raw %}',
    "‮evil⁦ RTL \x1b[31mred\x1b[0m \x00\x07 \ud800",
    "a|b `code` *bold* [link](https://evil.example/x) @team #12 $x$",
    "::error file=x::gotcha\n::set-output name=a::b\r##[error]x",
    "]]> <!-- --> <![CDATA[ &#0; \ufffe",
    "한국어 답변: 환불은 7일 이내에 가능합니다. עברית العربية",
    "Z̢̛" + "̢" * 200,
)


def make_release(name: str) -> Release:
    return Release(
        name=name,
        model=Model(uri="builtin://knowledge", served_name="helpdesk"),
        engine=Engine(name="simulator", version="0.1.0"),
        args=("--max-num-seqs", "16"),
    )


def make_verdict(outcome: Outcome = Outcome.PASS, message: str = "p95 of TTFT is 431 ms, at most 800 ms") -> Verdict:
    results = (
        CheckResult(
            check="accuracy",
            outcome=Outcome.PASS,
            effect=Outcome.PASS,
            measure="accuracy.mean",
            value=0.9634,
            unit="fraction",
            n=82,
            interval=Interval(low=0.898, high=0.987, level=0.95, method="wilson"),
            threshold=0.85,
            comparison=">=",
            mde=0.04,
            message="accuracy is 96.3 %, at least 85 %",
        ),
        CheckResult(
            check="ttft-p95",
            outcome=outcome,
            effect=outcome,
            measure="ttft.p95",
            value=0.4314,
            unit="seconds",
            n=1196,
            interval=Interval(low=0.412, high=0.466, level=0.95, method="order-statistic"),
            threshold=0.8,
            comparison="<=",
            message=message,
        ),
        CheckResult(
            check="goodput",
            outcome=Outcome.INCONCLUSIVE,
            effect=Outcome.PASS,
            severity="warn",
            measure="goodput.rate",
            value=None,
            unit="fraction",
            threshold=0.95,
            comparison=">=",
            message="goodput was not measured",
        ),
    )
    return Verdict(
        outcome=outcome,
        release=HASH,
        release_name="v1.2.0",
        policy="release",
        policy_sha256=HASH,
        reports=(HASH,),
        results=results,
        decided_at=START - 5,
        decided_by="make demo",
        tool="servegate 0.1.0",
    )


def make_reports(name: str) -> tuple[Report, ...]:
    subject = Subject(release=HASH, name=name)

    def score(slice_: str, right: int, n: int) -> Measure:
        p = right / n
        half = 1.96 * math.sqrt(max(p * (1 - p), 0.01) / n)
        return Measure(
            name="accuracy",
            statistic="mean",
            slice=slice_,
            value=p,
            unit="fraction",
            n=n,
            attempted=n,
            better="higher",
            interval=Interval(low=max(0, p - half), high=min(1, p + half), level=0.95, method="wilson"),
        )

    def quantile(measure: str, statistic: str, value: float) -> Measure:
        interval = Interval(low=value * 0.95, high=value * 1.06, level=0.95, method="order-statistic")
        return Measure(
            name=measure, statistic=statistic, value=value, unit="seconds", n=1196, attempted=1200, interval=interval
        )

    def passed(check: str, value: float | None, message: str) -> tuple[Measure, Measure, Finding]:
        n = int(value is not None)
        held = Measure(
            name="smoke", statistic="passed", slice=f"check={check}", value=value, unit="fraction", n=n, attempted=1
        )
        took = Measure(
            name="duration",
            statistic="total",
            slice=f"check={check}",
            value=0.13 if n else None,
            unit="seconds",
            n=n,
            attempted=1,
        )
        kind: Literal["info", "error"] = "info" if value else "error"
        return held, took, Finding(severity=kind, code=f"{check}-{'ok' if value else 'failed'}", message=message)

    checks = [
        passed("up", 1.0, "/health answers 200"),
        passed("streams", 1.0, "19 chunks"),
        passed("stops", None, "not run"),
    ]
    smoke = Report(
        kind="smoke",
        name="smoke",
        subject=subject,
        started=START - 120,
        finished=START - 119.2,
        tool="servegate 0.1.0",
        measures=(
            Measure(name="smoke", statistic="passed", value=2 / 3, unit="fraction", n=2, attempted=3),
            *(measure for held, took, _ in checks for measure in (held, took)),
        ),
        findings=tuple(finding for *_, finding in checks),
    )
    evals = Report(
        kind="eval",
        name="helpdesk",
        subject=subject,
        started=START - 119,
        finished=START - 90,
        tool="servegate 0.1.0",
        conditions=Conditions(dataset_sha256=HASH, seed=7, temperature=0.0, concurrency=8),
        measures=(
            score("", 79, 82),
            score("tags=refund", 19, 20),
            score("tags=shipping", 20, 20),
            score("tags=korean", 39, 41),
            score("tags=json", 9, 10),
        ),
    )
    load = Report(
        kind="load",
        name="steady",
        subject=subject,
        started=START - 90,
        finished=START - 30,
        tool="servegate 0.1.0",
        conditions=Conditions(profile_sha256=HASH, seed=7, client="locust 2.47"),
        measures=(
            *(quantile("ttft", s, v) for s, v in (("p50", 0.1843), ("p95", 0.4314), ("p99", 0.722))),
            *(quantile("itl", s, v) for s, v in (("p50", 0.0112), ("p95", 0.0179), ("p99", 0.0264))),
            *(quantile("e2e_latency", s, v) for s, v in (("p50", 1.204), ("p95", 2.87), ("p99", 11.31))),
            Measure(
                name="output_throughput", statistic="rate", value=1843.2, unit="tokens/second", n=1196, attempted=1200
            ),
            Measure(name="error_rate", statistic="rate", value=4 / 1200, unit="fraction", n=1200, attempted=1200),
            Measure(name="goodput", statistic="rate", value=None, unit="fraction", n=0, attempted=1200),
        ),
        findings=(Finding(severity="warning", code="late-sends", message="4 requests were sent more than 5 ms late"),),
    )
    return smoke, evals, load


def make_answers() -> tuple[EvalRecord, ...]:
    rows = [
        ("refund-07", 0.0, "7 days", "14 days", ""),
        ("json-03", 0.0, '{"order": 12}', "order 12", ""),
        ("ko-31", None, "환불", None, "timeout after 30 s"),
    ]
    return tuple(
        EvalRecord(
            id=id_,
            tags=("refund", "korean"),
            item_sha256=HASH,
            scorer="exact",
            score=score,
            target=target,
            answer=answer,
            reason="" if error else "is not the wanted text",
            error=error or None,
        )
        for id_, score, target, answer, error in rows
    )


def make_compared(text: str = "Your order ships tomorrow.", checks: int = 1) -> tuple[Verdict, Backing]:
    """A verdict that failed against a baseline, with what it rests on; `text` stands wherever foreign text may."""
    text = text.encode(errors="replace").decode()  # what was read from a file has no lone surrogates
    records = {
        who: tuple(
            EvalRecord(
                id=f"refund-{index:02}" if index else text[:500],
                item_sha256=HASH,
                scorer="exact",
                score=score,
                target=text,
                answer=text,
            )
            for index in range(12)
        )
        for who, score in (("new", 0.0), ("old", 1.0))
    }
    digests = {"new": "sha256:" + "11" * 32, "old": "sha256:" + "22" * 32}
    _, suite, load = make_reports("v1.2.0")
    new, old = (
        suite.model_copy(
            update={
                "name": text,
                "tool": text,
                "subject": Subject(release=HASH, name=name[:500]),
                "samples": (Samples(path="a.jsonl", sha256=digests[who], record="EvalRecord", n=12),),
                "conditions": Conditions(dataset_sha256=HASH, seed=7, client=text, other={text[:50] or "x": text}),
            }
        )
        for who, name in (("new", "v1.2.0"), ("old", text))
    )
    load = load.model_copy(update={"findings": (Finding(severity="warning", code="late-sends", message=text),)})
    against = CheckResult(
        check="not-worse",
        outcome=Outcome.FAIL,
        effect=Outcome.FAIL,
        measure="accuracy.mean",
        report=new.identity(),
        value=0.805,
        unit="fraction",
        n=400,
        threshold=0.875,
        comparison=">=",
        baseline=0.905,
        baseline_report=old.identity(),
        delta=-0.1,
        delta_interval=Interval(low=-0.138, high=-0.087, level=0.9, method="tango"),
        mde=0.0537,
        lost=44,
        won=1,
        discordant=tuple(Discordant(id=record.id, baseline=1, candidate=0) for record in records["new"]),
        line=8,
        message=f"accuracy 80.5 % against 90.5 %: worse than a loss of 3pp; {text}",
    )
    foreign = (
        make_verdict(Outcome.INCONCLUSIVE, text)
        .results[1]
        .model_copy(update={"check": text, "measure": text, "effect": Outcome.PASS, "severity": "warn", "line": 12})
    )
    slower = against.model_copy(
        update={
            "check": "ttft-not-slower", "outcome": Outcome.PASS, "effect": Outcome.PASS, "measure": "ttft.p95",
            "value": 0.44, "unit": "seconds", "threshold": 0.48, "comparison": "<=", "baseline": 0.43, "delta": 0.01,
            "delta_interval": Interval(low=-0.012, high=0.031, level=0.9, method="mover"), "mde": 0.02, "line": 14,
            "lost": None, "won": None, "discordant": (), "message": "TTFT p95 440 ms against 430 ms",
        }
    )  # fmt: skip
    many = tuple(against.model_copy(update={"check": f"not-worse-{index}"}) for index in range(1, checks))
    verdict = make_verdict().model_copy(
        update={
            "outcome": Outcome.FAIL,
            "release_name": text,
            "policy": text,
            "policy_file": text,
            "decided_by": text,
            "tool": text,
            "results": (*make_verdict().results, foreign, slower, against, *many),
        }
    )
    answers = {digests[who]: rows for who, rows in records.items()}
    return verdict, Backing(reports=(new, load), baselines=(old,), answers=answers)


def make_ended(text: str) -> Report:
    """The report of a canary with all there can be beyond numbers, and foreign text wherever it can stand."""
    points = (
        ProofPoint(what="weights", outcome="PASS", found="the router serves blue with 100 %"),
        ProofPoint(what="answers", outcome="PASS", found="1,231 of 1,260 requests were answered in 30 s"),
        ProofPoint(what="errors", outcome="FAIL", found=f"29 of 1,260 failed (2.3 %), 1 % is normal: {text}"),
    )
    guarded = Guarded(
        release="v2", slot="green", since=START + 600, until=START + 2400,
        evidence=(
            Evidence(check="errors-slo", log_e=2.1, log_limit=4.6), Evidence(check=text[:80], log_e=5, log_limit=4.6),
        ),
    )  # fmt: skip
    metric: dict[str, Any] = {
        "better": "higher",
        "level": 0.95,
        "stable": 0.4123,
        "candidate": 0.4391,
        "effect": 0.0268,
    }
    return Report(
        kind="canary", name="careful", subject=Subject(release=HASH, name="v2"), started=START, finished=START + 2500,
        tool="servegate 0.1.0",
        canary=CanaryStory(
            way_back=WayBack(
                decided=START + 2000, why=f"alert {text}", effective=START + 2005, ended=START + 2300,
                proof=Proof(to="v1", slot="blue", points=points, todo=f"look at what both slots share: {text}"),
            ),
            watch=Watch(
                guarded=guarded, outcome="FAIL", ended=START + 2000, decision=f"alert {text}",
                alerts=(
                    AlertTaken(at=START + 900, kind="freeze", text=text, outcome="paused"),
                    AlertTaken(at=START + 960, kind="resolved", text=text, outcome="goes on"),
                    AlertTaken(at=START + 2000, kind="rollback", text=text, outcome="rolling back"),
                ),
            ),
            experiment=Trial(
                hypothesis=text, horizon="sequential", users={"blue": 8312, "green": 8290}, wanted=20_000,
                ratio=SampleRatio(planned=0.5, found=0.4993, outcome="PASS", text="4 % of the evidence"),
                metrics=(
                    MetricSeen(
                        name="accepted", primary=True, bound=0.02, low=0.011, high=0.043, outcome="PASS", **metric
                    ),
                    MetricSeen(name=text[:80], primary=False, bound=0.01, outcome="INCONCLUSIVE", **metric),
                ),
                outcome="PASS", decision=f"accepted: better; {text}",
            ),
        ),
    )  # fmt: skip
