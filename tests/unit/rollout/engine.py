"""A stand-in engine for tests of workloads: answers /health, /v1/models and /metrics, and misbehaves on request.

engine.py PORT MODEL [--host ADDRESS] [--exit STATUS] [--ignore-term] [--child] [--finish SECONDS]
"""

import argparse
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("port", type=int)
parser.add_argument("model")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--exit", type=int)
parser.add_argument("--ignore-term", action="store_true")
parser.add_argument("--child", action="store_true")
parser.add_argument("--finish", type=float)
options = parser.parse_args()
healthy = threading.Event()
healthy.set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b""
        status = 200
        if self.path == "/v1/models":
            body = json.dumps({"object": "list", "data": [{"id": options.model, "object": "model"}]}).encode()
        elif self.path == "/pid":
            body = str(os.getpid()).encode()
        elif self.path == "/unhealthy":
            healthy.clear()
        elif self.path == "/healthy":
            healthy.set()
        elif self.path == "/health" and not healthy.is_set():
            status = 503
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
        pass


print("starting", flush=True)
if options.exit is not None:
    print("CUDA out of memory", flush=True)
    sys.exit(options.exit)
if options.child:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(f"child {child.pid}", flush=True)


def finish(*_: object) -> None:
    print("finishing", flush=True)
    if options.finish:
        threading.Timer(options.finish, lambda: os._exit(0)).start()
    elif not options.ignore_term:
        os._exit(0)


class Server(ThreadingHTTPServer):
    def server_bind(self) -> None:
        """Without asking DNS for our name, which in a pod's network may take half a minute to fail."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = options.host, self.server_address[1]


signal.signal(signal.SIGTERM, finish)
server = Server((options.host, options.port), Handler)
server.serve_forever(poll_interval=0.05)
