"""The control port: what is broken, since when, and whom it has hit; read and changed while the server runs.

Bound to 127.0.0.1 and never to anything else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from servegate.simulator.faults import FaultError, FaultSpec, parse
from servegate.simulator.server import Server


def application(server: Server) -> web.Application:
    """GET, PUT and DELETE /faults, and DELETE /faults/{id}."""

    def report() -> web.Response:
        body = orjson.dumps({**server.faults.report(), **server.state()}, option=orjson.OPT_INDENT_2)
        return web.Response(body=body + b"\n", content_type="application/json")

    async def get(_request: web.Request) -> web.Response:
        return report()

    async def put(request: web.Request) -> web.Response:
        try:
            server.faults.replace(_specs(orjson.loads(await request.read())))
        except orjson.JSONDecodeError as error:
            return _refused(f"not JSON: {error}")
        except FaultError as error:
            return _refused(str(error))
        return report()

    async def delete(request: web.Request) -> web.Response:
        wanted = request.match_info.get("id")
        found = [fault for fault in server.faults.current if wanted in (None, fault.id)]
        if wanted is not None and not found:
            return _refused(f"there is no fault {wanted!r}", 404)
        for fault in found:
            server.faults.clear(fault)
        return report()

    app = web.Application(client_max_size=64 * 1024, middlewares=[_errors])
    app.router.add_get("/faults", get)
    app.router.add_put("/faults", put)
    app.router.add_delete("/faults", delete)
    app.router.add_delete("/faults/{id}", delete)
    return app


def _specs(body: Any) -> list[FaultSpec]:
    entries = body.get("faults") if isinstance(body, dict) else body
    if not isinstance(entries, list) or not all(isinstance(entry, str | dict) for entry in entries):
        raise FaultError('expected {"faults": ["errors:rate=0.1", …]}')
    specs = [parse(entry) for entry in entries]
    if any(spec.kind == "slow_start" for spec in specs):
        raise FaultError("fault 'slow_start' can only be set when the server is started")
    return specs


def _refused(message: str, status: int = 400) -> web.Response:
    return web.Response(body=orjson.dumps({"error": message}), status=status, content_type="application/json")


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _refused(error.reason, error.status)
