"""What processes take, from /proc."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from chaos.evidence_values import Sample

PROC = Path("/proc")


def sample(pids: Mapping[str, Iterable[int]], *, proc: Path = PROC) -> list[Sample]:
    """One look at each process; one that is gone (or being exchanged) is left out."""
    at = time.time()
    looks = (_one(role, pid, at, proc) for role, numbers in pids.items() for pid in numbers)
    return [look for look in looks if look is not None]


def _one(role: str, pid: int, at: float, proc: Path) -> Sample | None:
    try:
        status = (proc / str(pid) / "status").read_text()
        fds = sum(1 for _ in (proc / str(pid) / "fd").iterdir())
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "VmRSS" not in fields:  # a zombie
        return None
    return Sample(role, pid, at, int(fields["VmRSS"].split()[0]) * 1024, fds, int(fields["Threads"]))
