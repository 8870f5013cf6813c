"""The whole of Chronicle on one machine: Kafka, Postgres, one `ingest,api` worker and some stream workers.

`Plan` says what is wanted; `Stack.run` makes it so: lock the state directory · start Kafka and Postgres · migrate the
database and make the topics · start the workers · wait until /ready is ready · write the ready file · wait for a
signal · remove the ready file · stop ingest, stream, Postgres, Kafka.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from app.stack.apart import BASE
from app.stack.console import Console
from app.stack.kafka import Kafka
from app.stack.lock import StateLock
from app.stack.ports import PortBook, is_free
from app.stack.postgres import Postgres
from app.stack.process import Program
from app.stack.ready import Pids, Ready, ReadyFiles, TopicNames
from app.stack.supervisor import Child, Supervisor
from schemas.errors import ChronicleError, Misconfigured, Unavailable
from schemas.topics import Topics

STOP_S = 8.5  # `up` promises 10, and the files of --ephemeral are removed within them too
START_S = 90.0
USUAL_PORT = 8000  # where hooks look unless told otherwise

#: Brings an empty broker and empty databases into shape: (brokers, DSN, file of the local store).
Prepare = Callable[[str, str, Path], Awaitable[None]]
#: By what a server is named.
_FLAGS = {"postgres": "--database", "kafka": "--broker"}
#: What a stream worker does.
STREAM_ROLES = "dedupe,persist,aggregate,history"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What `up` was asked for. `port` None means the one of last time, else 8000, else a free one.

    `broker` and `database` are somebody else's; None means ours. `prepare` and `worker` (the command line of a worker,
    without its options) come in, so that the stack can be tried without the rest of the house.
    """

    state_dir: Path
    topics: Topics
    prepare: Prepare
    worker: Sequence[str]
    host: str = "127.0.0.1"
    port: int | None = None
    broker: str | None = None
    database: str | None = None
    stream_workers: int = 1
    ready_file: Path | None = None
    kafka_home: Path | None = None
    sqlite: Path | None = None
    usual_port: bool = True
    worker_env: Mapping[str, str] = msgspec.field(default_factory=dict)
    start_timeout: float = START_S


