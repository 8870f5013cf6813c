"""Tool calls of a session, whatever their number and order: every one once, in order, at a cost that does not grow."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from connectors import migrate
from connectors.readers import calls_sql
from connectors.readers.postgres import PostgresReader
from connectors.readers.sqlite import SqliteReader
from reader_world import KINDS, World, opened, plain, walk
from reading import NOON, event_row
from schemas.query import CallFilter, Cursor, Page

POST, FAILED = "tool_post_use", "post_tool_use_failure"


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """An empty store of each kind."""
    async with opened(request, tmp_path) as made:
        yield made


def mixed(count: int) -> list[dict[str, Any]]:
    """Calls whose ends come in any order, many at one instant: whole, failed, running, without a beginning or an id."""
    dice, rows = random.Random(7), list[dict[str, Any]]()

    def end(kind: str, at: int, **more: Any) -> None:
        more = {"tool_use_id": None, "agent_id": None, "tool_name": "Bash"} | more
        rows.append(event_row(len(rows) + 1, event_type=kind, occurred_at=NOON + at, **more))

    for number in range(count):
        at, id = dice.randrange(40), {"tool_use_id": f"t{number:03}", "agent_id": dice.choice([None, "B", "a", "é"])}
        kind = dice.choice(["whole", "failed", "running", "orphan", "nameless", "twice"])
        if kind not in ("orphan", "nameless"):
            end("tool_pre_use", at, **id)
        if kind == "twice":
            end("tool_pre_use", at + dice.randrange(3), **id)
        if kind != "running":
            later = at + dice.randrange(-5, 30) if kind == "whole" else at
            end(FAILED if kind == "failed" else POST, later, **({} if kind == "nameless" else id))
    dice.shuffle(rows)
    return rows


def shown(items: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["tool_use_id"], row["agent_id"], row["started_at"], row["ended_at"], row["success"]) for row in items]


@pytest.mark.parametrize("ascending", [False, True])
async def test_pages_of_any_size_have_every_call_once_in_one_order(world: World, ascending: bool) -> None:
    """Equal to one page that has them all, forwards and back again."""
    await world.put(events=mixed(150))

    async def at(cursor: Cursor | None, limit: int = 7, **more: Any) -> Page:
        wanted = CallFilter(session_id="s-1", ascending=ascending, limit=limit, cursor=cursor, **more)
        return await world.reader.calls(wanted)

    everything = shown((await at(None, 1000)).items)
    assert len(everything) == 150
    assert len(set(everything)) > 100
    began = [started or ended for _, _, started, ended, _ in everything]
    assert began == sorted(began, reverse=not ascending)
    forwards, _ = await walk(at)
    assert shown(forwards) == everything
    back: list[dict[str, Any]] = []
    page = await at(None)
    while page.next is not None:
        page = await at(page.next)
    while page.previous is not None:
        page = await at(page.previous)
        back = page.items + back
    assert shown(back) == everything[: len(back)]
    assert len(back) >= 140
    failures, _ = await walk(lambda cursor: at(cursor, success=False))
    assert shown(failures) == [row for row in everything if row[4] is False]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("12.5", 13),
        ("-12.5", -13),
        ("1e300", None),
        ("1e3", 1000),
        ("999999999999999", 999999999999999),
        ("1e15", None),
    ],
)
async def test_what_a_client_says_it_took_is_rounded_by_one_rule(world: World, told: str, expected: int | None) -> None:
    """Half away from zero; what is no time is not shown, in whichever database."""
    await world.put(events=[event_row(1, event_type=POST, payload=f'{{"duration_ms": {told}}}')])
    (row,) = plain((await world.reader.calls(CallFilter(session_id="s-1"))).items)
    assert row["execution_time_ms"] == expected


class Counting(SqliteReader):
    """Keeps how often it was asked, and how many rows that gave."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[int] = []

    async def rows(self, statement: sa.Executable) -> Any:
        found = await super().rows(statement)
        self.asked.append(len(found))
        return found


@pytest.fixture
async def counted(tmp_path: Path) -> AsyncIterator[World]:
    """A SQLite store that counts what is read from it."""
    path = tmp_path / "failover.sqlite"
    migrate.upgrade_sqlite(path)
    made = World(Counting(path), f"sqlite+aiosqlite:///{path}")
    await made.reader.open()
    yield made
    await made.reader.close()


