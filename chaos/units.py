"""The drill's own broker and database: the embedded ones of `chronicle up`, started, stopped and hurt at will."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

from app.stack.kafka import Kafka
from app.stack.postgres import Postgres

POLL_S: Final = 0.02
GONE_S: Final = 10.0


class Server(Protocol):
    """What `app.stack` offers of a server."""

    @property
    def pid(self) -> int: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class ServerUnit:
    """A `chaos.model.Unit` around a server of `app.stack`.

    The kernel ends a server when the thread that started it ends, so one thread lives as long as this does; `close` it.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="server")

    @property
    def pid(self) -> int:
        """Raises RuntimeError when it is not running."""
        return self._server.pid

    def start(self) -> None:
        """Returns when it answers; raises `Unavailable`. Nothing happens when it runs already."""
        if not self.running():
            self.stop()  # buries one that ended by itself
            self._starter.submit(self._server.start).result()

    def stop(self) -> None:
        """See the contract; a paused one is resumed first, since it would not hear."""
        self.resume()
        self._server.stop()

    def kill(self) -> None:
        """See the contract. Its children too: those of Postgres are in groups of their own."""
        with contextlib.suppress(RuntimeError):
            _signal(family(self.pid), signal.SIGSTOP)  # so that none is born meanwhile
            _signal(family(self.pid), signal.SIGKILL)
        self._server.kill()

    def pause(self) -> None:
        """See the contract."""
        _signal(family(self.pid), signal.SIGSTOP)
        _signal(family(self.pid), signal.SIGSTOP)  # one that was born between looking and stopping

    def resume(self) -> None:
        """See the contract; nothing happens when it is not running."""
        with contextlib.suppress(RuntimeError):
            _signal(family(self.pid), signal.SIGCONT)

    def running(self) -> bool:
        """Also when it is paused."""
        try:
            return alive(self.pid)
        except RuntimeError:
            return False

    def close(self) -> None:
        """Stop it for good."""
        self.stop()
        self._starter.shutdown()


class KafkaUnit(ServerUnit):
    """A broker in `directory` on 127.0.0.1:`port` that tells its clients to come to `advertised_port` (a proxy)."""

    def __init__(self, directory: Path, port: int, *, advertised_port: int) -> None:
        self.directory = directory
        self.port = port
        super().__init__(Kafka(directory, port, advertised_port=advertised_port))

    def wipe(self) -> None:
        """Forget all data of the stopped broker; the next start makes a new, empty cluster."""
        shutil.rmtree(self.directory / "data", ignore_errors=True)


class PostgresUnit(ServerUnit):
    """A Postgres in `directory` on 127.0.0.1:`port`."""

    def __init__(self, directory: Path, port: int, *, settings: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.port = port
        self._postgres = Postgres(directory, port, settings=settings)
        super().__init__(self._postgres)

    @property
    def dsn(self) -> str:
        """As its owner; after the first start."""
        return self._postgres.dsn

    def stop_immediate(self) -> None:
        """As `pg_ctl stop -m immediate`: no goodbye to anybody, recovery from the log at the next start."""
        self.resume()
        with contextlib.suppress(RuntimeError, ProcessLookupError):
            os.kill(self.pid, signal.SIGQUIT)
            _await(lambda: not self.running())
        self._server.stop()


def family(pid: int) -> list[int]:
    """The process and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def alive(pid: int) -> bool:
    """Whether there is such a process, and not only its remains."""
    fields = _stat(pid)
    return fields is not None and fields[0] not in "ZX"


def _stat(pid: int) -> list[str] | None:
    """State, parent, … (proc(5)), after the name, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _await(condition: Callable[[], bool], seconds: float = GONE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(POLL_S)
