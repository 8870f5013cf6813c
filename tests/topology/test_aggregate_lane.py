"""The five steps of aggregate on a real store and a log in memory: what is written, held, repeated and left."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from agents.aggregate import Deps, Lane
from connectors.ports import Record
from connectors.scan import Stretch
from schemas.event import HookEvent, IdOrigin
from schemas.metrics import NullMetrics
from schemas.topics import POSITION_HEADER
from seen_world import CODEC, T0, TOPICS, Aborted, Chunk, Clock, MemoryLog, Read
from tables.rocks import Closed, Corrupt
from tables.usage import Key, Usage
from tables.usage_codec import CLOCK, pack, pack_key, unpack
from tables.usage_store import UsageStore

MINUTE = T0 // 1000 - T0 // 1000 % 60
ALL: Key = ("usage", "minute", MINUTE, "all", "")
TOPIC = TOPICS.aggregates.name


def read(offset: int, value: bytes | None = None, *, ingest: int | None = None) -> Read:
    """A record of `chronicle.events`; the ingest offset is the same unless told."""
    event = HookEvent(
        event_id=UUID(int=offset),
        fingerprint=b"f" * 16,
        id_origin=IdOrigin.FRESH,
        session_id="s",
        event_type="user_prompt",
        occurred_at=T0 * 1000,
        received_at=T0 * 1000,
        source="test",
        payload="{}",
    )
    place = struct.pack(">iq", 0, offset if ingest is None else ingest)
    return Read(offset, T0, b"s", value or CODEC.encode(event), ((POSITION_HEADER, place),))


class OneTable:
    """What the agent needs of `UsageTable`, for partition 0."""

    def __init__(self, path: Path) -> None:
        self.store: UsageStore | None = UsageStore.open(path)
        self.set_aside_for: list[str] = []

    def partition(self, partition: int) -> UsageStore:
        if self.store is None:
            raise Closed(str(partition))
        return self.store

    def set_aside(self, partition: int, reason: str) -> None:
        self.set_aside_for.append(reason)

    def known(self, partition: int) -> int:
        persisted = self.partition(partition).persisted
        return 0 if persisted is None else persisted + 1


class World:
    """A lane over a store; `acked` is where the group stands."""

    def __init__(self, path: Path, faults: Sequence[str | None] = ()) -> None:
        self.table, self.log, self.abort = OneTable(path), MemoryLog(faults), Aborted()
        self.acked = 0
        self.held: set[int] = set()
        self.lane: Lane | None = None

    def chunk(self, *records: Read) -> Chunk:
        def ack(through: int) -> None:
            self.acked = through

        return Chunk(records, ack)

    async def count(self, *chunks: Chunk, until: Callable[[], bool], linger_s: float = 0.0) -> None:
        async def no_wait(_: float) -> None:
            await asyncio.sleep(0)

        given: dict[str, Any] = {"table": self.table, "log": self.log, "codec": CODEC, "topics": TOPICS, "scan": self}
        deps = Deps(
            **given,
            clock=Clock(),
            metrics=NullMetrics(),
            held=self.held,
            abort=self.abort,
            linger_s=linger_s,
            sleep=no_wait,
        )
        self.lane = Lane(0, deps)
        for chunk in chunks:
            await self.lane.put(chunk)
        async with asyncio.timeout(10):
            while not until() and not self.abort.reasons:
                await asyncio.sleep(0)
        await self.lane.close()

    async def read(self, topic: str, partition: int, start: int, end: int, most: int) -> Stretch:
        """As `LogScan.read`, of the log in memory."""
        last = min(end, start + most)
        written = self.log.topics[topic][start:last]
        return Stretch([(start + n, one.key, one.value, ()) for n, one in enumerate(written)], last)

    def value(self, key: Key = ALL) -> Usage:
        (found,) = self.table.partition(0).lookup([key])
        assert isinstance(found, Usage)
        return found

    def written(self) -> list[Record]:
        return self.log.topics.get(TOPIC, [])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage" / "0"


@pytest_asyncio.fixture
async def world(path: Path) -> AsyncIterator[World]:
    made = World(path)
    yield made
    if made.table.store is not None:
        made.table.store.close()


async def test_a_batch_is_written_down_and_then_acked(world: World) -> None:
    """The changelog has the clock first and the session last; the store has what the changelog has."""
    await world.count(world.chunk(read(0), read(1)), until=lambda: world.acked == 2)
    assert world.value().events == {"user_prompt": 2}
    keys = [unpack(record.key or b"", record.value or b"")[0] for record in world.written()]
    assert keys[0] == CLOCK
    assert keys[-1] == ("session", "s")
    restored = UsageStore.open(world.table.partition(0)._path.with_name("restored"))
    restored.apply([(at, record.key or b"", record.value) for at, record in enumerate(world.written())])
    assert dict(restored.items()) == dict(world.table.partition(0).items())
    restored.close()


async def test_what_cannot_be_decoded_is_passed_over(world: World) -> None:
    """Persist makes a dead letter of it; here it counts nothing and stops nothing."""
    await world.count(world.chunk(read(0, b"junk"), read(1)), until=lambda: world.acked == 2)
    assert world.value().events == {"user_prompt": 1}


async def test_chunks_that_come_together_are_one_write(world: World) -> None:
    """A busy key is written once for all of them."""
    chunks = [world.chunk(read(n)) for n in range(5)]
    await world.count(*chunks, until=lambda: world.acked == 5, linger_s=0.05)
    assert world.value().events == {"user_prompt": 5}
    assert [record.key for record in world.written()].count(pack_key(ALL)) == 1


@pytest.mark.parametrize("faults", [["lost", "lost"], ["unknown"], ["unknown", "lost", "unknown"]])
async def test_a_broker_that_is_away_is_waited_for(path: Path, faults: list[str | None]) -> None:
    """What was written in part is written again; nothing counts twice."""
    world = World(path, faults)
    await world.count(world.chunk(read(0), read(1)), until=lambda: world.acked == 2)
    assert world.value().events == {"user_prompt": 2}
    assert world.held == set()
    assert world.abort.reasons == []


async def test_a_batch_that_comes_again_changes_nothing(world: World) -> None:
    """Acked all the same, and nothing is written."""
    await world.count(world.chunk(read(0), read(1)), until=lambda: world.acked == 2)
    before = len(world.written())
    world.acked = 0
    await world.count(world.chunk(read(0), read(1), read(2, ingest=1)), until=lambda: world.acked == 3)
    assert len(world.written()) == before
    assert world.value().events == {"user_prompt": 2}


async def test_a_batch_of_an_old_assignment_is_left(path: Path) -> None:
    """The broker is away and the partition is taken away meanwhile: its next owner counts it."""
    world = World(path, ["lost"] * 50)
    chunk = world.chunk(read(0))

    def taken() -> bool:
        chunk.live = not world.held
        return not chunk.live

    await world.count(chunk, until=taken)
    assert world.acked == 0


async def test_a_store_that_is_closed_meanwhile_is_left_without_an_alarm(world: World) -> None:
    """The rebalance was quicker."""
    assert world.table.store is not None
    world.table.store.close()
    done: Iterator[bool] = iter([False] * 50)
    await world.count(world.chunk(read(0)), until=lambda: next(done, True))
    assert (world.acked, world.abort.reasons) == (0, [])


async def test_a_corrupt_store_is_set_aside_and_the_process_starts_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restart restores it from the changelog."""

    def broken(*_: object) -> None:
        raise Corrupt("bad block")

    monkeypatch.setattr(UsageStore, "lookup", broken)
    await world.count(world.chunk(read(0)), until=lambda: False)
    assert world.table.set_aside_for == ["bad block"]
    assert "set aside" in world.abort.reasons[0]
    assert world.acked == 0


