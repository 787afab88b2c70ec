"""A small OpenAI-like server for tests of the load client. The model asked for says how it behaves.

python mock_server.py PORT [--die-after N]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from typing import Any

MODELS = ("good", "slow", "hang", "stall", "close", "garbage", "http500", "error-event", "no-usage")
FIRST_TOKEN, GAP = 0.02, 0.005


class Server:
    """Answers until it has answered enough."""

    def __init__(self, die_after: int | None) -> None:
        self.die_after, self.asked = die_after, 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
                body = await reader.readexactly(length)
                if head.startswith(b"GET /v1/models "):
                    self.plain(writer, 200, {"object": "list", "data": [{"id": model} for model in MODELS]})
                elif head.startswith(b"POST /v1/chat/completions "):
                    self.asked += 1
                    if self.die_after is not None and self.asked > self.die_after:
                        os._exit(1)
                    if not await self.chat(writer, json.loads(body)):
                        return
                else:
                    self.plain(writer, 404, {"error": "no such page"})
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def chat(self, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> bool:
        """One answer; whether the connection can be used again."""
        mode = asked["model"]
        if asked["stream"] is not True or asked["stream_options"] != {"include_usage": True}:
            self.plain(writer, 400, {"error": "not the request the contract names"})
            return True
        if mode == "http500":
            self.plain(writer, 500, {"error": "도와 주세요"})
            return True
        if mode == "hang":
            await asyncio.sleep(3600)
        self.send(writer, b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-servegate-slot: green\r\n")
        self.send(writer, b"transfer-encoding: chunked\r\n\r\n")
        self.event(writer, choice({"role": "assistant", "content": ""}))
        await writer.drain()
        await asyncio.sleep(0.5 if mode == "slow" else FIRST_TOKEN)
        tokens = asked["max_tokens"]
        for number in range(tokens):
            if number == 2 and mode == "stall":
                await asyncio.sleep(3600)
            if number == 2 and mode == "close":
                writer.transport.abort()
                return False
            if number == 2 and mode == "garbage":
                self.event(writer, "<<<>>>")
            if number == 2 and mode == "error-event":
                self.event(writer, json.dumps({"error": {"message": "engine died"}}))
            last = number == tokens - 1
            self.event(writer, choice({"content": "배송 "}, "length" if last else None))
            await writer.drain()
            await asyncio.sleep(GAP)
        if mode != "no-usage":
            usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
            self.event(writer, json.dumps({"choices": [], "usage": usage}))
        self.event(writer, "[DONE]")
        self.send(writer, b"0\r\n\r\n")
        return True

    def plain(self, writer: asyncio.StreamWriter, status: int, document: Any) -> None:
        """A JSON answer."""
        data = json.dumps(document, ensure_ascii=False).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        self.send(writer, head.encode() + data)

    def event(self, writer: asyncio.StreamWriter, data: str) -> None:
        """One event as one HTTP chunk."""
        raw = f"data: {data}\n\n".encode()
        self.send(writer, b"%x\r\n%b\r\n" % (len(raw), raw))

    def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Hand bytes to the transport."""
        writer.write(data)


def choice(delta: dict[str, str], finish: str | None = None) -> str:
    """One chunk of an answer."""
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}, ensure_ascii=False)


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--die-after", type=int)
    options = parser.parse_args()
    server = await asyncio.start_server(Server(options.die_after).connection, "127.0.0.1", options.port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
