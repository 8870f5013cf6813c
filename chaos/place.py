"""The place of a drill: the real stack of `chronicle up`, its broker and its database behind proxies of ours."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from app.stack.ports import free_port
from app.stack.process import kill_group
from app.stack.stack import STREAM_ROLES
from chaos.host import Usage, end, get_json, ports, spawn, usage
from chaos.lag import Lag
from chaos.model import Points, Proxy, Unit
from chaos.points import PointsFolder
from chaos.proxy import TcpProxy
from chaos.units import KafkaUnit, PostgresUnit, alive, family

connect: Any = asyncpg.connect  # asyncpg tells no types
START_S: Final = 90.0
POLL_S: Final = 0.1
#: Chronicle's own role: what is done to it does not touch the drill's, which owns the database.
ROLE: Final = "drill_app"
PASSWORD: Final = "drill"  # of a server on the loopback that lives as long as the drill
#: Short enough that a round of a fault sees failover, hold-down and failback.
TIMINGS: Final[Mapping[str, str]] = {
    "CHRONICLE_FAILOVER__HOLD_DOWN_S": "3",
    "CHRONICLE_FAILOVER__PROBE_MAX_S": "2",
}
PREFIX: Final = "chronicle"
TOPICS: Final[Mapping[str, str]] = {
    "ingest": f"{PREFIX}.ingest",
    "events": f"{PREFIX}.events",
    "dead_letters": f"{PREFIX}.dead-letters",
    "seen": f"{PREFIX}.seen",
    "aggregates": f"{PREFIX}.aggregates",
    "control": f"{PREFIX}.control",
}
#: Consumer group -> the topic it works off, in the order an event walks. The first two bring it into a database; what
#: they have not worked off may exist nowhere else. The history waits for Postgres, also where SQLite has taken over.
STORING: Final[Mapping[str, str]] = {f"{PREFIX}-dedupe": TOPICS["ingest"], f"{PREFIX}-persist": TOPICS["events"]}
GROUPS: Final[Mapping[str, str]] = {
    **STORING,
    f"{PREFIX}-aggregate": TOPICS["events"],
    f"{PREFIX}-history": TOPICS["aggregates"],
}


class NotReady(TimeoutError):
    """It did not become what was waited for; says what was seen last."""


class RealPlace:
    """A `chaos.model.Place` in `folder`; an async context manager: ready inside, no process left behind.

    `settings` are CHRONICLE_* variables for all of Chronicle's processes, `pythonpath` is put before theirs.
    `stream_workers` are those of `up`; `add_worker` starts more. Raises `NotReady` with the end of the log.
    """

    def __init__(
        self,
        folder: Path,
        *,
        stream_workers: int = 2,
        settings: Mapping[str, str] | None = None,
        pythonpath: str | Path | None = None,
    ) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.log = folder / "up.log"
        self._points_dir = folder / "points"
        self._settings = {**TIMINGS, **(settings or {})}
        #: The file that turns the clock of all processes of Chronicle, if there is one.
        self.clock = Path(self._settings["CHAOS_CLOCK"]) if "CHAOS_CLOCK" in self._settings else None
        self._pythonpath = str(pythonpath) if pythonpath else None
        self._stream_workers = stream_workers
        self._port, broker, database = ports(3)
        self._proxies = TcpProxy(broker), TcpProxy(database)
        self.kafka_proxy: Proxy = self._proxies[0]
        self.postgres_proxy: Proxy = self._proxies[1]
        self._kafka = KafkaUnit(folder / "kafka", broker, advertised_port=self.kafka_proxy.port)
        self._postgres = PostgresUnit(folder / "postgres", database)
        self.kafka: Unit = self._kafka
        self.postgres: Unit = self._postgres
        self.points: Points = PointsFolder(self._points_dir)
        self._lag = Lag(f"127.0.0.1:{broker}", GROUPS)
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="chronicle")  # children end with their thread
        self._up: subprocess.Popen[bytes] | None = None
        self._added: dict[str, subprocess.Popen[bytes]] = {}

    async def __aenter__(self) -> RealPlace:
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _open(self) -> None:
        for folder in (self.folder, self._points_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711)  # Postgres' own user passes through when we are root
        for proxy in self._proxies:
            proxy.start()
        await asyncio.gather(asyncio.to_thread(self.kafka.start), asyncio.to_thread(self.postgres.start))
        await self._make_role()
        await self.start_chronicle()

    async def _close(self) -> None:
        for proxy in self._proxies:
            if proxy.running:
                await asyncio.to_thread(proxy.heal)
        for unit in (self._kafka, self._postgres):
            await asyncio.to_thread(unit.resume)
        try:
            for name in list(self._added):
                await self.remove_worker(name)
            await self.stop_chronicle()
        finally:
            for close in (self._postgres.close, self._kafka.close, *(proxy.stop for proxy in self._proxies)):
                await asyncio.to_thread(close)
            self._starter.shutdown()
            await self._lag.close()

    async def _make_role(self) -> None:
        """Chronicle connects as an ordinary role that may make its tables."""
        connection = await connect(self.dsn)
        try:
            if not await connection.fetchval("SELECT FROM pg_roles WHERE rolname = $1", ROLE):
                await connection.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
            await connection.execute(f"GRANT ALL ON SCHEMA public TO {ROLE}")
        finally:
            await connection.close()

    # --- what is where ------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """See the contract; the same after a restart."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def dsn(self) -> str:
        """See the contract."""
        return self._postgres.dsn

    @property
    def chronicle_dsn(self) -> str:
        """As Chronicle has it: its own role, through the proxy."""
        path = urlsplit(self.dsn).path
        return f"postgresql://{ROLE}:{PASSWORD}@127.0.0.1:{self.postgres_proxy.port}{path}"

    @property
    def broker(self) -> str:
        """See the contract."""
        return f"127.0.0.1:{self.kafka_proxy.port}"

    @property
    def sqlite(self) -> Path:
        """See the contract."""
        return self.state_dir / "failover.db"

    @property
    def topics(self) -> Mapping[str, str]:
        """See the contract."""
        return TOPICS

    def pids(self) -> Mapping[str, list[int]]:
        """See the contract; the workers of `up` in order of their names, then the added ones. The dead are left out."""
        told = self._told().get("pids") or {}
        ingest = [told["ingest"]] if told.get("ingest") else []
        stream = [*told.get("stream", ()), *(process.pid for process in self._added.values())]
        return {"ingest": [pid for pid in ingest if alive(pid)], "stream": [pid for pid in stream if alive(pid)]}

    def resources(self) -> Mapping[int, Usage]:
        """Of each of Chronicle's processes now."""
        pids = [pid for each in self.pids().values() for pid in each]
        return {pid: found for pid in pids if (found := usage(pid)) is not None}

    def _told(self) -> dict[str, Any]:
        try:
            told: dict[str, Any] = json.loads(self._ready_file.read_text())
        except (OSError, ValueError):
            return {}
        return told

    @property
    def _ready_file(self) -> Path:
        return self.folder / "ready.json"

    # --- Chronicle's processes ----------------------------------------------------------------------------------------

    async def start_chronicle(self) -> None:
        """See the contract. Raises `NotReady`."""
        if self._up is None:
            self._up = await self._spawn(self._up_command(), {}, self.log)
        await self._until(lambda: _value(bool(self._told())), START_S, "the ready file")
        await self.until_ready(START_S)

    async def stop_chronicle(self) -> None:
        """See the contract; added workers are others' business."""
        if self._up is not None:
            await asyncio.to_thread(end, self._up)
            self._up = None

    async def kill_chronicle(self) -> None:
        """See the contract; added workers too."""
        processes = [process for process in (self._up, *self._added.values()) if process is not None]
        pids = [pid for process in processes for pid in family(process.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in processes:
            await asyncio.to_thread(process.wait)
        self._up = None
        self._added.clear()
        self._ready_file.unlink(missing_ok=True)

    async def add_worker(self, name: str) -> int:
        """See the contract; it is not waited for. One that has ended is started anew."""
        known = self._added.get(name)
        if known is None or known.poll() is not None:
            command = ("worker", "--roles", STREAM_ROLES, "--name", name)
            self._added[name] = await self._spawn(command, self._worker_env(), self.folder / f"{name}.log")
        return self._added[name].pid

    async def remove_worker(self, name: str, *, kill: bool = False) -> None:
        """See the contract; returns when it is gone."""
        process = self._added.pop(name, None)
        if process is None:
            return
        if kill:
            kill_group(process.pid)
        await asyncio.to_thread(end, process)

    def _up_command(self) -> tuple[str, ...]:
        options = {
            "--state-dir": str(self.state_dir),
            "--broker": self.broker,
            "--database": self.chronicle_dsn,
            "--stream-workers": str(self._stream_workers),
            "--ready-file": str(self._ready_file),
            "--port": str(self._port),
        }
        return ("up", *(part for option in options.items() for part in option))

    def _worker_env(self) -> dict[str, str]:
        """What `up` tells its own stream workers (app/stack/stack.py)."""
        return {
            "CHRONICLE_LOGGING__FORMAT": "console",
            "CHRONICLE_KAFKA__BROKERS": self.broker,
            "CHRONICLE_DATABASE__URL": self.chronicle_dsn,
            "CHRONICLE_DATABASE__FALLBACK_PATH": str(self.sqlite),
            "CHRONICLE_STATE_DIR": str(self.state_dir),
            "CHRONICLE_SERVER__HOST": "127.0.0.1",
            "CHRONICLE_SERVER__PORT": str(free_port()),
            "CHRONICLE_SERVER__URL": self.url,
        }

    async def _spawn(self, command: tuple[str, ...], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        work = functools.partial(spawn, command, {**self._env(), **env}, log)
        return await asyncio.get_running_loop().run_in_executor(self._starter, work)

    def _env(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHRONICLE_")}
        path = [part for part in (self._pythonpath, inherited.get("PYTHONPATH")) if part]
        points = {"CHRONICLE_FAULT_POINTS": str(self._points_dir)}
        return {**inherited, **points, **self._settings, **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}

    # --- how it is ----------------------------------------------------------------------------------------------------

    async def ready(self) -> Mapping[str, object] | None:
        """See the contract."""
        return await get_json(f"{self.url}/ready")

    async def lag(self) -> int:
        """See the contract; takes at most about 3 seconds. A partition without a commit counts whole."""
        return await self._lag.ask(STORING)

    async def lag_of_all(self) -> int:
        """The same of all groups, counting and its history too."""
        return await self._lag.ask()

    async def worked_off(self) -> None:
        """See the contract."""
        while (await get_json(f"{self.url}/stats") or {}).get("parts", {}).get("pending", {}).get("spool", 1):
            await asyncio.sleep(0.2)
        await self._lag.worked_off()

    async def until_ready(self, timeout: float) -> float:
        """Until /ready says `ready`; the seconds it took. Raises `NotReady`."""

        async def ready() -> tuple[bool, object]:
            self._refuse_ended()
            body = await self.ready()
            return body is not None and body.get("status") == "ready", body

        return await self._until(ready, timeout, "ready")

    async def until_lag_zero(self, timeout: float) -> float:
        """Until `lag_of_all` is 0; the seconds it took. Raises `NotReady`."""

        async def zero() -> tuple[bool, object]:
            lag = await self.lag_of_all()
            return lag == 0, lag

        return await self._until(zero, timeout, "lag 0")

    def _refuse_ended(self) -> None:
        if self._up is not None and (code := self._up.poll()) is not None:
            raise NotReady(f"`up` ended with {code}:\n{self.log_tail()}")

    async def _until(self, look: Callable[[], Awaitable[tuple[bool, object]]], timeout: float, what: str) -> float:
        began = time.monotonic()
        while True:
            self._refuse_ended()
            good, last = await look()
            took = time.monotonic() - began
            if good:
                return took
            if took > timeout:
                raise NotReady(f"not within {timeout:.0f} s: {what} (last: {last!r})\n{self.log_tail()}")
            await asyncio.sleep(POLL_S)

    def log_tail(self, size: int = 3000) -> str:
        """The end of what `up` said."""
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""


async def _value(value: bool) -> tuple[bool, object]:
    return value, value
