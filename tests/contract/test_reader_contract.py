"""One suite for every `Reader`: memory, SQLite, Postgres."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from connectors import migrate
from connectors.readers.errors import TooSlow
from connectors.readers.memory import MemoryReader
from connectors.readers.postgres import PostgresReader
from connectors.readers.shape import letter_cursor
from connectors.readers.sql import SqlReader
from connectors.readers.sqlite import SqliteReader
from reader_world import KINDS, World, numbers, opened, plain
from reading import NOON, SECOND, event_row, letter_row, uid
from schemas.errors import Refused, Unavailable
from schemas.event import Position
from schemas.query import Cursor, EventFilter, Resolution

AnyReader = MemoryReader | SqliteReader | PostgresReader
Row = dict[str, Any]


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """An empty store of each kind."""
    async with opened(request, tmp_path) as made:
        yield made


async def test_an_event_comes_back_in_the_form_the_api_shows(world: World) -> None:
    """Times with microseconds and Z, flags by name, the position, payload and metadata as JSON."""
    row = event_row(7, flags=5, suspected_duplicate_of=uid(3), agent_id="a-1", metadata='{"retry_count": 1}')
    await world.put(events=[row])
    found = plain(await world.reader.event(uid(7)))
    assert found["event_id"] == str(uid(7))
    assert found["occurred_at"] == "2026-01-31T09:30:07.000000Z"
    assert found["received_at"] == "2026-01-31T09:30:07.000005Z"
    assert found["flags"] == ["redacted", "sanitized"]
    assert found["position"] == {"partition": 1, "offset": 7}
    assert (found["payload"], found["metadata"]) == ({"n": 7}, {"retry_count": 1})
    assert (found["id_origin"], found["suspected_duplicate_of"]) == ("natural", str(uid(3)))
    assert found["prompt_id"] is None


async def test_the_payload_comes_back_as_it_was_sent(world: World) -> None:
    """The raw text wins over the column that could not keep it: order, escapes and big numbers stay."""
    raw = '{"b":"\\u0000","a":1e2,"n":12345678901234567890123,"a":2}'
    await world.put(events=[event_row(1, payload='{"a": 2}', payload_raw=raw)])
    found = await world.reader.event(uid(1))
    assert found is not None
    assert bytes(found["payload"]).decode() == raw


async def test_an_unknown_id_is_none(world: World) -> None:
    """Absence is a value, not an error."""
    assert await world.reader.event(uid(1)) is None
    assert await world.reader.session("nobody") is None
    assert await world.reader.dead_letter("t/0/1") is None
    assert await world.reader.dead_letter("no/place") is None


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (EventFilter(session_id="s-2"), [6, 3]),
        (EventFilter(event_type=("user_prompt",)), [4]),
        (EventFilter(tool_name=("Edit",)), [6, 5]),
        (EventFilter(tool_name=("Edit",), session_id="s-2"), [6]),
        (EventFilter(since=NOON + 5 * SECOND), [6, 5]),
        (EventFilter(until=NOON + 3 * SECOND), [2, 1]),
        (EventFilter(since=NOON + 2 * SECOND, until=NOON + 4 * SECOND, ascending=True), [2, 3]),
        (EventFilter(ids=(uid(1), uid(5))), [5, 1]),
        (EventFilter(session_id="nobody"), []),
        (EventFilter(tool_name=("' OR 1=1 --",)), []),
    ],
)
async def test_filters_narrow_the_list(world: World, wanted: EventFilter, expected: list[int]) -> None:
    """Every filter, alone and together; `since` is inclusive and `until` is not."""
    await world.put(
        events=[
            event_row(1),
            event_row(2),
            event_row(3, session_id="s-2"),
            event_row(4, event_type="user_prompt", tool_name=None),
            event_row(5, tool_name="Edit"),
            event_row(6, tool_name="Edit", session_id="s-2"),
        ]
    )
    assert numbers((await world.reader.events(wanted)).items) == expected


async def test_a_trace_gathers_what_is_known_of_an_id(world: World) -> None:
    """The event, its repeats, its dead letters and those marked as suspected repeats."""
    copy = {"ingest_partition": 0, "ingest_offset": 99, "event_id": uid(1), "recorded_at": NOON}
    await world.put(
        events=[event_row(1), event_row(2, suspected_duplicate_of=uid(1))],
        duplicates=[copy],
        dead_letters=[letter_row(5, event_id=uid(1), cause="conflict")],
    )
    found = plain(await world.reader.trace(uid(1)))
    assert (found["event"]["event_id"], found["events_offset"]) == (str(uid(1)), 101)
    assert found["duplicates"] == [
        {"position": {"partition": 0, "offset": 99}, "recorded_at": "2026-01-31T09:30:00.000000Z"}
    ]
    assert [letter["cause"] for letter in found["dead_letters"]] == ["conflict"]
    assert found["suspected_duplicates"] == [str(uid(2))]
    nothing = await world.reader.trace(uid(404))
    assert (nothing["event"], nothing["dead_letters"]) == (None, [])


async def test_the_ledger_counts_what_this_database_decided(world: World) -> None:
    """Stored rows as the progress table says, repeats, conflicts and dead letters of the persist stage."""
    copies = [{"ingest_partition": 0, "ingest_offset": n, "event_id": uid(1), "recorded_at": NOON} for n in (8, 9)]
    await world.put(
        sink_progress=[
            {"partition": 0, "next_offset": 50, "stored": 40, "updated_at": NOON},
            {"partition": 1, "next_offset": 12, "stored": 11, "updated_at": NOON},
        ],
        duplicates=copies,
        dead_letters=[
            letter_row(1),
            letter_row(2, cause="conflict"),
            letter_row(3, resolved_at=NOON),  # put back at its own position: on its way again
            letter_row(4, cause="conflict", resolved_at=NOON),  # came in as a new event: the old one stays rejected
            letter_row(5, stage="dedupe", cause="undecodable"),  # in the counters of the dedup table
            letter_row(6, ingest_partition=None, ingest_offset=None),  # was never accepted by us
        ],
    )
    ledger = await world.reader.ledger()
    assert {name: ledger[name] for name in ("stored", "duplicates", "rejected", "dead")} == {
        "stored": 51,
        "duplicates": 2,
        "rejected": 2,
        "dead": 1,
    }
    assert (ledger["dead_open"], ledger["unsynced"]) == (4, 0)
    assert dict(await world.reader.progress()) == {0: 50, 1: 12}


async def test_an_empty_store_counts_nothing(world: World) -> None:
    """Zeros, not nulls."""
    assert set((await world.reader.ledger()).values()) == {0}
    assert dict(await world.reader.progress()) == {}


async def test_dead_letters_page_latest_first_and_narrow_by_cause(world: World) -> None:
    """Letters of one instant are all there; the bytes are not in the list."""
    rows = [letter_row(n, failed_at=NOON, cause="conflict" if n % 2 else "invalid") for n in range(1, 6)]
    await world.put(dead_letters=rows)
    ids: list[str] = []
    after: str | None = None
    for _ in range(3):
        page = await world.reader.dead_letters(limit=2, after=after)
        ids += [item["id"] for item in page.items]
        after = page.next.encode() if page.next else None
    assert ids == [f"t.events/0/{n}" for n in (5, 4, 3, 2, 1)]
    assert after is None
    assert "value" not in page.items[0]
    narrowed = await world.reader.dead_letters(limit=9, cause="conflict")
    assert [item["offset"] for item in narrowed.items] == [5, 3, 1]


async def test_a_dead_letter_has_its_bytes_and_can_be_resolved(world: World) -> None:
    """Key and value as base64; the mark carries time and the link to the new event."""
    await world.put(dead_letters=[letter_row(3)])
    found = plain(await world.reader.dead_letter("t.events/0/3"))
    assert base64.b64decode(found["value"]) == letter_row(3)["value"]
    assert (found["position"], found["resolved_at"]) == ({"partition": 0, "offset": 10}, None)
    await world.reader.resolve_dead_letter("t.events/0/3", replayed_as=uid(9), at=NOON + 1)
    found = plain(await world.reader.dead_letter("t.events/0/3"))
    assert (found["resolved_at"], found["replayed_as"]) == ("2026-01-31T09:30:00.000001Z", str(uid(9)))


@pytest.mark.parametrize("cursor", [Cursor(5, "not-a-uuid"), Cursor(2**62, str(uid(1))), Cursor(-1, str(uid(1)))])
async def test_a_cursor_of_another_list_is_refused(world: World, cursor: Cursor) -> None:
    """It is the caller's fault, so it must not look like an outage of the database."""
    with pytest.raises(Refused) as refused:
        await world.reader.events(EventFilter(cursor=cursor))
    assert (refused.value.status, refused.value.pointer) == (422, "/cursor")
    with pytest.raises(Refused):
        await world.reader.dead_letters(limit=1, after=cursor.encode())


