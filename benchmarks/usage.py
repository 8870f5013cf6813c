"""What processes take, from /proc: CPU seconds, resident memory."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
#: Seconds between two looks at memory.
EVERY_S = 0.25


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of these processes so far, user and system."""
    return sum(sum(map(int, _stat(pid)[11:13])) for pid in pids) / TICKS


def idle_seconds() -> float:
    """Time so far in which a core had nothing to do, summed over the cores."""
    *_, idle, waiting = map(int, Path("/proc/stat").read_text().split()[1:6])
    return (idle + waiting) / TICKS


def resident_mb(pids: Iterable[int]) -> float:
    """Resident memory of these processes together; what they share counts for each."""
    return sum(int(_stat(pid)[21]) for pid in pids) * PAGE / 1e6


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


class Peak:
    """The largest `resident_mb` of some processes while the context is open."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.mb = 0.0
        self._pids = list(pids)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(EVERY_S):
            self.mb = max(self.mb, resident_mb(self._pids))


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
