"""The ready file: where everything is, written when the whole stack has proved itself and removed when it stops."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec


class TopicNames(msgspec.Struct, frozen=True):
    """Topic names by role."""

    ingest: str
    events: str
    dead_letters: str


class Pids(msgspec.Struct, frozen=True):
    """Process ids of now; null for a part that is not ours (`--broker`, `--database`)."""

    kafka: int | None
    postgres: int | None
    ingest: int | None
    stream: tuple[int, ...]


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of the ready file. `database` holds the password: the file is for its owner only."""

    url: str
    broker: str
    database: str
    sqlite: str
    state_dir: str
    topics: TopicNames
    pids: Pids


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old text or the new one, never half; mode 0600."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class ReadyFiles:
    """One text in several places (the state directory's own `ready.json` and the one asked for)."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths

    def write(self, ready: Ready) -> None:
        """Write or replace all of them. Raises OSError."""
        text = msgspec.json.format(msgspec.json.encode(ready)).decode() + "\n"
        for path in self._paths:
            write_atomically(path, text)

    def remove(self) -> None:
        """None is left, nor one of an earlier run that was killed."""
        for path in self._paths:
            path.unlink(missing_ok=True)