def test_a_letter_cursor_survives_its_way_through_a_url() -> None:
    """The id of a letter has slashes and dots."""
    cursor = letter_cursor(letter_row(3))
    assert Cursor.decode(cursor.encode()) == cursor


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_database_that_is_away_is_unavailable(kind: str, tmp_path: Path) -> None:
    """Every question says so, and opening does not fail."""
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"this is not a database, and long enough to be looked at as one" * 20)
    away: SqlReader = (
        SqliteReader(broken) if kind == "sqlite" else PostgresReader("postgresql://u:hidden@127.0.0.1:9/x")
    )
    await away.open()
    for question in (away.event(uid(1)), away.ledger(), away.probe(), away.events(EventFilter())):
        with pytest.raises(Unavailable) as error:
            await question
        assert error.value.what == kind
        assert "hidden" not in str(error.value)
    await away.close()


async def test_a_local_store_that_was_never_needed_reads_as_empty(tmp_path: Path) -> None:
    """No file means nothing was ever written there."""
    reader = SqliteReader(tmp_path / "absent.sqlite")
    await reader.open()
    assert (await reader.events(EventFilter())).items == []
    assert (await reader.backlog(), await reader.progress()) == ({}, {})
    assert set((await reader.ledger()).values()) == {0}


async def test_the_backlog_is_what_postgres_does_not_have(tmp_path: Path) -> None:
    """Rows of the outbox that are pending, and letters that are not mirrored yet."""
    path = tmp_path / "failover.sqlite"
    migrate.upgrade_sqlite(path)
    world = World(SqliteReader(path), f"sqlite+aiosqlite:///{path}")
    await world.reader.open()
    sent = {"event_id": uid(1), "fingerprint": b"f" * 16, "partition": 0, "ingest_partition": 0, "value": b"v"}
    await world.put(
        outbox=[
            sent | {"offset": n, "ingest_offset": n, "state": state}
            for n, state in enumerate(["pending"] * 3 + ["synced"])
        ],
        dead_letters=[letter_row(1), letter_row(2), letter_row(3, cause="conflict")],
        dead_letter_outbox=[{"topic": "t.events", "partition": 0, "offset": n} for n in (1, 3)],
    )
    assert isinstance(world.reader, SqliteReader)
    assert await world.reader.backlog() == {"stored": 3, "rejected": 1, "dead": 1}
    assert (await world.reader.ledger())["unsynced"] == 3


