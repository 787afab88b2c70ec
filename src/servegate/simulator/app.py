"""From the command line to a running server, and down again: ports, signals, draining."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from servegate.simulator.knowledge import KnowledgeError, load
from servegate.simulator.options import Options, read

if TYPE_CHECKING:
    from servegate.simulator.server import Server

USAGE, INFRASTRUCTURE = 2, 4
BACKLOG = 2048


class _StartError(Exception):
    """The server cannot start; exit code and one message."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main(arguments: list[str] | None = None, prog: str = "servegate simulator") -> int:
    """Run until stopped; the exit code: 0 stopped, 2 usage, 4 a port or a package is missing."""
    options = read(sys.argv[1:] if arguments is None else arguments, prog)
    try:
        import uvloop
    except ImportError:
        return _fail(prog, "needs the extra `serving`: pip install 'servegate[serving]'", INFRASTRUCTURE)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(options))
    except KnowledgeError as error:
        return _fail(prog, str(error), USAGE)
    except _StartError as error:
        return _fail(prog, str(error), error.exit_code)
    except KeyboardInterrupt:  # Ctrl-C before the server has its own handler
        pass
    return 0


def _fail(prog: str, message: str, code: int) -> int:
    sys.stderr.write(f"{prog}: {message}\n")
    return code


def _log(message: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {message}\n")
    sys.stderr.flush()


async def _serve(options: Options) -> None:
    try:
        from aiohttp import web

        from servegate.simulator.control import application as control_application
        from servegate.simulator.server import Server
    except ImportError as error:
        raise _StartError(f"needs the extra `serving` ({error.name} is missing)", INFRASTRUCTURE) from None

    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)

    listener = _bind(options.host, options.port)
    control = _bind("127.0.0.1", options.control_port) if options.control_port is not None else None
    server = Server(options, load(options.knowledge))
    for spec in options.faults:
        server.faults.add(spec)
    clock = asyncio.create_task(server.driver.fault_clock())
    runners: list[web.AppRunner] = []

    async def open_port(app: web.Application, sock: socket.socket) -> str:
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        runners.append(runner)
        await runner.setup()
        host, port = sock.getsockname()[:2]
        try:
            await web.SockSite(runner, sock, backlog=BACKLOG).start()
        except OSError as error:
            raise _in_use(host, port, error) from None
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    try:
        if control is not None:
            _log(f"faults at {await open_port(control_application(server), control)}/faults")
        await _slow_start(server, stop)
        if stop.is_set():
            return
        url = await open_port(server.application(), listener)
        _log(f"simulator of {server.model} ready at {url}")
        await stop.wait()
        server.draining = True
        await _drain(server, options.shutdown_timeout, hurry)
        for connection in runners[-1].server.connections if runners[-1].server else []:
            if connection.transport is not None:
                (connection.transport.abort if server.in_flight else connection.transport.close)()
    finally:
        clock.cancel()
        for runner in runners:
            await runner.cleanup()
        listener.close()


async def _slow_start(server: Server, stop: asyncio.Event) -> None:
    """Keep the port closed for as long as loading a model would."""
    for fault in server.faults.active("slow_start"):
        server.faults.note(fault, 0)
        seconds = fault.spec.parameters["seconds"]
        _log(f"loading for {seconds:g} s")
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:  # loaded
            continue


async def _drain(server: Server, seconds: float, hurry: asyncio.Event) -> None:
    """Let requests in flight finish for up to `seconds`; a second signal ends the wait."""
    if server.in_flight and seconds:
        _log(f"draining {server.in_flight} requests for up to {seconds:g} s")
        waits = [asyncio.create_task(event.wait()) for event in (server.idle, hurry)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    _log(f"stopping, {server.in_flight} requests aborted")


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: until the model is loaded, connections are refused."""
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise _StartError(f"--host {host!r} is not an address of this machine", USAGE) from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _in_use(host, port, error) from None
    return sock


def _in_use(host: str, port: int, error: OSError) -> _StartError:
    return _StartError(f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}", INFRASTRUCTURE)
