"""Room that is kept free on a disk, so that what is stored there can be taken out again.

SQLite needs room to give room back: its write-ahead log fills the disk, then neither can its pages be moved to the file
nor a row be deleted, although nothing new comes. So new records are refused while there is still that much left.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: Bytes: a write-ahead log as large as `journal_size_limit` lets it stay.
ROOM: Final = 64 << 20
_MIB: Final = 1 << 20


def shortage(folder: Path, room: int = ROOM) -> str | None:
    """One sentence when the disk of `folder` has less than `room` bytes left for us, else None. Raises OSError."""
    disk = os.statvfs(folder)
    left = disk.f_bavail * disk.f_frsize
    if left >= room:
        return None
    return f"the disk of {folder} has {left // _MIB} MiB left, and {room // _MIB} MiB are kept free: make room there"
