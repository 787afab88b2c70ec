"""The runner against real servers on loopback that misbehave in every way we know."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from servegate.endpoint import Endpoint
from servegate.errors import ConfigError, InfrastructureError
from servegate.evals import runner
from servegate.evals.journal import RECORDS, REPORT
from servegate.evals.runner import Progress, run
from servegate.evals.scorers import bounded
from servegate.evals.suite import Suite, load_suite
from servegate.report.model import Report, Subject
from servegate.report.records import EvalRecord, read_records

HASH = "sha256:" + "1" * 64
Answer = tuple[int, bytes | str | dict[str, Any]]


class Server:
    """A server that answers as `script` says, given the request and how many came before."""

    def __init__(self, script: Callable[[dict[str, Any], int], Answer]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.open = threading.Event()
        self.most_at_once = self.at_once = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = {"data": [{"id": "m"}], "version": "9.9"}
                self.reply(200, json.dumps(body).encode(), "application/json")

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.requests)
                    outer.requests.append({**request, "path": self.path, "key": self.headers["Authorization"]})
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                try:
                    status, answer = script(request, number)
                finally:
                    with lock:
                        outer.at_once -= 1
                if status == 0:  # hang up
                    self.close_connection = True
                    return
                kind = "text/html" if isinstance(answer, str) else "application/json"
                raw = answer if isinstance(answer, bytes) else answer.encode() if isinstance(answer, str) else None
                self.reply(status, json.dumps(answer).encode() if raw is None else raw, kind)

            def reply(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Clients that give up are part of the tests."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.endpoint = Endpoint(f"http://127.0.0.1:{self.http.server_port}")


@contextmanager
def serving(script: Callable[[dict[str, Any], int], Answer]) -> Iterator[Server]:
    server = Server(script)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.open.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def says(text: str | None, **more: Any) -> Answer:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
    return 200, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def suite_of(folder: Path, count: int, options: str = "", **fields: Any) -> Suite:
    rows = [{"id": f"q{n}", "input": f"say {n}", "target": str(n), "tags": ["t"], **fields} for n in range(count)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "suite.yaml").write_text(f"version: 1\nname: s\ndataset: data.jsonl\nretries: 0\n{options}")
    return load_suite(folder / "suite.yaml")


def echo(request: dict[str, Any], _: int) -> Answer:
    return says(request["messages"][-1]["content"].removeprefix("say "))


def records(folder: Path) -> list[EvalRecord]:
    return list(read_records(folder / RECORDS, EvalRecord))


def codes(report: Report) -> list[str]:
    return [finding.code for finding in report.findings]


def accuracy(report: Report) -> tuple[Any, int, int]:
    measure = report.measure("accuracy.mean")
    assert measure is not None
    return measure.value, measure.n, measure.attempted


def test_a_healthy_run(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, 12, "concurrency: 3\nsystem: be brief\nrequest: {max_tokens: 9, seed: 5}\n")
    seen: list[Progress] = []
    with serving(lambda r, n: says("wrong") if r["messages"][-1]["content"] == "say 4" else echo(r, n)) as server:
        report = run(suite, server.endpoint, tmp_path / "out", progress=seen.append)
    assert report.void is None
    assert accuracy(report) == (pytest.approx(11 / 12), 12, 12)
    assert report.subject.endpoint is not None
    assert (report.subject.endpoint.model, report.subject.endpoint.version) == ("m", "9.9")
    assert Report.read(tmp_path / "out" / REPORT) == report
    kept = records(tmp_path / "out")
    assert [record.id for record in kept] == [f"q{n}" for n in range(12)]
    assert kept[4].score == 0
    assert kept[4].reason == "said 'wrong', not '4'"
    assert kept[0].output_tokens == 3
    assert kept[0].e2e_latency is not None
    assert report.samples[0].n == 12
    assert server.most_at_once <= 3
    first = server.requests[0]
    assert first["path"] == "/v1/chat/completions"
    assert {key: first[key] for key in ("model", "temperature", "max_tokens", "seed")} == {
        "model": "m",
        "temperature": 0,
        "max_tokens": 9,
        "seed": 5,
    }
    assert first["messages"][0] == {"role": "system", "content": "be brief"}
    assert seen[0].done == 0
    assert seen[-1].done == seen[-1].total == 12
    assert report.conditions.dataset_sha256 == suite.dataset_sha256


def test_the_release_is_the_subject_and_the_key_is_sent(tmp_path: Path) -> None:
    with serving(echo) as server:
        endpoint = Endpoint(server.endpoint.url, "m", "secret-key")
        report = run(suite_of(tmp_path, 1), endpoint, tmp_path / "out", subject=Subject(release=HASH, name="v2"))
    assert (report.subject.release, report.subject.name) == (HASH, "v2")
    assert report.subject.endpoint is not None
    assert server.requests[0]["key"] == "Bearer secret-key"
    assert b"secret-key" not in b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_repeats_get_seeds_of_their_own(tmp_path: Path) -> None:
    with serving(echo) as server:
        report = run(suite_of(tmp_path, 2, "repeats: 3\nrequest: {seed: 10}\n"), server.endpoint, tmp_path / "out")
    assert sorted(request["seed"] for request in server.requests) == [10, 10, 11, 11, 12, 12]
    assert accuracy(report) == (1.0, 6, 6)
    measure = report.measure("accuracy.mean")
    assert measure is not None
    assert measure.interval is not None
    assert measure.interval.low < 0.4  # two items, however often they are asked


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((500, {"error": {"message": "boom \x1b[31m"}}), "http_500: "),
        ((503, b""), "http_503: "),
        ((429, {"error": {"message": "slow down"}}), "http_429: "),
        ((401, {"error": {"message": "who are you"}}), "http_401: "),
        ((302, b""), "http_302: "),
        ((200, "<html>log in</html>"), "bad_answer: HTML that is not JSON"),
        ((200, b"\xff\xfe"), "bad_answer: something that is not JSON"),
        ((200, {"choices": []}), "bad_answer: JSON that is not a chat completion"),
        ((200, {"choices": [{"message": {"content": 7}}]}), "bad_answer: a chat completion whose content is not text"),
        ((200, b"[" * 100_000), "bad_answer: "),
        ((200, b"[" + b" " * (5 * 1024 * 1024) + b"]"), "bad_answer: an answer of more than 4194304 bytes"),
        ((0, b""), "connect: "),
    ],
)
def test_a_dead_endpoint_ends_the_run_and_no_score_is_invented(tmp_path: Path, answer: Answer, error: str) -> None:
    with serving(lambda *_: answer) as server:
        report = run(suite_of(tmp_path, 40, "concurrency: 2\n"), server.endpoint, tmp_path / "out")
    assert codes(report)[:2] == ["endpoint-died", "nothing-measured"]
    assert report.void is not None
    assert accuracy(report) == (None, 0, 40)
    kept = records(tmp_path / "out")
    assert 5 <= len(kept) <= 7
    assert len(server.requests) <= 8
    for record in kept:
        assert record.score is None
        assert record.error is not None
        assert record.error.startswith(error)
        assert record.error.isprintable()


def test_a_stalled_endpoint_ends_after_the_timeout(tmp_path: Path) -> None:
    with serving(lambda *_: (server.open.wait(30), says("late"))[1]) as server:
        report = run(suite_of(tmp_path, 40, "concurrency: 5\ntimeout: 0.3\n"), server.endpoint, tmp_path / "out")
    assert codes(report)[0] == "endpoint-died"
    assert "timeout: no answer within 0.3 s" in (records(tmp_path / "out")[0].error or "")


def test_an_endpoint_that_dies_halfway(tmp_path: Path) -> None:
    with serving(lambda r, n: echo(r, n) if n < 10 else (500, b"")) as server:
        report = run(suite_of(tmp_path, 100, "concurrency: 1\n"), server.endpoint, tmp_path / "out")
    assert report.void is not None
    assert "stopped after 15 of 100 questions: 5 failures in a row" in report.void.message
    assert accuracy(report) == (1.0, 10, 100)
    assert len(server.requests) == 15


def test_refused_questions_do_not_end_the_run(tmp_path: Path) -> None:
    def script(request: dict[str, Any], number: int) -> Answer:
        long = int(request["messages"][-1]["content"].split()[1]) < 20
        return (400, {"error": {"message": "too long"}}) if long else echo(request, number)

    with serving(script) as server:
        report = run(suite_of(tmp_path, 60, "concurrency: 2\n"), server.endpoint, tmp_path / "out")
        allowed = run(suite_of(tmp_path, 60, "max_unanswered: 0.5\n"), server.endpoint, tmp_path / "out2")
    assert codes(report) == ["too-many-unanswered"]
    assert report.void is not None
    assert accuracy(report) == (1.0, 40, 60)
    assert codes(allowed) == ["unanswered"]
    assert allowed.void is None
    rate = allowed.measure("error_rate.rate")
    assert rate is not None
    assert rate.value == pytest.approx(1 / 3)


def test_what_the_infrastructure_spoiled_is_tried_again_and_its_latency_is_not_kept(tmp_path: Path) -> None:
    with serving(lambda r, n: (503, b"") if n == 0 else echo(r, n)) as server:
        suite = suite_of(tmp_path, 1, "")
        suite = Suite(suite.config.model_copy(update={"retries": 1}), suite.tasks, suite.dataset_sha256, suite.sha256)
        report = run(suite, server.endpoint, tmp_path / "out")
    assert len(server.requests) == 2
    assert accuracy(report) == (1.0, 1, 1)
    assert records(tmp_path / "out")[0].e2e_latency is None


@pytest.mark.parametrize("text", [None, "", "  "])
def test_an_empty_answer_is_an_answer(tmp_path: Path, text: str | None) -> None:
    with serving(lambda *_: says(text, finish_reason="length")) as server:
        report = run(suite_of(tmp_path, 2), server.endpoint, tmp_path / "out")
    assert accuracy(report) == (0.0, 2, 2)
    assert records(tmp_path / "out")[0].reason == "empty answer"
    assert codes(report) == ["answers-cut-off"]


def test_hostile_answers_are_written_down(tmp_path: Path) -> None:
    body = (
        b'{"choices": [{"message": {"content": "\\ud83d \\u0000 \\u2028"}, "finish_reason": "st\\u001bop"}], "usage": '
    )
    with serving(lambda *_: (200, body + b'{"prompt_tokens": -1, "completion_tokens": 1e99}}')) as server:
        report = run(suite_of(tmp_path, 1), server.endpoint, tmp_path / "out")
    assert report.void is None
    (kept,) = records(tmp_path / "out")
    assert kept.answer == "? \0 \u2028"
    assert (kept.prompt_tokens, kept.output_tokens) == (None, None)
    assert kept.finish_reason is not None
    assert kept.finish_reason.isprintable()


def test_a_scorer_that_cannot_decide_gives_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = bounded.Helper(seconds=0.2)
    monkeypatch.setattr(bounded, "_HELPER", helper)
    suite = suite_of(tmp_path, 1, "scorer: {kind: regex}\n", target="(a|a)*$")
    with serving(lambda *_: says("a" * 60 + "b")) as server:
        report = run(suite, server.endpoint, tmp_path / "out")
    (kept,) = records(tmp_path / "out")
    assert kept.score is None
    assert kept.error is not None
    assert kept.error.startswith("scorer: search needed more than")
    assert codes(report) == ["nothing-measured"]
    helper.close()


def test_resuming_asks_only_what_is_missing(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, 20, "concurrency: 1\n")
    with serving(lambda r, n: echo(r, n) if n < 8 else (500, b"")) as server:
        first = run(suite, server.endpoint, tmp_path / "out")
    assert first.void is not None
    with serving(echo) as server:
        second = run(suite, server.endpoint, tmp_path / "out", resume=True)
    assert len(server.requests) == 12
    assert accuracy(second) == (1.0, 20, 20)
    assert second.void is None
    assert second.started <= first.started + 1
    with serving(echo) as server:
        third = run(suite, server.endpoint, tmp_path / "out", resume=True)
    assert server.requests == []
    assert third.measures == second.measures


def test_a_run_is_extended_by_items_then_by_repeats(tmp_path: Path) -> None:
    suite, out = suite_of(tmp_path, 10), tmp_path / "out"
    with serving(echo) as server:
        for answers, asked in ((4, 4), (8, 8), (10, 10), (25, 30), (30, 30)):
            report = run(suite.answering(answers), server.endpoint, out, extend=out.exists())
            assert accuracy(report)[1:] == (asked, asked)
            assert len(server.requests) == asked
            assert len({(record.id, record.repeat) for record in records(out)}) == asked
        with pytest.raises(ConfigError, match="asks for more already"):
            run(suite.answering(20), server.endpoint, out, extend=True)
        assert Report.read(out / REPORT) == report
        with pytest.raises(ConfigError, match="seed"):
            run(suite.with_seed(5).answering(40), server.endpoint, out, extend=True)


def test_another_dataset_is_not_resumed(tmp_path: Path) -> None:
    with serving(echo) as server:
        run(suite_of(tmp_path, 2), server.endpoint, tmp_path / "out")
        with pytest.raises(ConfigError, match="dataset_sha256"):
            run(suite_of(tmp_path, 3), server.endpoint, tmp_path / "out", resume=True)


def test_an_interrupt_leaves_a_void_report_that_can_be_resumed(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, 20, "concurrency: 1\n")

    def interrupt(progress: Progress) -> None:
        if progress.done == 6:
            raise KeyboardInterrupt

    with serving(echo) as server:
        with pytest.raises(KeyboardInterrupt):
            run(suite, server.endpoint, tmp_path / "out", progress=interrupt)
        report = Report.read(tmp_path / "out" / REPORT)
        assert codes(report) == ["interrupted"]
        assert report.void is not None
        assert accuracy(report) == (1.0, 6, 20)
        whole = run(suite, server.endpoint, tmp_path / "out", resume=True)
    assert len(server.requests) == 20
    assert accuracy(whole) == (1.0, 20, 20)


def test_an_error_on_our_side_is_not_hidden_in_a_group(tmp_path: Path) -> None:
    def fail(_: Progress) -> None:
        raise InfrastructureError("disk full")

    with serving(echo) as server, pytest.raises(InfrastructureError, match="disk full"):
        run(suite_of(tmp_path, 3), server.endpoint, tmp_path / "out", progress=fail)


def test_nobody_there(tmp_path: Path) -> None:
    with serving(echo) as server:
        endpoint = server.endpoint
    with pytest.raises(InfrastructureError, match="cannot connect"):
        run(suite_of(tmp_path, 1), endpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_model(tmp_path: Path) -> None:
    with serving(echo) as server, pytest.raises(InfrastructureError, match="does not serve model 'x'; it serves m"):
        run(suite_of(tmp_path, 1), Endpoint(server.endpoint.url, "x"), tmp_path / "out")


def test_an_interrupt_that_hits_a_task_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """A signal handler may raise in the middle of a task's step, and asyncio would tell of that task at its end."""

    async def hit() -> None:
        asyncio.get_running_loop().set_exception_handler(runner._unless_interrupted)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(struck())

    async def struck() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(hit())
    gc.collect()
    assert "KeyboardInterrupt" not in caplog.text
