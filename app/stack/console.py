"""What `chronicle up` says: its own lines, and those of its children with the child's name in front."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TextIO

COLOURS = {"kafka": 33, "postgres": 34, "ingest": 32, "stream": 36, "chronicle": 35}
MAX_LOG_BYTES = 20 << 20  # a log file is begun anew at this size, with one old one kept
WIDTH = 9


class Console:
    """Writes whole lines `name | text`; never raises, since a closed terminal must not stop the stack."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._colour = self._out.isatty()

    def line(self, name: str, text: str) -> None:
        """One line of a child."""
        prefix = f"{name:<{WIDTH}}|"
        if self._colour:
            prefix = f"\033[{COLOURS.get(name.split('-')[0], 37)}m{prefix}\033[0m"
        self._write(f"{prefix} {text}\n")

    def say(self, text: str) -> None:
        """One line of ours."""
        self.line("chronicle", text)

    def block(self, text: str) -> None:
        """Several lines that should be seen."""
        self._write(f"\n{text}\n\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._out.write(text)
            self._out.flush()


class LogFile:
    """A child's own log, unshortened, of bounded size."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_LOG_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file: BinaryIO = path.open("ab")

    def write(self, line: bytes) -> None:
        """Append; a full disk is not the child's fault and is passed over."""
        with contextlib.suppress(OSError):
            if self._file.tell() > self._max_bytes:
                self._turn()
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """No more lines."""
        self._file.close()

    def _turn(self) -> None:
        self._file.close()
        self._path.replace(self._path.with_suffix(".log.1"))
        self._file = self._path.open("ab")


class Lines:
    """Cuts a byte stream into lines and hands each on; a line beyond `limit` bytes comes in pieces."""

    def __init__(self, take: Callable[[bytes], None], *, limit: int = 64 << 10) -> None:
        self._take = take
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Any piece of the stream."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._take(line)
        while len(self._rest) > self._limit:
            self._take(self._rest[: self._limit])
            self._rest = self._rest[self._limit :]

    def end(self) -> None:
        """The stream is over."""
        if self._rest:
            self._take(self._rest)
        self._rest = b""
