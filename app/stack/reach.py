"""Whether another system user can get at a path, and places that everyone can reach.

Root must not run Postgres, so the server runs as a user that sees neither /root nor a virtual environment below it. We
do not open up anybody's directories: what it needs is put where it can go.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app.stack.jars import Say
from app.stack.process import Identity

SERVER_USER = "embedded_postgres"
_PROGRAMS = (Path("/var/cache/chronicle"), Path(tempfile.gettempdir()) / f"chronicle-{os.geteuid()}")
_DATA = Path("/var/lib/chronicle")


def server_user() -> Identity | None:
    """None for an ordinary user, who runs the server himself; for root a user without rights, made if need be."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return Identity.of(SERVER_USER)
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_USER]
    with contextlib.suppress(OSError, KeyError):
        subprocess.run(command, capture_output=True, check=False)
        return Identity.of(SERVER_USER)
    return Identity.of("nobody")  # a system without useradd, or with a read-only /etc


def can_traverse(path: Path, user: Identity) -> bool:
    """Whether `user` may pass through every directory above `path` (by owner, group and mode; ACLs not counted)."""
    return all(_may_enter(parent.stat(), user) for parent in path.resolve().parents)


def _may_enter(info: os.stat_result, user: Identity) -> bool:
    if info.st_uid == user.uid:
        return bool(info.st_mode & stat.S_IXUSR)
    if info.st_gid == user.gid:
        return bool(info.st_mode & stat.S_IXGRP)
    return bool(info.st_mode & stat.S_IXOTH)


def runs(binary: Path, user: Identity) -> bool:
    """Whether `user` can really execute it, libraries included."""
    try:
        command = [binary, "--version"]
        drop = {"user": user.uid, "group": user.gid, "extra_groups": []}
        done = subprocess.run(command, cwd="/", capture_output=True, check=False, **drop)  # type: ignore[call-overload]
    except OSError:
        return False
    return bool(done.returncode == 0)


def reachable_copy(
    sources: Sequence[Path],
    label: str,
    say: Say = lambda _text: None,
    *,
    without: tuple[str, ...] = (),
    places: Sequence[Path] = _PROGRAMS,
) -> Path:
    """A directory with copies of `sources`, side by side under their names, that everyone may read.

    Made once a `label` in the first of `places` that can be written, and moved into place whole. Raises OSError when
    there is no place for it.
    """
    for base in places:
        target = base / label
        if target.exists():
            return target
        try:
            base.mkdir(parents=True, exist_ok=True)
            base.chmod(0o755)
            fresh = Path(tempfile.mkdtemp(dir=base, prefix=".new-"))
        except OSError:
            continue
        say(f"{label}: copying it to {target}, where its own user can reach it")
        for source in sources:
            shutil.copytree(source, fresh / source.name, symlinks=True, ignore=shutil.ignore_patterns(*without))
        _open_up(fresh)
        with contextlib.suppress(OSError):  # another process was quicker: its copy is as good
            fresh.rename(target)
        shutil.rmtree(fresh, ignore_errors=True)
        return target
    raise OSError(f"no place for a copy of {label}")


def _open_up(tree: Path) -> None:
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444))


def data_home(wanted: Path, user: Identity | None) -> Path:
    """A directory for the server's files: `wanted` itself, or one elsewhere that `wanted` then links to.

    The latter when root keeps its state where the server's user cannot go: it is below /var/lib then, or in the
    directory for temporary files if `wanted` is there as well. The name is new each time, so that a state directory
    that was deleted and made again never meets the data of its predecessor.
    """
    if user is None or wanted.is_symlink() or can_traverse(wanted, user):
        wanted.mkdir(parents=True, exist_ok=True)
        if user is not None:
            wanted.resolve().chmod(0o711)
        return wanted.resolve()
    temporary = Path(tempfile.gettempdir()).resolve()
    if wanted.resolve().is_relative_to(temporary):
        base = temporary
    else:
        base = _DATA
        base.mkdir(parents=True, exist_ok=True)
        base.chmod(0o711)
    home = Path(tempfile.mkdtemp(dir=base, prefix="chronicle-postgres-"))
    home.chmod(0o711)
    wanted.symlink_to(home)
    return home
