"""The ledger of the load: what was sent and what was answered, as JSON lines on disk.

Lines are fsynced before the next request goes out, so that a crash of the load forgets at most the request under way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from chaos.model import Outcome, Sent


class Ledger:
    """One producer's file, appended to. Not for two writers at once; `append` blocks until the disk has it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if _torn(path):
            os.write(self._file, b"\n")

    def append(self, lines: Sequence[Sent]) -> None:
        """One write and one fsync for all of them. Raises OSError: then nothing more may be sent."""
        data = memoryview(b"".join(encode(line) for line in lines))
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)

    def close(self) -> None:
        """Once."""
        os.close(self._file)


def _torn(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def encode(line: Sent) -> bytes:
    """The line with its newline."""
    return json.dumps(vars(line), separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Sent | None:
    """The line again; None when it is torn."""
    try:
        fields = json.loads(line)
        fields["outcome"] = Outcome(fields["outcome"])
        return Sent(**fields)
    except (ValueError, TypeError, KeyError):
        return None


def read(folder: Path) -> Iterator[Sent]:
    """All whole lines of all files `*.jsonl` in the folder, file after file; what is torn is passed over."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            yield from (line for raw in file if (line := decode(raw)) is not None)


class Tail:
    """Follows a ledger that is still written: each call of `new` gives the lines that came since the last one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._at: dict[Path, int] = {}

    def new(self) -> Iterator[Sent]:
        """Whole lines only: a line under way comes with the next call."""
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._at.get(path, 0))
                for raw in file:
                    if not raw.endswith(b"\n"):
                        break
                    self._at[path] = self._at.get(path, 0) + len(raw)
                    if (line := decode(raw)) is not None:
                        yield line