class Stack:
    """Runs a plan once."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan = plan
        self._console = console
        self._log_dir = plan.state_dir / "logs"
        self._lock = StateLock(plan.state_dir)
        own = [plan.ready_file.absolute()] if plan.ready_file else []
        self._ready_files = ReadyFiles(plan.state_dir / "ready.json", *own)
        self._children: dict[str, Child] = {}
        self._ready: Ready | None = None
        self._asked = asyncio.Event()
        self._signals = 0

    async def run(self) -> int:
        """Returns the exit code: 0 after a signal, 1 when it could not start, 130 when stopped by force."""
        try:
            self._lay_out()
        except ChronicleError as error:
            self._console.say(str(error))
            return 1
        self._supervisor = Supervisor(self._log_dir, self._console, self._pids_changed)
        self._listen()
        try:
            return await self._serve()
        finally:
            self._ready_files.remove()
            await self._stop()
            self._lock.release()

    # --- before -------------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Directories, the lock, the ports. Raises `Misconfigured`."""
        plan = self.plan
        try:
            if not plan.state_dir.exists():
                plan.state_dir.mkdir(parents=True)
                plan.state_dir.chmod(0o711)  # others may pass through, which Postgres' own user must; not look in
            self._log_dir.mkdir(exist_ok=True)
        except OSError as error:
            raise Misconfigured(
                f"The state directory {plan.state_dir} cannot be made: {error.strerror}.", "Give another --state-dir."
            ) from error
        self._lock.acquire()
        self._ready_files.remove()  # of a run that was killed
        if plan.port and not is_free(plan.port, plan.host):
            raise Misconfigured(f"Port {plan.port} on {plan.host} is in use.", "Give another --port, or none.")
        self._ports = PortBook(plan.state_dir / "ports.json")
        usual = USUAL_PORT if plan.usual_port else None
        self._port = plan.port or self._ports.choose("http", host=plan.host, prefer=usual)

    @property
    def url(self) -> str:
        """Where this machine reaches the API."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.plan.host, self.plan.host)
        return f"http://{host}:{self._port}"

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        self._signals += 1
        self._asked.set()
        if self._signals > 1:
            self._console.say("stopping by force")
            self._supervisor.kill()

    # --- the run ------------------------------------------------------------------------------------------------------

    async def _serve(self) -> int:
        starting = asyncio.create_task(self._start())
        asked = asyncio.create_task(self._asked.wait())
        await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            try:
                starting.result()
            except ChronicleError as error:
                self._console.say(f"could not start: {error}{_remedy(error)}")
                asked.cancel()
                return 1
            await asked
        else:
            starting.cancel()
            await asyncio.wait({starting})
        return 0 if self._signals < 2 else 130

    async def _start(self) -> None:
        began = time.monotonic()
        self._console.say(f"state in {self.plan.state_dir}")
        broker, database = await asyncio.gather(self._broker(), self._database())
        await self.plan.prepare(broker, database, self._sqlite)
        self._console.say("database migrated, topics there")
        await self._workers(broker, database)
        self._ready = self._describe(broker, database)
        self._ready_files.write(self._ready)
        self._lock.note(url=self.url)
        self._console.block(_welcome(self._ready, time.monotonic() - began))

    async def _broker(self) -> str:
        if self.plan.broker:
            return self.plan.broker
        port = self._ports.choose("kafka")
        kafka = Kafka(
            self.plan.state_dir / "kafka",
            port,
            controller_port=self._ports.choose("kafka-controller"),
            kafka_home=self.plan.kafka_home,
        )
        await asyncio.to_thread(kafka.prepare, self._console.say)
        await self._begin("kafka", kafka.program())
        self._console.say(f"Kafka answers on {kafka.address}")
        return kafka.address

    async def _database(self) -> str:
        if self.plan.database:
            return self.plan.database
        postgres = Postgres(self.plan.state_dir / "postgres", self._ports.choose("postgres"))
        await asyncio.to_thread(postgres.prepare, self._console.say)
        await self._begin("postgres", postgres.program())
        self._console.say(f"Postgres answers on 127.0.0.1:{postgres.port}")
        return postgres.dsn

    async def _begin(self, name: str, program: Program) -> None:
        self._children[name] = self._supervisor.start(program)
        await self._children[name].wait_ready(self.plan.start_timeout)

    async def _workers(self, broker: str, database: str) -> None:
        shared = {
            **self.plan.worker_env,
            "CHRONICLE_KAFKA__BROKERS": broker,
            "CHRONICLE_DATABASE__URL": database,
            "CHRONICLE_DATABASE__FALLBACK_PATH": str(self._sqlite),
            "CHRONICLE_STATE_DIR": str(self.plan.state_dir),
            "CHRONICLE_SERVER__HOST": self.plan.host,
            "CHRONICLE_SERVER__URL": self.url,
        }
        if self.plan.broker is None:  # ours is alone, whatever the profile asks of a cluster
            shared["CHRONICLE_KAFKA__REPLICATION"] = "1"
        programs = [self._worker("ingest", "ingest,api", self.plan.host, self._port, shared)]
        for name in self._stream_names:
            loopback = {**shared, "CHRONICLE_SERVER__HOST": "127.0.0.1"}  # its port is for probes alone
            programs.append(self._worker(name, STREAM_ROLES, "127.0.0.1", self._ports.choose(name), loopback))
        for program in programs:
            self._children[program.name] = self._supervisor.start(program)
        await asyncio.gather(*(self._children[p.name].wait_ready(self.plan.start_timeout) for p in programs))
        if self._stream_names:  # without them nothing is ready, and shall not be
            await self._wait_ready()

    def _worker(self, name: str, roles: str, host: str, port: int, shared: Mapping[str, str]) -> Program:
        own = {
            "CHRONICLE_SERVER__PORT": str(port),
            "CHRONICLE_WORKER__NAME": name,
            "CHRONICLE_WORKER__ROLES": roles,
        }
        host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        return Program(
            name=name,
            argv=(*self.plan.worker, "--roles", roles, "--name", name),
            env={**shared, **own},
            answers=lambda: self._is_ours(name, get_json(f"http://{host}:{port}/health")),
        )

    def _is_ours(self, name: str, health: Any) -> bool:
        """Whether it is our worker that answers: another stack may have taken the port before it could bind."""
        pid = self._children[name].pid
        return isinstance(health, dict) and health.get("pid", pid) == pid

    async def _wait_ready(self) -> None:
        """Until /ready says ready. Raises `Unavailable` with what it said last."""
        deadline = time.monotonic() + self.plan.start_timeout
        last: Any = None
        while not last or last.get("status") != "ready":
            if time.monotonic() > deadline:
                raise Unavailable("chronicle", f"not ready within {self.plan.start_timeout:.0f} s: {_reasons(last)}")
            for child in self._children.values():
                if child.deaths >= 5:
                    raise Unavailable(child.program.name, f"ended {child.deaths} times at its start:\n{child.tail()}")
            last = await asyncio.to_thread(get_json, f"{self.url}/ready")
            await asyncio.sleep(0.1)

    @property
    def _stream_names(self) -> list[str]:
        return [f"stream-{number}" for number in range(1, self.plan.stream_workers + 1)]

    @property
    def _sqlite(self) -> Path:
        return self.plan.sqlite or self.plan.state_dir / "failover.db"

    # --- what others see ----------------------------------------------------------------------------------------------

    def _describe(self, broker: str, database: str) -> Ready:
        topics = self.plan.topics
        return Ready(
            url=self.url,
            broker=broker,
            database=database,
            sqlite=str(self._sqlite),
            state_dir=str(self.plan.state_dir),
            topics=TopicNames(topics.ingest.name, topics.events.name, topics.dead_letters.name),
            pids=self._pids(),
        )

    def _pids(self) -> Pids:
        def pid(name: str) -> int | None:
            child = self._children.get(name)
            return child.pid if child else None

        stream = tuple(number for name in self._stream_names if (number := pid(name)))
        return Pids(pid("kafka"), pid("postgres"), pid("ingest"), stream)

    def _pids_changed(self) -> None:
        if self._ready is None or self._asked.is_set():
            return
        self._ready = msgspec.structs.replace(self._ready, pids=self._pids())
        with contextlib.suppress(OSError):  # its directory is gone: then nobody reads it
            self._ready_files.write(self._ready)

    # --- after --------------------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        """What feeds others stops first: no event is accepted that nobody takes away."""
        if self._children:
            self._console.say("stopping")
        waves = [["ingest"], self._stream_names, ["postgres"], ["kafka"]]
        await self._supervisor.stop(waves, timeout=STOP_S)


def get_json(url: str, timeout: float = 1.0) -> Any:
    """The JSON that answers GET, whatever the status; None when nothing (or no JSON) does. Never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with contextlib.suppress(ValueError, OSError):
            return json.load(error)
        return None
    except (OSError, ValueError):
        return None


