"""Named points in the code where a fault drill makes the process stop. Without a drill each costs one comparison.

A process that was told of a folder (`CHRONICLE_FAULT_POINTS`) looks there, at each point it passes, for the file
`<name>.arm`. Who finds it takes it, notes the hit in `hits.log`, and does what is written in it: `kill` (SIGKILL),
`stop` (SIGSTOP) or `sleep:SECONDS`. One file stops one process once. A point is passed at most once in a batch, a chunk
or a request, never in a loop over events.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: name -> what is done when it is passed, and what is not.
POINTS: Final[Mapping[str, str]] = {
    "ingest.before_ack": "events judged and encoded; not yet handed to the broker",
    "ingest.after_ack": "acked by the broker or fsynced in the spool; the client has no answer",
    "spool.before_fsync": "written to the spool; its COMMIT not begun",
    "spool.after_fsync": "in the spool on disk; nobody told",
    "dedupe.decided": "verdicts known; nothing produced",
    "dedupe.produced": "passed on and acked by the broker; not remembered",
    "dedupe.remembered": "in the changelog; not in the table",
    "dedupe.stored": "in the table; the group's offset not moved",
    "dedupe.acked": "all five steps done",
    "persist.decoded": "a chunk decoded and waiting for its batch",
    "persist.copied": "rows copied and inserted in the transaction of Postgres; sessions and progress not",
    "persist.before_commit": "the transaction of Postgres is whole; COMMIT not sent",
    "persist.after_commit": "COMMIT answered; nobody told",
    "persist.before_ack": "the batch and its dead letters are durable; the group's offset not moved",
    "persist.after_ack": "the batch acked",
    "aggregate.applied": "a batch counted; nothing produced",
    "aggregate.produced": "its values in the changelog; not in the table",
    "aggregate.stored": "in the table; the group's offset not moved",
    "aggregate.acked": "the batch acked",
    "history.written": "rows of the history committed; the group's offset not moved",
    "sqlite.before_commit": "a batch in the transaction of SQLite; COMMIT not begun",
    "sqlite.after_commit": "a batch in SQLite; its range of offsets not recorded outside of the file",
    "sync.read": "rows read from SQLite; nothing written",
    "sync.written": "rows in Postgres; not verified",
    "sync.verified": "count and hash compared and noted; not marked in SQLite",
    "sync.marked": "marked as synced in SQLite",
}
ARM: Final = ".arm"
HITS: Final = "hits.log"

_folder: str | None = None  # of the process, set once at its start: a handle in every call would be no less global


def arm(folder: Path | None) -> None:
    """Let this process look for points in `folder` from now on; None: no longer."""
    global _folder
    _folder = None if folder is None else str(folder)


def at(name: str) -> None:
    """Pass a point. Does nothing unless the process is armed and the point is; may then not return."""
    if _folder is not None:
        _passed(_folder, name)


def _passed(folder: str, name: str) -> None:
    armed = f"{folder}/{name}{ARM}"
    if not os.path.exists(armed):
        return
    taken = f"{folder}/{name}.taken-{os.getpid()}-{time.monotonic_ns()}"
    try:
        os.rename(armed, taken)  # of several processes one gets it
    except FileNotFoundError:
        return
    action = Path(taken).read_text().strip()
    _note(folder, name, action)
    _act(action)


def _note(folder: str, name: str, action: str) -> None:
    """A line of `hits.log`: time, process, point, action. On disk before anything is done."""
    line = f"{time.time():.6f} {os.getpid()} {name} {action}\n".encode()
    handle = os.open(f"{folder}/{HITS}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, line)
        os.fsync(handle)
    finally:
        os.close(handle)


def _act(action: str) -> None:
    kind, _, argument = action.partition(":")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "sleep":
        time.sleep(float(argument))
    else:
        raise ValueError(f"{action!r} is no action of a fault point")
