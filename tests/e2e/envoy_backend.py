"""A tiny engine for tests of the data plane: says which one it is, streams slowly, and dies in every way.

envoy_backend.py PORT NAME
"""

import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, NAME = int(sys.argv[1]), sys.argv[2]
served: dict[str, int] = {}
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        kind, _, argument = self.path.lstrip("/").partition("/")
        with lock:
            served[kind] = served.get(kind, 0) + 1
        if kind == "served":
            self.answer(json.dumps(served).encode())
        elif kind == "status":
            self.answer(b"", int(argument))
        elif kind.endswith("-on-green"):  # for copies of requests: only the slot that gets them misbehaves
            if NAME != "green":
                self.answer(NAME.encode())
            elif kind.startswith("silent"):
                time.sleep(60)
            else:
                self.answer(b"", 500)
        elif kind == "stream":
            self.stream(int(argument))
        elif kind == "silent":
            time.sleep(60)
        elif kind == "silent-after-headers":
            self.chunks()
            self.chunk(b"one")
            time.sleep(60)
        elif kind == "close":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif kind == "close-after-headers":
            self.chunks()
            self.chunk(b"one")
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif kind == "reset-after-headers":
            self.chunks()
            self.chunk(b"one")
            time.sleep(0.1)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif kind == "die-after-headers":
            self.chunks()
            self.chunk(b"one")
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            self.answer(NAME.encode())

    def answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-servegate-slot", "forged")
        self.end_headers()
        self.wfile.write(body)

    def chunks(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def stream(self, milliseconds: int) -> None:
        """Ten chunks, evenly over the time."""
        self.chunks()
        for number in range(10):
            self.chunk(f"{NAME} {number}\n".encode())
            time.sleep(milliseconds / 10_000)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients and gateways go away: that is what is tested


print("starting", flush=True)
Server(("127.0.0.1", PORT), Handler).serve_forever()
