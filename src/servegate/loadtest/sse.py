"""Server-sent events from raw bytes, piece by piece.

Reading by lines of text loses time and data: a reader that waits for a block delays the first token, and one that
decodes each block breaks characters that lie across two (every Korean syllable is three bytes). So this parser takes
bytes as they arrive, splits at line ends only, and leaves decoding to whoever reads the whole event.

Source: WHATWG HTML, "Server-sent events", §9.2.5 Parsing and §9.2.6 Interpreting an event stream.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_EVENT = 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One dispatched event."""

    data: bytes
    type: bytes = b"message"
    id: bytes = b""


class EventTooLargeError(ValueError):
    """An event, or a line of one, is larger than `MAX_EVENT` bytes."""


class EventStream:
    """Incremental parser of one stream. What is unfinished when the stream ends is dropped, as the standard says."""

    def __init__(self) -> None:
        self._rest = bytearray()  # an unfinished line, or an unfinished byte-order mark
        self._started = False
        self._after_cr = False  # the last line ended in CR: an LF that follows belongs to it
        self._data: list[bytes] = []
        self._size = 0
        self._type = b""
        self._id = b""

    def feed(self, chunk: bytes) -> list[Event]:
        """Events completed by these bytes, in order.

        Raises:
            EventTooLargeError: no event may grow without bound.
        """
        if not chunk:
            return []
        # What a server sends nearly always: whole events of one data line each.
        if (
            self._started
            and not self._rest
            and not self._data
            and not self._type
            and not self._after_cr
            and chunk.endswith(b"\n\n")
            and b"\r" not in chunk
        ):
            parts = chunk[:-2].split(b"\n\n")
            if all(part.startswith(b"data: ") and b"\n" not in part for part in parts):
                return [Event(part[6:], b"message", self._id) for part in parts]
        return self._feed(chunk)

    def _feed(self, chunk: bytes) -> list[Event]:
        self._rest += chunk
        if len(self._rest) + self._size > MAX_EVENT:
            raise EventTooLargeError(f"an event of more than {MAX_EVENT} bytes")
        if self._started and not self._after_cr and b"\n" not in chunk and b"\r" not in chunk:
            return []
        buffer = bytes(self._rest)
        if not self._started:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                return []
            self._started = True
            buffer = buffer.removeprefix(_BOM)
        if self._after_cr and buffer:
            buffer = buffer.removeprefix(b"\n")
            self._after_cr = False
        events: list[Event] = []
        start = 0
        for match in _LINE_END.finditer(buffer):
            event = self._line(buffer[start : match.start()])
            if event is not None:
                events.append(event)
            start = match.end()
        self._after_cr = buffer.endswith(b"\r")
        self._rest = bytearray(buffer[start:])
        return events

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, colon, value = line.partition(b":")
        if colon and not field:  # a comment
            return None
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > MAX_EVENT:
                raise EventTooLargeError(f"an event of more than {MAX_EVENT} bytes")
        elif field == b"event":
            self._type = value
        elif field == b"id" and b"\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Event | None:
        data, kind = self._data, self._type
        self._data, self._type, self._size = [], b"", 0
        return Event(b"\n".join(data), kind or b"message", self._id) if data else None
