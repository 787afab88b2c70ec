"""Before a rollout begins: do the engines count what its plan judges?"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from decide_bench import plan

from servegate.cli.rollout.common import check_source
from servegate.errors import ConfigError
from servegate.rollout.sources.combined import CombinedSource
from servegate.rollout.sources.direct import DirectSource, Target

WITHOUT_TTFT = b"""\
# TYPE http_requests_total counter
# TYPE vllm:time_to_first_token_s histogram
"""


@pytest.fixture
def engine() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(WITHOUT_TTFT)))
            self.end_headers()
            self.wfile.write(WITHOUT_TTFT)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(60)
    server.server_close()


def test_a_plan_that_judges_what_the_engine_does_not_count_is_refused_by_name(engine: str) -> None:
    source = DirectSource(lambda: [Target("blue/0", "blue", engine)])
    for asked in (source, CombinedSource(DirectSource(tuple), source)):
        with pytest.raises(ConfigError, match="nearest that it does export: vllm:time_to_first_token_s") as refused:
            check_source(asked, plan())
        assert "blue/0 does not export ttft: looked for vllm:time_to_first_token_seconds" in str(refused.value)
    errors = [{"kind": "errors-vs-stable", "name": "errors", "share": "100%"}]
    check_source(source, plan(checks=errors))
    events = [*errors, {"kind": "events-vs-stable", "name": "full", "share": "0%", "event": "rejections"}]
    events = [{**events[0], "share": "50%"}, {**events[1], "share": "50%"}]
    with pytest.raises(ConfigError, match="does not export rejected: looked for vllm:admission_rejections_total"):
        check_source(source, plan(checks=events))
    source.close()