def whole(calls: int) -> list[dict[str, Any]]:
    """Calls with both ends, one behind the other."""
    return [
        event_row(2 * n + end, tool_use_id=f"t{n:05}", event_type=("tool_pre_use", POST)[end])
        for n in range(calls)
        for end in (0, 1)
    ]


async def test_all_pages_together_read_each_end_a_fixed_number_of_times(counted: World) -> None:
    """Twice the calls, twice the rows read: what a page costs does not grow with what lies before or behind it."""
    reader = counted.reader
    assert isinstance(reader, Counting)
    read: list[int] = []
    for begin in (0, 1000):
        await counted.put(events=whole(2000)[2 * begin : 2 * begin + 2000])
        reader.asked.clear()
        found, _ = await walk(lambda cursor: reader.calls(CallFilter(session_id="s-1", limit=100, cursor=cursor)))
        assert len(found) == begin + 1000
        read.append(sum(reader.asked))
        assert max(reader.asked) <= calls_sql.FEWEST + 2
    assert read[0] < 1000 * 2 * 4
    assert read[1] < 2.1 * read[0]


async def test_a_filter_that_lets_nothing_through_ends_the_page_and_goes_on(counted: World) -> None:
    """One answer reads a bounded number of rows; whoever follows `next` comes to the end."""
    reader = counted.reader
    assert isinstance(reader, Counting)
    await counted.put(events=whole(2 * calls_sql.STEPS * calls_sql.FEWEST // 4))
    await counted.put(events=[event_row(90_000, event_type=FAILED, tool_use_id="last", occurred_at=NOON + 10**12)])
    first = await reader.calls(CallFilter(session_id="s-1", success=False, limit=5))
    assert (first.items, first.next is not None) == ([], True)
    assert len(reader.asked) <= 2 * calls_sql.STEPS
    found, pages = await walk(
        lambda cursor: reader.calls(CallFilter(session_id="s-1", success=False, limit=5, cursor=cursor))
    )
    assert ([row["tool_use_id"] for row in found], pages > 1) == (["last"], True)


async def test_a_page_of_calls_is_read_by_indexes(counted: World) -> None:
    """Both statements search; neither sorts or reads a whole session."""
    place = calls_sql._Place(NOON, "", "t")
    for query in (
        calls_sql._ends("s-1", place, True, 100),
        calls_sql._of_ids("s-1", ["t1", "t2"]),
    ):
        reader = counted.reader
        assert isinstance(reader, Counting)
        text = str(query.compile(dialect=_dialect(), compile_kwargs={"literal_binds": True}))
        plan = " ".join(row["detail"] for row in await reader.rows(sa.text(f"EXPLAIN QUERY PLAN {text}")))
        assert "SCAN" not in plan
        assert ("ix_events_session (session_id=? AND occurred_at" in plan) or (
            "ix_events_call (session_id=? AND tool_use_id=?)" in plan
        ), plan


def _dialect() -> Any:
    from sqlalchemy.dialects import sqlite

    return sqlite.dialect()


@pytest.mark.e2e
async def test_a_page_of_calls_is_read_by_indexes_in_postgres(postgres: str) -> None:
    """The same in Postgres: neither statement reads all events."""
    from sqlalchemy.ext.asyncio import create_async_engine

    await migrate.upgrade(postgres)
    url = postgres.replace("postgresql://", "postgresql+asyncpg://")
    rows = [row | {"session_id": f"s-{number // 2 % 20}"} for number, row in enumerate(whole(2000))]
    await World(PostgresReader(postgres), url).put(events=rows)
    engine = create_async_engine(url)
    queries = {
        "ix_events_session": calls_sql._ends("s-1", None, True, 100),
        "ix_events_call": calls_sql._of_ids("s-1", ["t00001", "t00002"]),
    }
    async with engine.connect() as connection:
        await connection.execute(sa.text("ANALYZE events"))
        await connection.execute(sa.text("SET enable_seqscan = off"))  # a small table is read whole, whatever it has
        for index, query in queries.items():
            text = str(query.compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True}))
            plan = [str(row[0]) for row in await connection.exec_driver_sql(f"EXPLAIN {text}")]
            assert any(index in line for line in plan), plan
    await engine.dispose()
