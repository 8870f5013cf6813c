"""One suite over every history store: in memory, a real Postgres; and the views, on both dialects."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from connectors import migrate
from connectors.history import PostgresHistory
from connectors.memory_history import MemoryHistory
from connectors.ports_history import HistoryStore
from schemas.errors import Unavailable
from schemas.history import Changes, Mark, Place, Removed, Row, ToolRow, UsageRow, Written

NOON = 1_763_726_400
SHOP = Place("hour", "project", "shop", NOON, 0)
BASH = Place("day", "all", "", NOON - 12 * 3600, 1, "Bash")


def usage(count: int, at: int = 10, *, generation: int = 0, place: Place = SHOP, more: bool = False) -> UsageRow:
    mark = Mark(generation, at, -1)
    return UsageRow(place=place, mark=mark, events={"user_prompt": count}, sessions=2, sessions_at_least=more)


def calls(count: int, at: int = 10) -> ToolRow:
    return ToolRow(place=BASH, mark=Mark(0, at, -1), calls=count, failures=1, durations={-3: 1, 80: count - 1})


class Look(Protocol):
    """What is there."""

    async def rows(self) -> dict[tuple[str, Place], Row]: ...


class InMemory:
    def __init__(self, store: MemoryHistory) -> None:
        self._store = store

    async def rows(self) -> dict[tuple[str, Place], Row]:
        return self._store.rows


class InPostgres:
    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    async def rows(self) -> dict[tuple[str, Place], Row]:
        connection = await asyncpg.connect(self.dsn)
        try:
            usage_rows = await connection.fetch("SELECT *, extract(epoch FROM bucket)::bigint AS b FROM usage_history")
            tool_rows = await connection.fetch("SELECT *, extract(epoch FROM bucket)::bigint AS b FROM tool_history")
        finally:
            await connection.close()
        return {(row["log_id"], _place(row)): _row(row) for row in (*usage_rows, *tool_rows)}


def _place(row: Any) -> Place:
    tool = row.get("tool")
    return Place(row["grain"], row["dimension"], row["value"], row["b"], row["partition"], tool)


def _row(row: Any) -> Row:
    place, mark = _place(row), Mark(row["generation"], row["at"], row["foreign_at"])
    if place.tool is not None:
        durations = {int(key): count for key, count in json.loads(row["durations"]).items()}
        return ToolRow(place=place, mark=mark, calls=row["calls"], failures=row["failures"], durations=durations)
    events = json.loads(row["events"])
    assert row["event_count"] == sum(events.values())
    more = row["sessions_at_least"]
    return UsageRow(place=place, mark=mark, events=events, sessions=row["sessions"], sessions_at_least=more)


@pytest_asyncio.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.e2e)])
async def house(request: pytest.FixtureRequest) -> AsyncIterator[tuple[HistoryStore, Look]]:
    """A store over tables of its own, and a look into them."""
    if request.param == "memory":
        memory = MemoryHistory()
        yield memory, InMemory(memory)
        return
    dsn = request.getfixturevalue("postgres")
    await migrate.upgrade(dsn)
    store = PostgresHistory(dsn)
    await store.open()
    yield store, InPostgres(dsn)
    await store.close()


async def test_rows_of_both_tables_are_kept(house: tuple[HistoryStore, Look]) -> None:
    """In one call; nothing is a call, too."""
    store, look = house
    assert await store.write("log", Changes(rows=[usage(3, more=True), calls(5)])) == Written(written=2)
    assert await look.rows() == {("log", SHOP): usage(3, more=True), ("log", BASH): calls(5)}
    assert await store.write("log", Changes()) == Written()


async def test_a_newer_value_replaces_and_an_older_one_does_not(house: tuple[HistoryStore, Look]) -> None:
    """Nor does the same one again: a replay changes nothing."""
    store, look = house
    await store.write("log", Changes(rows=[usage(3, 10), calls(5, 10)]))
    assert await store.write("log", Changes(rows=[usage(4, 11), calls(9, 9)])) == Written(written=1, older=1)
    assert await store.write("log", Changes(rows=[usage(3, 10), usage(1, 5, place=BASH_USAGE)])) == Written(1, 1)
    rows = await look.rows()
    assert (rows["log", SHOP], rows["log", BASH]) == (usage(4, 11), calls(5, 10))


BASH_USAGE = Place("day", "all", "", NOON - 12 * 3600, 1)


async def test_a_record_of_somebody_else_makes_a_value_newer_too(house: tuple[HistoryStore, Look]) -> None:
    """It moves the other position only."""
    store, look = house
    await store.write("log", Changes(rows=[usage(3)]))
    newer = msgspec.structs.replace(usage(4), mark=Mark(0, 10, 77))
    assert (await store.write("log", Changes(rows=[newer]))).written == 1
    assert (await look.rows())["log", SHOP] == newer


async def test_what_a_rebuild_counted_wins_although_it_is_less(house: tuple[HistoryStore, Look]) -> None:
    """And what goes on from there wins over it, in turn."""
    store, look = house
    await store.write("log", Changes(rows=[usage(9, 50)]))
    assert (await store.write("log", Changes(rows=[usage(3, 40, generation=7)]))).written == 1
    assert (await store.write("log", Changes(rows=[usage(9, 60)]))).older == 1
    assert (await store.write("log", Changes(rows=[usage(4, 41, generation=7)]))).written == 1
    assert (await look.rows())["log", SHOP] == usage(4, 41, generation=7)


async def test_a_rebuild_takes_out_what_should_not_be_there(house: tuple[HistoryStore, Look]) -> None:
    """Before it writes; what is of that rebuild or a later one stays when the removal comes again."""
    store, look = house
    await store.write("log", Changes(rows=[usage(9, 50), calls(5)]))
    gone = [Removed(SHOP, 7), Removed(BASH, 7)]
    assert await store.write("log", Changes(gone, [usage(1, 60)])) == Written(written=1, removed=2)
    assert await look.rows() == {("log", SHOP): usage(1, 60)}
    await store.write("log", Changes(rows=[usage(2, 61, generation=7)]))
    assert (await store.write("log", Changes([Removed(SHOP, 7)]))).removed == 0


async def test_values_of_another_log_are_other_rows(house: tuple[HistoryStore, Look]) -> None:
    """Counting began anew in it: neither replaces the other."""
    store, look = house
    await store.write("one", Changes(rows=[usage(9, 50)]))
    await store.write("two", Changes(rows=[usage(1, 3)]))
    assert await look.rows() == {("one", SHOP): usage(9, 50), ("two", SHOP): usage(1, 3)}


async def test_a_row_that_is_refused_does_not_hold_the_rest(house: tuple[HistoryStore, Look]) -> None:
    """U+0000 cannot be stored in text; it is told, not raised."""
    store, look = house
    bad = usage(1, place=msgspec.structs.replace(SHOP, value="a\0b"))
    assert await store.write("log", Changes(rows=[bad, usage(2), calls(5)])) == Written(written=2, refused=1)
    assert set(await look.rows()) == {("log", SHOP), ("log", BASH)}


async def test_a_postgres_that_is_away_is_told() -> None:
    """So that the agent holds."""
    store = PostgresHistory("postgresql://nobody@127.0.0.1:1/none", connect_timeout_s=0.5)
    await store.open()
    with pytest.raises(Unavailable):
        await store.write("log", Changes(rows=[usage(1)]))
    await store.close()


# --- the views -------------------------------------------------------------------------------------------------------

_INSERTS = (
    "INSERT INTO usage_history (grain, dimension, value, bucket, partition, log_id, events, event_count, sessions, "
    "sessions_at_least, generation, at, foreign_at, updated_at) VALUES "
    "('day', 'all', '', {t}, 0, 'x', '{{\"a\": 1, \"b\": 2}}', 3, 1, false, 0, 1, -1, {t}), "
    "('day', 'all', '', {t}, 1, 'x', '{{\"b\": 4}}', 4, 2, true, 0, 1, -1, {t}), "
    "('hour', 'all', '', {t}, 1, 'x', '{{\"b\": 4}}', 4, 2, false, 0, 1, -1, {t})",
    "INSERT INTO tool_history (grain, dimension, value, tool, bucket, partition, log_id, calls, failures, durations, "
    "generation, at, foreign_at, updated_at) VALUES "
    "('day', 'all', '', 'Bash', {t}, 0, 'x', 2, 1, '{{\"80\": 2}}', 0, 1, -1, {t}), "
    "('day', 'all', '', 'Bash', {t}, 1, 'x', 3, 0, '{{\"80\": 1, \"-3\": 2}}', 0, 1, -1, {t})",
)
_QUESTIONS = (
    "SELECT event_count, sessions, sessions_at_least, events FROM usage_by_day",
    "SELECT event_count, sessions, sessions_at_least, events FROM usage_by_hour",
    "SELECT calls, failures, durations FROM tools_by_day",
)


async def _asked(dsn: str) -> list[list[Any]]:
    if dsn.startswith("sqlite"):
        with sqlite3.connect(migrate.sqlite_path(dsn)) as file:
            for insert in _INSERTS:
                file.execute(insert.format(t=NOON * 1_000_000))
            found = [list(file.execute(question).fetchone()) for question in _QUESTIONS]
        file.close()
        return found
    connection = await asyncpg.connect(dsn)
    try:
        for insert in _INSERTS:
            await connection.execute(insert.format(t=f"to_timestamp({NOON})"))
        return [list(await connection.fetchrow(question)) for question in _QUESTIONS]
    finally:
        await connection.close()


@pytest.mark.parametrize("dialect", ["sqlite", pytest.param("postgres", marks=pytest.mark.e2e)])
async def test_the_views_add_the_partitions_up(dialect: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """One row a bucket; counts by type and durations merge."""
    sqlite = dialect == "sqlite"
    dsn = migrate.sqlite_dsn(tmp_path / "store.db") if sqlite else request.getfixturevalue("postgres")
    await migrate.upgrade(dsn)
    day, hour, tools = [[*row[:-1], json.loads(row[-1])] for row in await _asked(dsn)]
    assert day == [7, 3, True, {"a": 1, "b": 6}]
    assert hour == [4, 2, False, {"b": 4}]
    assert tools == [5, 1, {"80": 3, "-3": 2}]
