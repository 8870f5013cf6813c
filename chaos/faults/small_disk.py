"""A small disk of the drill's own: a tmpfs that can be filled to the last byte. Needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
BALLAST: Final = "ballast"


def cannot_mount() -> str | None:
    """Why no tmpfs can be mounted here; None when it can (tried)."""
    if os.geteuid() != 0:
        return "needs root, to mount a small tmpfs"
    with tempfile.TemporaryDirectory(prefix="chronicle-drill-") as folder:
        try:
            mount(Path(folder), MIB)
        except OSError as error:
            return f"this machine mounts no tmpfs: {error}"
        unmount(Path(folder))
    return None


def mount(folder: Path, size: int, *, owner: tuple[int, int] | None = None) -> None:
    """A tmpfs of `size` bytes at `folder`, of user and group `owner`, for it alone. Raises OSError."""
    uid, gid = owner or (os.geteuid(), os.getegid())
    options = f"size={size},uid={uid},gid={gid},mode=0700"
    done = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(done.stderr.strip() or f"mount ended with {done.returncode}")


def unmount(folder: Path) -> None:
    """Lazily if somebody still holds a file of it; nothing happens when nothing is mounted."""
    if folder.is_mount():
        subprocess.run(("umount", "-l", str(folder)), capture_output=True, check=False)


def fill(folder: Path) -> None:
    """Take all the room there is."""
    with contextlib.suppress(OSError), (folder / BALLAST).open("ab", buffering=0) as file:
        while True:
            file.write(bytes(64 << 10))


def empty(folder: Path) -> None:
    """Give the room back."""
    (folder / BALLAST).unlink(missing_ok=True)


def used(folder: Path) -> int:
    """Bytes of all files in it, as the disk counts them."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
