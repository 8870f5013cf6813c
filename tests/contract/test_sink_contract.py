"""One suite over every sink: in memory, SQLite, a real Postgres."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from connectors import migrate
from connectors.ports import Batch, Sink
from connectors.postgres import PostgresSink
from connectors.rollup import SESSION_TYPES, fold, session_row
from connectors.sqlite import SqliteSink
from schemas.event import DeadLetter, Flag, LoggedEvent, Position
from sink_events import T0, House, InMemory, InPostgres, InSqlite, batch, decode, logged

KINDS = ["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.e2e)]


@pytest.fixture(params=KINDS)
def house(request: pytest.FixtureRequest, tmp_path: Path) -> House:
    """A database with our tables, and a way to make sinks over it."""
    if request.param == "memory":
        memory = InMemory()
        return House(memory.make, memory)
    if request.param == "sqlite":
        path = tmp_path / "failover.db"
        return House(lambda: SqliteSink(path, decode=decode), InSqlite(path))
    dsn = request.getfixturevalue("postgres")
    return House(lambda: PostgresSink(dsn), InPostgres(dsn))


@pytest_asyncio.fixture
async def sink(house: House) -> AsyncIterator[Sink]:
    if isinstance(house.inside, InPostgres):
        await migrate.upgrade(house.inside.dsn)
    made = await house.sink()
    yield made
    await made.close()


async def test_a_batch_is_stored_whole(sink: Sink, house: House) -> None:
    """All rows, their sessions and the progress are there when write returns."""
    events = [logged(n) for n in range(100)]
    receipt = await sink.write(batch(events))
    assert (receipt.sink, receipt.stored) == (sink.name, 100)
    assert (receipt.replays, receipt.duplicates, receipt.conflicts, receipt.refused) == (0, 0, [], [])
    assert await house.inside.ids() == [one.event.event_id for one in events]
    assert await sink.progress() == {0: 100}
    assert await house.inside.stored() == {0: 100}
    counts = {key: row["event_count"] for key, row in (await house.inside.sessions()).items()}
    assert counts == {"session-0": 34, "session-1": 33, "session-2": 33}


async def test_the_same_batch_again_changes_nothing(sink: Sink, house: House) -> None:
    """A replay is told as replays and moves no count."""
    again = batch([logged(n) for n in range(20)])
    await sink.write(again)
    before = await house.inside.sessions()
    receipt = await sink.write(again)
    assert (receipt.stored, receipt.replays, receipt.duplicates) == (0, 20, 0)
    assert await house.inside.sessions() == before
    assert await house.inside.stored() == {0: 20}


async def test_another_position_is_a_duplicate_counted_once(sink: Sink, house: House) -> None:
    """The same event from another place is a duplicate the first time and a replay after that."""
    await sink.write(batch([logged(1)]))
    repeat = logged(1, ingest=Position(0, 900))
    assert (await sink.write(batch([repeat]))).duplicates == 1
    receipt = await sink.write(batch([repeat]))
    assert (receipt.stored, receipt.duplicates, receipt.replays) == (0, 0, 1)
    assert len(await house.inside.ids()) == 1


async def test_another_fingerprint_is_a_conflict_and_the_first_stays(sink: Sink, house: House) -> None:
    """The first payload stays; the later claim comes back to the caller, every time."""
    await sink.write(batch([logged(1)]))
    claim = logged(1, ingest=Position(0, 900), fingerprint=b"x" * 16, payload='{"n": 2}', session_id="other")
    for _ in range(2):
        receipt = await sink.write(batch([claim, logged(2)]))
        assert receipt.conflicts == [claim]
    assert set(await house.inside.sessions()) == {"session-1", "session-2"}


async def test_repeats_within_a_batch_are_judged_against_the_first(sink: Sink, house: House) -> None:
    """One id four times in one batch: stored, replayed, duplicate, conflict."""
    first = logged(1)
    duplicate = logged(1, ingest=Position(0, 900))
    conflict = logged(1, ingest=Position(0, 901), fingerprint=b"x" * 16)
    receipt = await sink.write(Batch([first, first, duplicate, conflict], []))
    assert (receipt.stored, receipt.replays, receipt.duplicates) == (1, 1, 1)
    assert receipt.conflicts == [conflict]
    assert (await house.inside.sessions())["session-1"]["event_count"] == 1


BAD: dict[str, dict[str, Any]] = {
    "nul": {"tool_name": "Ba\0sh"},
    "surrogate": {"session_id": "s\ud800"},
    "too wide": {"occurred_at": 1 << 70},
}


@pytest.mark.parametrize("bad_at", [0, 500, 999])
@pytest.mark.parametrize("bad", BAD)
async def test_one_bad_row_leaves_the_others(sink: Sink, house: House, bad: str, bad_at: int) -> None:
    """What a database can never take is set aside with a reason; 999 neighbours are stored in the same call."""
    if bad == "nul" and sink.name == "sqlite":
        pytest.skip("SQLite takes U+0000 in text")
    events = [logged(n) for n in range(1000)]
    events[bad_at] = logged(bad_at, **BAD[bad])
    receipt = await sink.write(batch(events))
    assert receipt.stored == 999
    assert [one.events.offset for one, _ in receipt.refused] == [bad_at]
    assert receipt.refused[0][1]
    assert len(await house.inside.ids()) == 999
    assert await sink.progress() == {0: 1000}


async def test_all_rows_bad_is_not_an_outage(sink: Sink, house: House) -> None:
    """Every row of a batch may be refused; the batch is worked off all the same."""
    receipt = await sink.write(batch([logged(n, session_id=f"s\ud800{n}") for n in range(50)]))
    assert (receipt.stored, len(receipt.refused)) == (0, 50)
    assert await sink.progress() == {0: 50}


async def test_progress_never_steps_back(sink: Sink) -> None:
    """An older batch written late leaves next_offset where it was; partitions are kept apart."""
    await sink.write(batch([logged(n) for n in range(10, 20)]))
    await sink.write(batch([logged(n) for n in range(5)] + [logged(100, partition=3)]))
    assert await sink.progress() == {0: 20, 3: 101}


async def test_a_batch_without_spans_tells_no_progress(sink: Sink, house: House) -> None:
    """Sync-back writes rows without spans: counted, but no offset is claimed."""
    await sink.write(Batch([logged(7)], []))
    assert await sink.progress() == {}
    assert await house.inside.stored() == {0: 1}


async def test_an_empty_batch_with_spans_moves_progress(sink: Sink) -> None:
    """A chunk of nothing but dead records still counts as worked off."""
    receipt = await sink.write(Batch([], batch([logged(4)]).spans))
    assert receipt.stored == 0
    assert await sink.progress() == {0: 5}


async def test_two_writers_on_the_same_rows_store_each_once(house: House, sink: Sink) -> None:
    """Two workers replay the same partition in other cuts and orders at once: no deadlock, no double count."""
    other = await house.sink()
    events = [logged(n, session_id=f"session-{n % 7}") for n in range(400)]
    backwards = events[::-1]

    async def write_all(writer: Sink, rows: list[LoggedEvent], size: int) -> int:
        return sum([(await writer.write(batch(rows[at : at + size]))).stored for at in range(0, len(rows), size)])

    stored = await asyncio.gather(write_all(sink, events, 40), write_all(other, backwards, 25))
    await other.close()
    assert sum(stored) == 400
    assert len(await house.inside.ids()) == 400
    assert sum(row["event_count"] for row in (await house.inside.sessions()).values()) == 400


@pytest.mark.parametrize("seed", range(3))
async def test_the_session_roll_up_does_not_depend_on_order(sink: Sink, house: House, seed: int) -> None:
    """Any order and any cut of the batches gives the roll-up of all events folded at once."""
    chance = random.Random(seed)
    events = [any_event(chance, n) for n in range(120)]
    expected = {delta.session_id: dict(zip(SESSION_TYPES, session_row(delta), strict=True)) for delta in fold(events)}
    chance.shuffle(events)
    while events:
        size = chance.randint(1, 30)
        await sink.write(Batch(events[:size], []))
        events = events[size:]
    assert await house.inside.sessions() == expected


def any_event(chance: random.Random, n: int) -> LoggedEvent:
    kind = chance.choice(["session_start", "session_end", "user_prompt", "tool_post_use", "session_stop"])
    payloads = ['{"git_branch": "main"}', '{"git_branch": "Ä", "git_commit": "abc"}', '{"reason": "error"}', "{}"]
    return logged(
        n,
        event_type=kind,
        occurred_at=T0 + chance.randint(-5, 5) * 1_000_000,
        payload=chance.choice(payloads),
        cwd=chance.choice([None, "/a/b", "/a/ä", "C:\\work\\shop"]),
        source=chance.choice(["claude-code", "api", "Ωmega"]),
    )


async def test_a_resumed_session_is_active_again(sink: Sink, house: House) -> None:
    """Ended is ended until a later sign of life; an event that merely trails the end is none."""
    start = logged(0, session_id="s", event_type="session_start", occurred_at=T0)
    end = logged(1, session_id="s", event_type="session_end", occurred_at=T0 + 10, payload='{"reason": "error"}')
    trail = logged(2, session_id="s", event_type="session_stop", occurred_at=T0 + 11)
    await sink.write(batch([end, trail, start]))
    ended = (await house.inside.sessions())["s"]
    assert (ended["status"], ended["started_at"], ended["ended_at"]) == ("error", T0, T0 + 10)
    await sink.write(batch([logged(3, session_id="s", event_type="user_prompt", occurred_at=T0 + 20)]))
    resumed = (await house.inside.sessions())["s"]
    assert (resumed["status"], resumed["ended_at"], resumed["last_event_at"]) == ("active", None, T0 + 20)


async def test_every_column_of_a_full_event_is_taken(sink: Sink) -> None:
    """All optional fields, odd JSON and all flags are no reason to refuse."""
    full = logged(
        1,
        hook_event_name="PreToolUse",
        tool_use_id="toolu_1",
        agent_id="a",
        agent_type="explore",
        prompt_id="p",
        suspected_duplicate_of=logged(0).event.event_id,
        flags=int(Flag.SANITIZED | Flag.DUPLICATE_KEYS | Flag.REDACTED | Flag.TRUNCATED),
        payload='{"a": "\\u0000 \\ud800", "a": 18446744073709551617, "b": 1.50}',
        metadata='{"note": "\\u0000"}',
    )
    receipt = await sink.write(batch([full]))
    assert (receipt.stored, receipt.refused) == (1, [])


async def test_dead_letters_are_mirrored_once(sink: Sink) -> None:
    """Keyed by where they were read; nothing in them can be refused."""
    letters = [letter(n) for n in range(3)]
    assert await sink.write_dead_letters(letters) == 3
    assert await sink.write_dead_letters([*letters, letter(3)]) == 1
    assert await sink.write_dead_letters([]) == 0


def letter(n: int, **fields: Any) -> DeadLetter:
    values: dict[str, Any] = {
        "topic": "chronicle.events",
        "partition": 0,
        "offset": n,
        "ingest": Position(0, n) if n else None,
        "stage": "persist",
        "cause": "undecodable",
        "detail": "bad \0 byte \ud800",
        "key": b"\0k",
        "value": None if n == 1 else b"\xff\0",
        "failed_at": T0,
        "event_id": logged(n).event.event_id if n else None,
        "session_id": "s\0",
    }
    return DeadLetter(**(values | fields))


async def test_a_probe_proves_and_leaves_no_event(sink: Sink, house: House) -> None:
    """It passes when a batch would be taken, and no one sees it among the events."""
    await sink.probe()
    await sink.probe()
    assert await house.inside.ids() == []


async def test_a_second_sink_sees_what_the_first_left(sink: Sink, house: House) -> None:
    """Closing and opening anew (a restart) loses nothing and replays as replays."""
    again = batch([logged(n) for n in range(10)])
    await sink.write(again)
    await sink.close()
    reopened = await house.sink()
    receipt = await reopened.write(again)
    await reopened.close()
    assert (receipt.stored, receipt.replays) == (0, 10)
