"""What the API server has told of some objects without being asked again: a list, and a watch from there.

A watch is knowledge with an age. It counts while its stream is open and has shown a sign of life (an event, a bookmark,
its beginning) in the time after which the server ends every stream anyway; with anything else, from a closed
connection to a request of ours that got no answer, what is known is old, and who asks has to ask the API server. That
reading is then the next list a stream begins from, so that `410 Gone` needs nothing of its own.

A stream over one object begins with that object as it is (no resourceVersion: the most recent state comes first); a
stream over a collection begins at the resourceVersion of the list, and goes on at the last one it has heard.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import urllib3

Object = dict[str, Any]

LASTS = 40
"""Seconds after which the server ends a stream; it sends a bookmark 2 s before."""
SILENCE = 5.0
"""Seconds beyond that in which a stream may be silent and be trusted."""
SHORT, LONGEST = 5.0, 30.0
"""A stream that ends sooner is not opened again at once, but after pauses that double from 1 s up to this."""
LONGEST_LINE = 8 * 1024 * 1024
"""Bytes of one event; an object has at most some 3 MB."""


class Watch:
    """One object, or the objects of a kind with some labels, as they are heard of.

    Args:
        connect: opens a stream at a resourceVersion ("": the most recent) for so many seconds; the response is not
            read yet, and may be an error.
        single: it is about one object.
        clock: monotonic seconds.
    """

    def __init__(
        self, connect: Callable[[str, int], Any], *, single: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connect, self._single, self._clock = connect, single, clock
        self._lock = threading.Lock()
        self._items: dict[str, Object] = {}
        self._version = ""
        self._open = self._closed = self._running = False
        self._heard_at = self._asked_at = self._not_before = self._pause = 0.0
        self._readings = 0
        self._response: Any = None

    def known(self) -> list[Object] | None:
        """The objects as they are now, as far as that can be heard; None: what is known is old."""
        with self._lock:
            now = self._asked_at = self._clock()
            if not self._open or now - self._heard_at > LASTS + SILENCE:
                return None
            if self._single and not self._items:
                return None  # it is gone, or its first event is on its way: the API server says which
            return copy.deepcopy(list(self._items.values()))

    def learn(self, items: Iterable[Object], version: str = "") -> None:
        """What the API server has answered just now; the second such reading opens a stream, as nobody reads once more.

        Args:
            version: resourceVersion of the list; "" for one object.
        """
        with self._lock:
            found = {_name(item): item for item in items}
            for name, item in self._items.items():
                listed = found.get(name)
                newer = listed is not None and _newer(item, _version(listed))
                if newer or (listed is None and version and _newer(item, version)):
                    found[name] = item  # heard of, or written by ourselves, since
            self._items = found
            if not self._single and _number(version) >= _number(self._version):
                self._version = version
            self._readings += 1
            begin = self._readings > 1 and not self._running and not self._closed
            if begin and self._clock() >= self._not_before:
                self._running = True
                threading.Thread(target=self._run, name="watch", daemon=True).start()

    def wrote(self, item: Object) -> None:
        """What we have written ourselves, as it was answered: no older event takes its place."""
        with self._lock:
            known = self._items.get(_name(item))
            if known is None or _newer(item, _version(known)):
                self._items[_name(item)] = item

    def doubt(self) -> None:
        """Something at the API server does not answer: begin again, and trust nothing until then."""
        with self._lock:
            self._open = False
            self._shut()

    def close(self) -> None:
        """End the stream."""
        with self._lock:
            self._closed, self._open = True, False
            self._shut()

    def _shut(self) -> None:
        if self._response is not None:
            with suppress(RuntimeError, ValueError, OSError):  # it has ended by itself just now
                self._response.shutdown()
            self._response = None

    # --- the stream, in a thread of its own ---------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            began = self._clock()
            again = self._stream()
            with self._lock:
                now = self._clock()
                self._open, self._response = False, None
                if not again:  # what is remembered helps nobody, and less so where an older etcd was brought back
                    self._items, self._version = {}, ""
                lived = now - began >= SHORT
                self._pause = 0.0 if lived or again is None else min(LONGEST, max(1.0, 2 * self._pause))
                self._not_before = now + self._pause
                if not (again and lived) or self._closed or now - self._asked_at > LASTS:
                    self._running = False  # the next reading begins anew, if there is one
                    return

    def _stream(self) -> bool | None:
        """Hear until the stream ends. True: it may go on where it ended; None: from a new list; False: not soon."""
        response = None
        try:
            response = self._connect("" if self._single else self._version, LASTS)
            if response.status != HTTPStatus.OK:
                return None if response.status == HTTPStatus.GONE else False
            with self._lock:
                if self._closed:
                    return False
                self._response, self._open, self._heard_at = response, not self._single, self._clock()
            for line in _lines(response):
                event = json.loads(line)
                if event.get("type") == "ERROR":
                    return None if (event.get("object") or {}).get("code") == HTTPStatus.GONE else False
                with self._lock:
                    if self._response is response:  # else: doubted while this line was on its way
                        self._take(event["type"], event["object"])
        except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return True  # broken, cut, or not what an API server says; one that goes on so is asked after pauses
        finally:
            if response is not None:
                response.close()
        return True

    def _take(self, kind: str, item: Object) -> None:
        self._heard_at, self._open = self._clock(), True
        version = _version(item)
        if kind == "BOOKMARK":
            self._version = max(self._version, version, key=_number)
            return
        if not self._single and _number(version) <= _number(self._version):
            return  # a later list has it
        self._version = version
        known = self._items.get(_name(item))
        if kind == "DELETED":
            if known is None or not _newer(known, version):
                self._items.pop(_name(item), None)
        elif known is None or not _newer(known, version):
            self._items[_name(item)] = item


def _lines(response: Any) -> Iterator[bytes]:
    left = b""
    while part := response.read1(65536):
        *whole, left = (left + part).split(b"\n")
        yield from (line for line in whole if line.strip())
        if len(left) > LONGEST_LINE:
            raise ValueError(f"an event is larger than {LONGEST_LINE} bytes")


def _name(item: Object) -> str:
    return str(item["metadata"]["name"])


def _version(item: Object) -> str:
    return str(item["metadata"].get("resourceVersion", ""))


def _number(version: str) -> int:
    """Order of resourceVersions, which are numbers that grow (KEP-5504); what is none is older than everything."""
    return int(version) if version.isascii() and version.isdigit() else -1


def _newer(item: Object, version: str) -> bool:
    return _number(_version(item)) > _number(version)