@pytest.mark.e2e
async def test_a_question_too_large_is_not_an_outage(postgres: str) -> None:
    """`statement_timeout` has struck: TooSlow, which no failover reader takes for an absent Postgres."""
    await migrate.upgrade(postgres)
    reader = PostgresReader(postgres, statement_timeout_s=0.25)
    await reader.open()
    try:
        with pytest.raises(TooSlow):
            await reader.rows(sa.select(sa.func.pg_sleep(30)))
        await reader.probe()
    finally:
        await reader.close()


async def disputed(world: World) -> None:
    """Event 1 is stored; two others claim its id, a third letter is no conflict."""
    claims = [letter_row(n, cause="conflict", event_id=uid(1), failed_at=NOON + n) for n in (3, 4)]
    await world.put(events=[event_row(1)], dead_letters=[*claims, letter_row(5)])


async def test_conflicts_are_listed_with_both_places(world: World) -> None:
    """Latest first, paged; only open ones when asked for; the bytes only by id."""
    await disputed(world)
    page = await world.reader.conflicts(limit=1)
    assert page.next is not None
    rest = await world.reader.conflicts(limit=5, after=page.next.encode(), still_open=True)
    found = page.items + rest.items
    assert [one["letter"].rpartition("/")[2] for one in found] == ["4", "3"]
    assert (found[0]["first"], found[0]["other"]) == ({"partition": 1, "offset": 1}, {"partition": 0, "offset": 11})
    assert [one["strategy"] for one in found] == [None, None]
    assert base64.b64decode((await world.reader.conflicts_of(uid(1)))[0]["value"]).endswith(b"bytes")
    assert (await world.reader.ledger())["conflicts_open"] == 2


async def test_a_conflict_is_closed_once_and_the_payload_replaced(world: World) -> None:
    """The second decision changes nothing; the other conflict stays open; a decision that keeps the payload does."""
    await disputed(world)
    letters = [one["letter"] for one in (await world.reader.conflicts(limit=5)).items]
    wanted = Resolution(event_id=uid(1), letters=letters[:1], strategy="local", at=NOON, payload='{"new": 1}')
    assert [await world.reader.resolve_conflicts(wanted) for _ in range(2)] == [1, 0]
    assert plain(await world.reader.event(uid(1)))["payload"] == {"new": 1}
    assert [one["letter"] for one in (await world.reader.conflicts(limit=5, still_open=True)).items] == letters[1:]
    keep = Resolution(event_id=uid(1), letters=letters, strategy="remote", at=NOON)
    assert await world.reader.resolve_conflicts(keep) == 1
    assert plain(await world.reader.event(uid(1)))["payload"] == {"new": 1}
    assert [one["strategy"] for one in (await world.reader.conflicts(limit=5)).items] == ["local", "remote"]


async def test_witnesses_are_by_id_and_by_place(world: World) -> None:
    """An event by its id, a letter by its id or by the place it was read at."""
    await world.put(events=[event_row(1), event_row(2)], dead_letters=[letter_row(3, event_id=None), letter_row(9)])
    found = await world.reader.witnesses(0, 10, 12, [uid(1), uid(77)])
    assert found.stored == {uid(1): (Position(1, 1), (1).to_bytes(16))}
    assert list(found.letters) == [(None, Position(0, 10), "refused_by_database")]
    by_id = await world.reader.witnesses(1, 0, 0, [uid(509)])
    assert [id for id, _, _ in by_id.letters] == [uid(509)]
