"""The file of records: appended to by the load process, read by others while it grows.

Only whole lines count. A process that is killed may leave a torn last line; readers pass over it, and `trim` removes
it before the file is kept.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from servegate.errors import InfrastructureError
from servegate.report.records import RequestRecord


class RecordWriter:
    """Appends records in blocks of whole lines. The file must be new: records of two runs never mix.

    Raises:
        InfrastructureError: the file exists or cannot be written; raised by `flush` when the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] = []
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except OSError as error:
            raise InfrastructureError(f"{path}: cannot be created: {error.strerror}") from error

    def add(self, record: RequestRecord) -> None:
        """Keep a record for the next flush."""
        self._lines.append(record.model_dump_json() + "\n")

    def flush(self) -> None:
        """Write what was added. May be called again after an error."""
        data = "".join(self._lines).encode()
        self._lines.clear()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise InfrastructureError(f"{self.path}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Flush and close."""
        try:
            self.flush()
        finally:
            os.close(self._descriptor)


class RecordTail:
    """Reads the records a file has gained since the last look. A file that is not there yet has none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._line = 0

    def new(self) -> list[RequestRecord]:
        """Records of the whole lines that were added.

        Raises:
            InfrastructureError: the file cannot be read, or a line is not a record.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:  # no request has ended yet
            return []
        except OSError as error:
            raise InfrastructureError(f"{self.path}: cannot be read: {error.strerror}") from error
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        records = []
        for line in whole.splitlines():
            self._line += 1
            try:
                records.append(RequestRecord.model_validate_json(line))
            except ValidationError as error:
                raise InfrastructureError(f"{self.path}:{self._line}: is not a RequestRecord") from error
        return records


def trim(path: Path) -> None:
    """Remove a torn last line. Only after the writer is gone.

    Raises:
        InfrastructureError: the file cannot be changed.
    """
    try:
        with path.open("rb+") as stream:
            end = stream.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - 65536)
                stream.seek(start)
                newline = stream.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
            stream.truncate(end)
    except FileNotFoundError:  # no request has ended: no line is torn
        return
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be read: {error.strerror}") from error
