"""A defect in front of an engine that has none: the container of a drill.

It stands between the slot's Service and the engine and passes everything on. A release whose environment has
SERVEGATE_FAULT, such as `errors:rate=0.3,after=20s`, gets that fault and no other release does: the same image, the
same model, and still a release that is broken, which a rollout has to find.

Users alone are hurt, which are those whose requests came through a gateway (X-Forwarded-For): a defect that the smoke
test would find says nothing about what comes after it. What is answered in the engine's place is added to the engine's
own count of answers in /metrics.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from servegate.simulator.faults import FaultError, Faults, FaultSpec, parse

if TYPE_CHECKING:
    from aiohttp import ClientSession, web

VARIABLE = "SERVEGATE_FAULT"
COUNTED = "http_requests_total"
SERVING = ("/v1/chat/completions", "/v1/completions")
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host"}
)
LARGEST_BODY = 64 * 1024 * 1024
USAGE = 2


def fault_of(release: Path) -> FaultSpec | None:
    """The fault that a release document asks for; None: it passes everything on.

    Raises:
        FaultError: the document cannot be read, or asks for a fault that cannot be made here.
    """
    try:
        text = json.loads(release.read_text("utf-8")).get("env", {}).get(VARIABLE)
    except (OSError, ValueError, AttributeError) as error:
        raise FaultError(f"{release}: is no release: {error}") from error
    if not text:
        return None
    spec = parse(str(text))
    if spec.kind != "errors":
        raise FaultError(f"{VARIABLE}: {spec.kind!r} cannot be made in front of an engine, only 'errors'")
    return spec


def counted(exposition: str, answered: dict[str, int]) -> str:
    """What /metrics says, with the errors (handler → number) that were answered in the engine's place.

    The label keeps them apart from the engine's own series of the same handler: no series may stand there twice.
    """
    added = [
        f'{COUNTED}{{handler="{handler}",method="POST",status="5xx",answered_by="fault"}} {float(number)}'
        for handler, number in sorted(answered.items())
    ]
    lines = exposition.splitlines()
    of_it = [
        index
        for index, line in enumerate(lines)
        if line.startswith((f"{COUNTED}{{", f"{COUNTED} ", f"# TYPE {COUNTED} "))
    ]
    at = of_it[-1] + 1 if of_it else len(lines)  # lines of one metric stand together
    head = [] if of_it or not added else [f"# TYPE {COUNTED} counter"]
    return "\n".join([*lines[:at], *head, *added, *lines[at:]]) + "\n"


class Proxy:
    """Passes requests on to an engine, and breaks those that the fault strikes.

    Args:
        engine: its URL.
        session: for requests to the engine; must not decompress answers.
    """

    def __init__(self, engine: str, session: ClientSession, fault: FaultSpec | None, seed: int = 0) -> None:
        self.engine, self.session = engine.rstrip("/"), session
        self.faults = Faults(seed, time.time)
        self.answered: dict[str, int] = {}
        if fault is not None:
            self.faults.add(fault)

    def application(self) -> web.Application:
        """Every path."""
        from aiohttp import web

        app = web.Application(client_max_size=LARGEST_BODY)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        return app

    async def _metrics(self, _request: web.Request) -> web.StreamResponse:
        from aiohttp import ClientError, web

        try:
            async with self.session.get(f"{self.engine}/metrics", auto_decompress=True) as found:
                text = await found.text()
        except ClientError as error:
            raise web.HTTPBadGateway(reason="the engine does not answer") from error
        if found.status != 200:
            return web.Response(status=found.status, text=text)
        kind = found.headers.get("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        return web.Response(body=counted(text, self.answered).encode(), headers={"Content-Type": kind})

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import ClientError, web

        body = await request.read()
        if request.method == "POST" and request.path in SERVING and "X-Forwarded-For" in request.headers:
            fault = self.faults.strike("errors")
            if fault is not None:
                self.faults.note(fault)
                self.answered[request.path] = self.answered.get(request.path, 0) + 1
                error = {"message": "a fault on purpose (drill)", "type": "InternalServerError", "code": 500}
                return web.json_response({"error": error}, status=500)
        headers = [(key, value) for key, value in request.headers.items() if key.lower() not in HOP_BY_HOP]
        began: web.StreamResponse | None = None
        try:
            async with self.session.request(
                request.method, f"{self.engine}{request.raw_path}", data=body, headers=headers, allow_redirects=False
            ) as found:
                began = web.StreamResponse(
                    status=found.status,
                    headers=[(key, value) for key, value in found.headers.items() if key.lower() not in HOP_BY_HOP],
                )
                await began.prepare(request)
                async for piece in found.content.iter_any():
                    await began.write(piece)
                await began.write_eof()
                return began
        except ClientError as error:
            if began is None:
                raise web.HTTPBadGateway(reason="the engine does not answer") from error
            if request.transport is not None:
                request.transport.abort()  # an answer that breaks off must not look whole
            return began


async def _serve(port: int, engine: str, fault: FaultSpec | None, patience: float) -> None:
    from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with ClientSession(
        timeout=ClientTimeout(total=None), connector=TCPConnector(limit=0), auto_decompress=False
    ) as session:
        runner = web.AppRunner(
            Proxy(engine, session, fault).application(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=patience,
        )
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104  a pod's address is not known before
        what = "passes everything on" if fault is None else f"breaks users' requests: {fault.text}"
        sys.stderr.write(f"in front of {engine} at port {port}: {what}\n")
        sys.stderr.flush()
        await stop.wait()
        await runner.cleanup()  # answers in flight are finished


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; 0 stopped, 2 usage or a fault that cannot be made."""
    reader = argparse.ArgumentParser(prog="python -m servegate.simulator.proxy", description=__doc__)
    reader.add_argument("--port", type=int, required=True, help="listen here")
    reader.add_argument("--engine", required=True, help="URL of the engine")
    reader.add_argument("--release", type=Path, required=True, help="document of the release in this slot")
    reader.add_argument("--shutdown-timeout", type=float, default=60.0, help="seconds for answers in flight")
    given = reader.parse_args(arguments)
    try:
        fault = fault_of(given.release)
    except FaultError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    asyncio.run(_serve(given.port, given.engine, fault, given.shutdown_timeout))
    return 0


if __name__ == "__main__":
    sys.exit(main())
