"""The four steps of history on a store in memory: what is kept, held, repeated and passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agents.history import Deps, Lane, Last, change_of, last_of
from connectors.memory_history import MemoryHistory
from schemas.errors import Unavailable
from schemas.history import REBUILD_HEADER, Mark, Place, UsageRow
from seen_world import Aborted, Chunk, Read
from tables.usage import Key, SessionUse, ToolUse, Usage
from tables.usage_codec import pack, pack_key

HOUR = 1_763_726_400
ALL: Key = ("usage", "hour", HOUR, "all", "")
PLACE = Place("hour", "all", "", HOUR, 0)


class CountingMetrics:
    """Counts by name and labels."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], float] = {}

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        key = (name, *labels.values())
        self.counts[key] = self.counts.get(key, 0) + value

    def set(self, name: str, value: float, **labels: str) -> None:
        """Nothing."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Nothing."""


def put(offset: int, count: int, key: Key = ALL, **fields: Any) -> Read:
    """A value of so many prompts, counted up to `offset`."""
    value = Usage(at=offset, events={"user_prompt": count}, sessions={1, 2}, **fields)
    return Read(offset, 0, pack_key(key), pack(value))


def end(offset: int, key: Key = ALL, generation: int | None = None) -> Read:
    headers = () if generation is None else ((REBUILD_HEADER, str(generation).encode()),)
    return Read(offset, 0, pack_key(key), None, headers)


class World:
    """A lane over a store; `acked` is where the group stands."""

    def __init__(self) -> None:
        self.store, self.metrics, self.abort = MemoryHistory(), CountingMetrics(), Aborted()
        self.acked = 0
        self.held: set[int] = set()
        self.sleeps = 0
        self.on_sleep: Callable[[], None] = lambda: None

    def chunk(self, *records: Read) -> Chunk:
        def ack(through: int) -> None:
            self.acked = through

        return Chunk(records, ack)

    async def keep(self, chunks: Sequence[Chunk], until: Callable[[], bool], linger_s: float = 0.0) -> None:
        async def no_wait(_: float) -> None:
            self.sleeps += 1
            self.on_sleep()
            await asyncio.sleep(0)

        async def log_id() -> str:
            return "log"

        lane = Lane(0, Deps(self.store, log_id, self.metrics, self.held, self.abort, linger_s, no_wait))
        for chunk in chunks:
            await lane.put(chunk)
        async with asyncio.timeout(10):
            while not until() and not self.abort.reasons:
                await asyncio.sleep(0)
        await lane.close()

    def row(self) -> UsageRow:
        found = self.store.rows["log", PLACE]
        assert isinstance(found, UsageRow)
        return found


@pytest.fixture
def world() -> World:
    return World()


async def test_the_last_value_of_a_key_is_kept_and_then_acked(world: World) -> None:
    """What came within the linger is one write, whatever the number of chunks."""
    chunks = [world.chunk(put(0, 1), put(1, 2)), world.chunk(put(2, 3))]
    await world.keep(chunks, lambda: world.acked == 3, linger_s=0.05)
    assert world.row() == UsageRow(place=PLACE, mark=Mark(0, 2, -1), events={"user_prompt": 3}, sessions=2)
    assert world.store.writes == 1
    assert world.metrics.counts["chronicle_history_rows_total", "written"] == 1


async def test_two_spellings_of_a_key_are_one_row(world: World) -> None:
    """One statement of Postgres takes each place once; refused as a whole, it would hold the partition for ever."""
    spelt = put(1, 2)._replace(key=pack_key(ALL).replace(b",", b", "))
    await world.keep([world.chunk(put(0, 1), spelt)], lambda: world.acked == 2)
    assert world.row().events == {"user_prompt": 2}
    assert world.metrics.counts["chronicle_history_rows_total", "written"] == 1


async def test_minutes_sessions_names_and_the_clock_have_no_history(world: World) -> None:
    """They are acked, and nothing is written."""
    others = [
        put(0, 1, ("usage", "minute", HOUR, "all", "")),
        Read(1, 0, pack_key(("session", "s")), pack(SessionUse(at=1))),
        Read(2, 0, pack_key(("names", "project")), b'{"names":{}}'),
        Read(3, 0, pack_key(("clock",)), b'{"newest":5}'),
    ]
    await world.keep([world.chunk(*others)], lambda: world.acked == 4)
    assert world.store.writes == 0