def _remedy(error: ChronicleError) -> str:
    """What to do about somebody's server that does not answer; a sentence that ends as one has told it already."""
    flag = _FLAGS.get(error.what) if isinstance(error, Unavailable) else None
    return f". Start it, or name another one with {flag}." if flag and not str(error).endswith(".") else ""


def _reasons(answer: Any) -> str:
    if not isinstance(answer, dict):
        return "/ready does not answer"
    checks = answer.get("checks")
    if not isinstance(checks, list):
        return str(answer)
    return "; ".join(f"{c.get('name')}: {c.get('detail')}" for c in checks if not c.get("ok"))


def _welcome(ready: Ready, seconds: float) -> str:
    rows = {
        "events": f"POST {ready.url}/events   (hooks: {ready.url}/hooks/claude-code)",
        "page": f"{ready.url}/dashboard/",
        "API": f"{ready.url}/docs",
        "ledger": f"{ready.url}/stats",
        "Kafka": ready.broker,
        "Postgres": f"psql '{ready.database}'",
        "state": ready.state_dir,
    }
    lines = [f"  {name:<10}{text}" for name, text in rows.items()]
    return "\n".join([f"Chronicle is ready ({seconds:.1f} s). Ctrl-C stops it.", *lines])


def launcher() -> tuple[str, ...]:
    """The command line that starts `chronicle` again with this Python, wherever it is installed."""
    main = BASE / "__main__.py" if (BASE / "__main__.py").exists() else BASE / "chronicle" / "__main__.py"
    return (sys.executable, "-P", str(main))
