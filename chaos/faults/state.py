"""The tables of a worker: a RocksDB directory deleted or corrupt, a changelog cut off: work, never an event lost."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from confluent_kafka import TopicPartition
from confluent_kafka import admin as kafka

from chaos.faults.own import Own, missing_after, worker_name
from chaos.model import Expected, Fault, Place

kinds: Any = kafka  # these names are re-exported, not listed
#: Seconds for an answer of the broker to one question.
ASK_S = 15.0


def tables(place: Place, worker: str, table: str) -> Iterator[Path]:
    """The RocksDB directories of a worker's table, one a partition."""
    folder = place.state_dir / "workers" / worker / table
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if (path / "CURRENT").exists())


class _TableHurt(Fault):
    """Events go in, the table that remembers them is hurt, the same events go in again: still one row each."""

    expected = Expected(restarts=True, ready_s=30.0)
    hold_s = 1.0
    loses_state = True
    probes: ClassVar[int] = 40
    table: ClassVar[str] = "seen"

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.own = Own(self.name, chance)

    async def inject(self, place: Place) -> bool:
        self.sent = self.own.events(self.probes)
        await self.own.send(place.url, self.sent)
        await missing_after(place.dsn, list(self.own.acked), 30.0)
        self.victims = [
            pid for pid in place.pids()["stream"] if (name := worker_name(pid)) and any(tables(place, name, self.table))
        ]
        if not self.victims:
            self.found.broken.append("no stream worker has a table on disk")
            return False
        await self.hurt(place)
        return True

    async def hurt(self, place: Place) -> None:
        """Kill a worker, and touch its files before its supervisor starts it again (half a second at least)."""
        pid = self.chance.choice(self.victims)
        name = worker_name(pid) or ""
        os.kill(pid, signal.SIGKILL)
        for table in list(tables(place, name, self.table)):
            self.spoil(table)

    def spoil(self, table: Path) -> None:
        raise NotImplementedError

    async def heal(self, place: Place) -> None:
        """Chronicle does it by itself."""

    async def verify(self, place: Place) -> None:
        self.own.open = {event["event_id"]: event for event in self.sent}
        if not await self.own.send_again(place.url):
            self.found.broken.append("repeats of known events were not taken")
        self.found.broken += await self.own.broken(place.dsn)


class SeenDeleted(_TableHurt):
    name = "seen-deleted"
    rows = ("F29",)
    what = "A stream worker is killed and the directory of its dedup table deleted; it is restored from the changelog."
    short = True

    def spoil(self, table: Path) -> None:
        shutil.rmtree(table, ignore_errors=True)


class SeenCorrupt(_TableHurt):
    name = "seen-corrupt"
    rows = ("F29",)
    what = (
        "A stream worker is killed and bytes in the MANIFEST, CURRENT, a log or an SST file of its table are changed."
    )

    def spoil(self, table: Path) -> None:
        damage(table, self.chance)


class UsageDeleted(_TableHurt):
    """That it was restored as it was I17 tells, at the end of the campaign."""

    name = "usage-deleted"
    rows = ("F48",)
    what = "A stream worker is killed and the directory of its aggregate table deleted; the changelog restores it."
    table = "usage"

    def spoil(self, table: Path) -> None:
        shutil.rmtree(table, ignore_errors=True)


class UsageCorrupt(_TableHurt):
    """As `UsageDeleted`."""

    name = "usage-corrupt"
    rows = ("F48",)
    what = "As seen-corrupt, in the aggregate table."
    table = "usage"

    def spoil(self, table: Path) -> None:
        damage(table, self.chance)


class ChangelogTruncated(_TableHurt):
    """Without changelog the table cannot be restored; repeats are then found by the primary key, one step later."""

    name = "changelog-truncated"
    rows = ("F30",)
    what = "All records of the dedup table's changelog are deleted, and a worker loses its table on top of it."
    keeps_counts = False
    loses_state = False  # nothing is left to restore it from

    async def hurt(self, place: Place) -> None:
        await asyncio.to_thread(truncate, place.broker, place.topics["seen"])
        await super().hurt(place)

    def spoil(self, table: Path) -> None:
        shutil.rmtree(table, ignore_errors=True)


def damage(table: Path, chance: random.Random) -> None:
    """Turn sixteen bits of one of the files of a RocksDB."""
    patterns = ("MANIFEST-*", "CURRENT", "*.sst", "*.log")
    kinds = [found for pattern in patterns if (found := sorted(table.glob(pattern)))]
    path = chance.choice(chance.choice(kinds))
    data = bytearray(path.read_bytes())
    for _ in range(min(16, len(data))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def truncate(broker: str, topic: str) -> None:
    """Delete all records of a topic. A compacted one allows that only while its policy says `delete`, too."""
    admin = kafka.AdminClient({"bootstrap.servers": broker})
    partitions = admin.list_topics(topic, timeout=ASK_S).topics[topic].partitions
    _policy(admin, topic, "compact,delete")
    try:
        ends = [TopicPartition(topic, number, -1) for number in partitions]  # -1: up to the high watermark
        for done in admin.delete_records(ends, request_timeout=ASK_S).values():
            done.result(ASK_S)
    finally:
        _policy(admin, topic, "compact")


def _policy(admin: Any, topic: str, value: str) -> None:
    entry = kinds.ConfigEntry("cleanup.policy", value, incremental_operation=kinds.AlterConfigOpType.SET)
    resource = kinds.ConfigResource(kinds.ResourceType.TOPIC, topic, incremental_configs=[entry])
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(ASK_S)
