"""Faults of what the broker keeps: its disk full, its data lost, its topics of the wrong shape."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from confluent_kafka.admin import AdminClient

from app.stack.ports import free_port
from app.stack.stack import STREAM_ROLES
from chaos.faults import small_disk
from chaos.faults.looking import ask, under_way, until
from chaos.faults.processes import strike
from chaos.model import Expected, Fault, Place

#: How long a worker may take to refuse topics it cannot work with.
REFUSAL_S: Final = 40.0
#: sysexits.h EX_CONFIG, which Chronicle documents for mistakes of configuration.
EX_CONFIG: Final = 78
#: How long the ingest process may be held while its topics are worked off.
QUIET_S: Final = 2.5
QUIET_TRIES: Final = 5
_untyped: Any = __import__("confluent_kafka.admin", fromlist=["NewTopic"])


@runtime_checkable
class Wipeable(Protocol):
    """A stopped broker whose data, in `directory`/data, can be thrown away."""

    directory: Path

    def wipe(self) -> None: ...


class BrokerAway(Fault):
    """Common to all that keep Chronicle from its broker: ingest answers 202 from its spool, or 503 in time."""

    expected = Expected(lag_zero_s=45.0, degraded=True)

    async def inject(self, place: Place) -> bool:
        """See the contract."""
        hit = await under_way(place)
        await self._hurt(place)
        return hit

    async def _hurt(self, place: Place) -> None:
        raise NotImplementedError

    async def during(self, place: Place) -> None:
        """The ingest process goes on answering."""
        if await place.ready() is None:
            self.found.broken.append(f"{self.name}: /ready does not answer while the broker is away")


class KafkaDiskFull(BrokerAway):
    """F11: its data are moved to a small disk first, which costs a restart, and moved back afterwards."""

    name = "kafka-disk-full"
    rows = ("F11",)
    what = "the disk with Kafka's log is full: the broker ends itself; 12 s later there is room and it is started"
    hold_s = 12.0
    expected = Expected(ready_s=30.0, lag_zero_s=60.0, degraded=True)
    ROOM: ClassVar[int] = 24 * small_disk.MIB
    _data: Path | None = None

    def cannot(self, place: Place) -> str | None:
        """See the contract."""
        if not isinstance(place.kafka, Wipeable):
            return "the broker is not the drill's own"
        return small_disk.cannot_mount()

    async def _hurt(self, place: Place) -> None:
        assert isinstance(place.kafka, Wipeable)
        await asyncio.to_thread(place.kafka.stop)
        self._data = place.kafka.directory / "data"
        await asyncio.to_thread(_onto_small_disk, self._data, self.ROOM)
        await asyncio.to_thread(place.kafka.start)
        await until(lambda: _answers(place), 20.0)
        await asyncio.to_thread(small_disk.fill, self._data)

    async def during(self, place: Place) -> None:
        """It is really down."""
        await super().during(place)
        if place.kafka.running():
            self.found.broken.append(f"{self.name}: the broker still runs on a full disk")

    async def heal(self, place: Place) -> None:
        """See the contract."""
        await asyncio.to_thread(place.kafka.kill)
        if self._data is not None:
            small_disk.empty(self._data)
            await asyncio.to_thread(_back_from_small_disk, self._data)
        await asyncio.to_thread(place.kafka.start)


class KafkaWiped(Fault):
    """What was acked and not worked off is gone with the only copy, so everything is worked off first."""

    name = "kafka-wiped"
    keeps_log = False
    rows = ("F12",)
    what = "Kafka loses all its data while Postgres keeps its own: noticed, no crash loop, new events flow"
    hold_s = 5.0
    hits = 3
    expected = Expected(ready_s=60.0, lag_zero_s=60.0, degraded=True, restarts=True)
    _events = 0

    def cannot(self, place: Place) -> str | None:
        """Only with a broker of our own."""
        return None if isinstance(place.kafka, Wipeable) else "the broker is not the drill's own"

    async def inject(self, place: Place) -> bool:
        """Hold ingest until all is worked off, kill the broker, let ingest go: it spools from here on."""
        hit = await under_way(place)
        for _ in range(QUIET_TRIES):
            if await self._kill_when_quiet(place):
                break
            await asyncio.sleep(1)
        else:
            self.found.broken.append(f"{self.name}: never quiet for a moment, so not done")
            return False
        assert isinstance(place.kafka, Wipeable)
        await asyncio.to_thread(place.kafka.wipe)
        self._events = await ask(place, "SELECT count(*) FROM events")
        return hit

    async def _kill_when_quiet(self, place: Place) -> bool:
        pid = place.pids()["ingest"][0]
        strike(pid, signal.SIGSTOP)
        try:
            if await until(lambda: _nothing_to_do(place), QUIET_S) is None:
                return False
            await asyncio.to_thread(place.kafka.kill)
            return True
        finally:
            strike(pid, signal.SIGCONT)

    async def heal(self, place: Place) -> None:
        """An empty broker comes up."""
        await asyncio.to_thread(place.kafka.start)

    async def verify(self, place: Place) -> None:
        """New events arrive."""

        async def more() -> bool:
            return bool(await ask(place, "SELECT count(*) FROM events") > self._events)

        took = await until(more, 30.0)
        if took is None:
            self.found.broken.append(f"{self.name}: no new event reaches Postgres")


async def _answers(place: Place) -> bool:
    return await place.lag() >= 0


def _onto_small_disk(data: Path, room: int) -> None:
    aside = data.with_name("data.aside")
    data.rename(aside)
    data.mkdir()
    small_disk.mount(data, small_disk.used(aside) + room)
    shutil.copytree(aside, data, dirs_exist_ok=True)


def _back_from_small_disk(data: Path) -> None:
    aside, fresh = data.with_name("data.aside"), data.with_name("data.fresh")
    if not data.is_mount():  # it failed before: what is aside is all there is
        if aside.exists():
            shutil.rmtree(data, ignore_errors=True)
            aside.rename(data)
        return
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(data, fresh)
    small_disk.unmount(data)
    data.rmdir()
    fresh.rename(data)
    shutil.rmtree(aside, ignore_errors=True)


async def _nothing_to_do(place: Place) -> bool:
    """Everything is in a database. What is not counted yet may go: the tables begin anew with the log."""
    return await place.lag() == 0


class KafkaWrongTopics(Fault):
    """Beside the installation, under a prefix of its own: a worker must refuse to start, and say how to mend it."""

    name = "kafka-wrong-topics"
    rows = ("F13",)
    what = "start a worker against an ingest topic with the wrong number of partitions: refused with a remedy"
    hold_s = 0.0
    hits = 3
    _prefix = ""

    async def inject(self, place: Place) -> bool:
        """See the contract."""
        hit = await under_way(place)
        self._prefix = f"drill-{uuid.uuid4().hex[:8]}"
        admin = AdminClient({"bootstrap.servers": place.broker})
        made = admin.create_topics([_untyped.NewTopic(f"{self._prefix}.ingest", 1, 1)])
        await asyncio.to_thread(lambda: [done.result(20) for done in made.values()])
        with tempfile.TemporaryDirectory(prefix="chronicle-drill-") as folder:
            code, said = await asyncio.to_thread(self._start, place, Path(folder))
        if code != EX_CONFIG:
            self.found.broken.append(f"{self.name}: the worker ended with {code} instead of {EX_CONFIG}: {said[-300:]}")
        if f"{self._prefix}.ingest has 1 partitions instead of" not in said:
            self.found.broken.append(f"{self.name}: the worker did not say what is wrong: {said[-300:]}")
        return hit

    def _start(self, place: Place, folder: Path) -> tuple[int | None, str]:
        env = {
            "CHRONICLE_KAFKA__BROKERS": place.broker,
            "CHRONICLE_KAFKA__PREFIX": self._prefix,
            "CHRONICLE_DATABASE__URL": place.dsn,
            "CHRONICLE_STATE_DIR": str(folder),
            "CHRONICLE_SERVER__PORT": str(free_port()),
        }
        command = (sys.executable, "-m", "chronicle", "worker", "--roles", STREAM_ROLES, "--name", self._prefix)
        try:
            done = subprocess.run(
                command, env={**os.environ, **env}, capture_output=True, text=True, timeout=REFUSAL_S, check=False
            )
        except subprocess.TimeoutExpired as expired:
            return None, str(expired.stderr or expired.stdout)
        return done.returncode, done.stdout + done.stderr

    async def heal(self, place: Place) -> None:
        """The topics of that prefix go."""
        if not self._prefix:
            return
        admin = AdminClient({"bootstrap.servers": place.broker})
        there = await asyncio.to_thread(lambda: admin.list_topics(timeout=5).topics)
        if ours := [name for name in there if name.startswith(self._prefix)]:
            gone = admin.delete_topics(ours)
            await asyncio.to_thread(lambda: [done.result(20) for done in gone.values()])


FAULTS: Final[tuple[type[Fault], ...]] = (KafkaDiskFull, KafkaWiped, KafkaWrongTopics)