async def test_what_cannot_be_read_is_passed_over_and_counted(world: World) -> None:
    """Somebody else's record, a key that is cut short, a value of another form: the rest is kept."""
    bad = [
        Read(0, 0, b"junk", b"{}"),
        Read(1, 0, b'["usage"]', b"{}"),
        Read(2, 0, b'["usage","hour",1]', b"{}"),
        Read(3, 0, pack_key(("usage", "day", HOUR, "all", "")), b"[]"),
        Read(4, 0, None, None),
    ]
    await world.keep([world.chunk(*bad, put(5, 4))], lambda: world.acked == 6)
    assert world.row().events == {"user_prompt": 4}
    assert world.metrics.counts["chronicle_history_passed_over_total", "undecodable"] == 4
    assert world.abort.reasons == []


async def test_the_end_of_a_bucket_takes_nothing_out(world: World) -> None:
    """The live table lets go of it; that is what the history is for."""
    await world.keep([world.chunk(put(0, 3), end(1))], lambda: world.acked == 2)
    assert world.row().events == {"user_prompt": 3}
    await world.keep([world.chunk(end(2))], lambda: world.acked == 3)
    assert world.row().events == {"user_prompt": 3}


async def test_what_a_rebuild_ends_goes_and_what_is_counted_after_it_stays(world: World) -> None:
    """In one batch and over several; a repeat of all of it ends the same."""
    await world.keep([world.chunk(put(0, 9))], lambda: world.acked == 1)
    await world.keep([world.chunk(end(1, generation=70))], lambda: world.acked == 2)
    assert world.store.rows == {}
    again = [put(0, 9), end(1, generation=70), put(2, 1)]
    for _ in range(2):
        world.acked = 0
        await world.keep([world.chunk(*again)], lambda: world.acked == 3)
        assert world.row().events == {"user_prompt": 1}


async def test_a_database_that_is_away_is_waited_for(world: World) -> None:
    """Nothing is acked meanwhile, and the hold shows."""
    world.store.down = Unavailable("postgres", "away")

    def later() -> None:
        assert world.held == {0}
        assert world.acked == 0
        if world.sleeps == 5:
            world.store.down = None

    world.on_sleep = later
    await world.keep([world.chunk(put(0, 3))], lambda: world.acked == 1)
    assert world.sleeps == 5
    assert world.held == set()
    assert world.row().events == {"user_prompt": 3}


async def test_a_batch_of_an_old_assignment_is_left(world: World) -> None:
    """The database is away and the partition is taken away meanwhile: its next owner writes it."""
    world.store.down = Unavailable("postgres", "away")
    chunk = world.chunk(put(0, 3))
    taken = False

    def take() -> None:
        nonlocal taken
        taken, chunk.live = True, False

    world.on_sleep = take
    await world.keep([chunk], lambda: taken and not world.held)
    assert (world.acked, world.abort.reasons) == (0, [])


async def test_a_bug_aborts_and_acks_nothing(world: World) -> None:
    """It must not step over a record."""
    broken = world.chunk(put(0, 3))
    broken.records = None  # type: ignore[assignment]
    lane_fed = [broken]
    await world.keep(lane_fed, lambda: False)
    assert "history" in world.abort.reasons[0]
    assert world.acked == 0


def test_a_tool_keeps_its_histogram() -> None:
    """Percentiles are computed on reading: those of partitions cannot be added up."""
    key = pack_key(("tools", "day", HOUR, "project", "shop", "Bash"))
    _, row = change_of(3, key, Last(pack(ToolUse(at=4, calls=2, failures=1, durations={80: 1}, generation=9))))
    assert row is not None
    assert (row.place, row.mark) == (Place("day", "project", "shop", HOUR, 3, "Bash"), Mark(9, 4, -1))
    assert last_of([end(0), end(1, generation=5)])[pack_key(ALL)] == Last(None, 5)