async def test_old_buckets_get_a_tombstone(world: World) -> None:
    """With the first batch that is new enough."""
    old = pack_key(("usage", "minute", MINUTE - 30 * 86_400, "all", ""))
    world.table.partition(0).apply([(0, old, b"{}")])
    await world.count(world.chunk(read(0)), until=lambda: world.acked == 1)
    assert Record(old, None, (), 0) in world.written()
    assert world.table.partition(0).lookup([("usage", "minute", MINUTE - 30 * 86_400, "all", "")]) == [None]


SHOP: Key = ("usage", "minute", MINUTE, "project", "shop")


def last_of(world: World, key: Key) -> Usage:
    """What compaction leaves under a key."""
    value = [record.value for record in world.written() if record.key == pack_key(key)][-1]
    found = unpack(pack_key(key), value or b"")[1]
    assert isinstance(found, Usage)
    return found


async def test_what_a_woken_worker_writes_overtakes_nothing(world: World) -> None:
    """It had less in hand than what was counted since: the store keeps the further count, and the log gets it again."""
    await world.count(world.chunk(read(0), read(1)), until=lambda: world.acked == 2)
    further = Usage(at=1, events={"user_prompt": 2})
    world.log.topics[TOPIC].append(Record(pack_key(SHOP), pack(further), (), 0))
    await world.count(world.chunk(read(2)), until=lambda: world.acked == 3)
    late = Usage(at=0, events={"user_prompt": 1})
    world.log.topics[TOPIC] += [Record(pack_key(key), pack(late), (), 0) for key in (ALL, SHOP)]
    await world.count(world.chunk(read(3)), until=lambda: world.acked == 4)
    assert (world.value(ALL).events, world.value(SHOP).events) == ({"user_prompt": 4}, {"user_prompt": 2})
    await world.count(world.chunk(read(4)), until=lambda: world.acked == 5)
    assert last_of(world, ALL).events == {"user_prompt": 5}
    assert last_of(world, SHOP) == further
    assert world.table.partition(0).behind == set()


async def test_a_woken_worker_keeps_what_the_other_has_counted(world: World) -> None:
    """It reads what it has missed before it writes down its own, so its memory does not go back."""
    await world.count(world.chunk(read(0)), until=lambda: world.acked == 1)
    others = Usage(at=9, events={"user_prompt": 10})
    world.log.topics[TOPIC].append(Record(pack_key(ALL), pack(others), (), 0))
    await world.count(world.chunk(read(1)), until=lambda: world.acked == 2)
    assert world.value(ALL).events == {"user_prompt": 10}
    assert pack_key(ALL) in world.table.partition(0).behind


async def test_restoring_finds_what_was_overtaken(tmp_path: Path) -> None:
    """Whoever has the partition next writes it again."""
    records = [Usage(at=9, events={"a": 9}), Usage(at=3, events={"a": 3}), Usage(at=1, generation=7, events={"a": 2})]
    store = UsageStore.open(tmp_path / "other")
    store.apply([(n, pack_key(ALL), pack(value)) for n, value in enumerate(records[:2])])
    assert store.overtaken(9) == [(pack_key(ALL), pack(records[0]))]
    store.apply([(2, pack_key(ALL), pack(records[2]))])
    assert (store.overtaken(9), store.lookup([ALL])) == ([], [records[2]])
    store.close()
