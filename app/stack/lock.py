"""One `up` per state directory."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from schemas.errors import Misconfigured


class StateLock:
    """An advisory lock on the state directory; the kernel lets it go when its owner dies, however it dies."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "up.lock"
        self._fd = -1

    def acquire(self) -> None:
        """Raises `Misconfigured`, naming the process and URL that hold it."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(fd)
            os.close(fd)
            raise Misconfigured(
                f"Chronicle is already up on {self._path.parent} ({owner}).",
                "Stop it first, or give another --state-dir.",
            ) from None
        self._fd = fd
        self.note(url=None)

    def note(self, *, url: str | None) -> None:
        """Leave word for whoever finds the lock taken."""
        text = json.dumps({"pid": os.getpid(), "url": url}).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text, 0)

    def release(self) -> None:
        """Let go; the file stays, since removing it would let two owners lock two different files."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _owner(fd: int) -> str:
    try:
        note = json.loads(os.pread(fd, 4096, 0))
        url = note["url"] or "still starting"
        return f"pid {note['pid']}, {url}"
    except (ValueError, KeyError, TypeError):
        return "by another process"
