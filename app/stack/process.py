"""A child process as a value, and how it is started: in its own group, and dead when we are."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from app.settings import environment
from schemas.errors import Unavailable

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Identity(msgspec.Struct, frozen=True):
    """The system user a child runs as, when we are root and it must not be."""

    name: str
    uid: int
    gid: int

    @classmethod
    def of(cls, name: str) -> Identity:
        """Raises KeyError when there is no such user."""
        entry = pwd.getpwnam(name)
        return cls(name, entry.pw_uid, entry.pw_gid)


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What to run and how it is known to work.

    `answers` may block for a second and never raises; `stop_signal` asks it to end in order, `death_signal` is what the
    kernel sends it when the supervisor is gone. `shows` says which of its lines the terminal gets (its file gets all).
    """

    name: str
    argv: Sequence[str]
    answers: Callable[[], bool]
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    cwd: Path | None = None
    user: Identity | None = None
    stop_signal: int = signal.SIGTERM
    death_signal: int = signal.SIGKILL
    shows: Callable[[str], bool] = lambda _line: True


def spawn_options(program: Program) -> dict[str, Any]:
    """The keyword arguments that `subprocess.Popen` and asyncio's `create_subprocess_exec` share.

    Its own process group keeps the terminal's Ctrl-C from it: the supervisor stops the children in order.
    """
    options: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "cwd": program.cwd,
        "env": environment(program.env),
        "process_group": 0,
        "preexec_fn": die_with_parent(program.death_signal),
    }
    if program.user:
        options |= {"user": program.user.uid, "group": program.user.gid, "extra_groups": []}
    return options


def die_with_parent(death_signal: int) -> Callable[[], None] | None:
    """What a child does between fork and exec so that it never outlives us, even after kill -9. Linux only.

    It runs after the change of user, which would clear the setting. The library is loaded before the fork.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def apply() -> None:
        prctl(PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # we died between the fork and the line above
            os._exit(1)

    return apply


def kill_group(pid: int) -> None:
    """SIGKILL to the child and whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class Daemon:
    """One program run without a supervisor, for tests and tools; its output goes to `log`."""

    def __init__(self, program: Program, log: Path) -> None:
        self._program = program
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process; raises RuntimeError when it is not running."""
        if self._process is None:
            raise RuntimeError(f"{self._program.name} is not running")
        return self._process.pid

    def start(self, timeout: float = 60.0) -> None:
        """Returns when it answers; raises `Unavailable` with the end of its log when it ends or takes too long."""
        with self._log.open("ab") as out:
            options = spawn_options(self._program)
            self._process = subprocess.Popen(self._program.argv, stdout=out, stderr=subprocess.STDOUT, **options)
        deadline = time.monotonic() + timeout
        while not self._program.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = self._log.read_text(errors="replace")[-2000:]
                raise Unavailable(self._program.name, f"did not start:\n{tail}")
            time.sleep(0.05)

    def stop(self, timeout: float = 10.0) -> None:
        """In order, then by force."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(self._program.stop_signal)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """At once, as a crash would."""
        if self._process is not None:
            kill_group(self._process.pid)
            self._process.wait()
            self._process = None
