"""The Postgres sink while Postgres stops, freezes, refuses; on a server of its own that the tests may hurt."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from app.stack.ports import free_port
from app.stack.postgres import Postgres
from connectors import migrate
from connectors.pgerrors import SinkDown
from connectors.ports import Batch, SyncRun
from connectors.postgres import PostgresSink
from connectors.rows import expected
from cutting_proxy import CuttingProxy
from schemas.event import Position
from sink_events import InPostgres, batch, logged

pytestmark = pytest.mark.e2e
LIMIT_S = 1.5


@pytest.fixture(scope="module")
def server(workplace: Path) -> Iterator[Postgres]:
    running = Postgres(workplace / "postgres-faults", free_port())
    running.start()
    yield running
    running.stop()


@pytest_asyncio.fixture
async def dsn(server: Postgres) -> AsyncIterator[str]:
    """A database with our tables, gone afterwards."""
    await admin(server, "DROP DATABASE IF EXISTS faults WITH (FORCE)", "CREATE DATABASE faults")
    name = server.dsn.rpartition("/")[0] + "/faults"
    await migrate.upgrade(name)
    yield name


@pytest_asyncio.fixture
async def sink(dsn: str) -> AsyncIterator[PostgresSink]:
    made = PostgresSink(dsn, timeout_s=LIMIT_S)
    await made.open()
    yield made
    await made.close()


async def admin(server: Postgres, *statements: str) -> None:
    connection = await asyncpg.connect(server.dsn)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def run(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def down(sink: PostgresSink, events: Batch) -> SinkDown:
    """The write fails, in bounded time."""
    start = time.monotonic()
    with pytest.raises(SinkDown) as caught:
        await sink.write(events)
    assert time.monotonic() - start < LIMIT_S + 2
    return caught.value


async def stored(sink: PostgresSink, events: Batch, dsn: str) -> None:
    """The same sink takes the batch now, and each event is there once."""
    receipt = await sink.write(events)
    assert receipt.stored + receipt.replays == len(events.events)
    inside = InPostgres(dsn)
    assert len(await inside.ids()) == len(events.events)
    assert sum(row["event_count"] for row in (await inside.sessions()).values()) == len(events.events)


def children_of(parent: int) -> list[int]:
    """Each Postgres backend is a process group of its own."""
    stats = [path.read_text().rpartition(")") for path in Path("/proc").glob("[0-9]*/stat")]
    return [int(head.split()[0]) for head, _, tail in stats if int(tail.split()[1]) == parent]


def send(processes: list[int], what: signal.Signals) -> None:
    for pid in processes:
        os.kill(pid, what)


EVENTS = batch([logged(n) for n in range(50)])


async def test_a_stopped_server_is_an_outage_and_comes_back(server: Postgres, dsn: str, sink: PostgresSink) -> None:
    """Stop: unavailable at once, nothing refused. Start: the same sink writes again."""
    server.kill()
    error = await down(sink, EVENTS)
    again = await down(sink, EVENTS)
    server.start()
    assert (error.kind, again.kind) == ("unavailable", "unavailable")
    await stored(sink, EVENTS, dsn)


async def test_a_frozen_server_is_given_up_in_time(server: Postgres, dsn: str, sink: PostgresSink) -> None:
    """SIGSTOP: no answer within the limit is an outage; thawed, each event is there once."""
    await sink.write(batch([logged(0)]))
    processes = [server.pid, *children_of(server.pid)]
    send(processes, signal.SIGSTOP)
    try:
        error = await down(sink, EVENTS)
        fresh = PostgresSink(dsn, timeout_s=LIMIT_S, connect_timeout_s=1.0)
        connecting = await down(fresh, EVENTS)
    finally:
        send(processes, signal.SIGCONT)
    assert (error.kind, connecting.kind) == ("unavailable", "unavailable")
    await stored(sink, EVENTS, dsn)


async def test_a_read_only_database_is_an_outage(server: Postgres, dsn: str, sink: PostgresSink) -> None:
    """25006: unavailable, and the connection is not kept; writable again, it writes."""
    await admin(server, "ALTER DATABASE faults SET default_transaction_read_only = on")
    await run(dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'chronicle%'")
    await down(sink, EVENTS)
    error = await down(sink, EVENTS)
    assert error.kind == "unavailable"
    assert "25006" in error.detail
    await admin(server, "ALTER DATABASE faults RESET default_transaction_read_only")
    await stored(sink, EVENTS, dsn)


@pytest.mark.parametrize(
    ("old", "new", "state"), [("/faults", "/nowhere", "3D000"), ("chronicle:", "chronicle:x", "28P01")]
)
async def test_a_wrong_url_is_configuration(dsn: str, old: str, new: str, state: str) -> None:
    """Wrong password, missing database: an operator must act, and is told what to do."""
    error = await down(PostgresSink(dsn.replace(old, new)), EVENTS)
    assert error.kind == "configuration"
    assert state in error.detail
    assert error.remedy


@pytest.mark.parametrize(
    "damage",
    [
        "ALTER TABLE events DROP COLUMN prompt_id CASCADE",
        "DROP TABLE sessions",
        "ALTER TABLE events ADD COLUMN tenant text NOT NULL",
        "ALTER TABLE events ADD CHECK (source = 'nobody')",
    ],
)
async def test_a_schema_that_does_not_fit_is_never_the_datas_fault(dsn: str, sink: PostgresSink, damage: str) -> None:
    """Missing or unwelcome columns and rules: configuration, no row is set aside."""
    await run(dsn, damage, "TRUNCATE sink_progress")
    error = await down(sink, EVENTS)
    assert error.kind == "configuration"
    assert await InPostgres(dsn).ids() == []
    with pytest.raises(SinkDown):
        await sink.probe()


async def test_a_rule_that_one_row_breaks_is_the_rows_fault(dsn: str, sink: PostgresSink) -> None:
    """A constraint of the operator's own refuses what breaks it and nothing else."""
    await run(dsn, "ALTER TABLE events ADD CHECK (tool_name <> 'Rm')")
    receipt = await sink.write(batch([logged(n, tool_name="Rm" if n == 17 else "Ls") for n in range(50)]))
    assert (receipt.stored, [one.events.offset for one, _ in receipt.refused]) == (49, [17])


async def test_content_beyond_the_limits_of_postgres_is_refused(sink: PostgresSink) -> None:
    """Text too long for an index, a number too long for numeric, no JSON: refused, and no payload in the reason."""
    noise = "".join(chr(0x4E00 + (n * 7919) % 20000) for n in range(9000))
    rows = [
        logged(0),
        logged(1, tool_name=noise),
        logged(2, payload='{"secret": ' + "9" * 140_000 + "}"),
        logged(3, payload='{"secret": '),
        logged(4),
    ]
    receipt = await sink.write(batch(rows))
    assert receipt.stored == 2
    assert [one.events.offset for one, _ in receipt.refused] == [1, 2, 3]
    assert not any("secret" in reason for _, reason in receipt.refused)


async def test_a_refused_first_leaves_its_turn_to_the_next_of_its_id(sink: PostgresSink) -> None:
    """Two records claim one id in one batch and only the second can be stored: it is."""
    bad = logged(1, tool_name="\0", fingerprint=b"x" * 16)
    good = logged(1, ingest=Position(0, 900))
    receipt = await sink.write(Batch([bad, good], []))
    assert (receipt.stored, [one for one, _ in receipt.refused]) == (1, [bad])


async def test_a_locked_table_is_given_up_in_time(dsn: str, sink: PostgresSink) -> None:
    """ACCESS EXCLUSIVE held: the lock timeout tells, retries are used up, the batch is taken once the lock is gone."""
    blocker = await asyncpg.connect(dsn)
    await blocker.execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    error = await down(sink, EVENTS)
    await blocker.close()
    assert error.kind in ("transient", "unavailable")
    await stored(sink, EVENTS, dsn)


async def test_a_short_lock_is_waited_out_inside_write(dsn: str, sink: PostgresSink) -> None:
    """55P03 is tried again: a lock that goes away in time is not seen by the caller."""
    blocker = await asyncpg.connect(dsn)
    await blocker.execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    writing = asyncio.create_task(sink.write(EVENTS))
    await asyncio.wait([writing], timeout=LIMIT_S / 3 + 0.05)
    await blocker.close()
    assert (await writing).stored == 50


async def test_a_connection_cut_in_the_middle_loses_nothing(dsn: str, sink: PostgresSink) -> None:
    """The server ends the session while the batch is under way: unavailable, and the next try stores it."""
    blocker = await asyncpg.connect(dsn)
    await blocker.execute("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
    writing = asyncio.create_task(sink.write(EVENTS))
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'chronicle%'"
    while (pid := await blocker.fetchval(waiting)) is None:
        await asyncio.sleep(0.01)
    await run(dsn, f"SELECT pg_terminate_backend({pid})")
    with pytest.raises(SinkDown) as caught:
        await writing
    await blocker.close()
    assert (caught.value.kind, caught.value.unknown) == ("unavailable", False)
    assert await InPostgres(dsn).ids() == []
    await stored(sink, EVENTS, dsn)


async def test_an_unanswered_commit_is_unknown_and_the_retry_is_a_replay(server: Postgres, dsn: str) -> None:
    """Cut after COMMIT was sent: the caller is told that nobody knows, and the retry changes nothing."""
    proxy = CuttingProxy(server.port)
    port = await proxy.start()
    sink = PostgresSink(dsn.replace(f":{server.port}/", f":{port}/"), timeout_s=LIMIT_S)
    await sink.open()
    proxy.word = b"COMMIT\0"  # not the one of BEGIN … READ COMMITTED
    error = await down(sink, EVENTS)
    receipt = await sink.write(EVENTS)
    await sink.close()
    await proxy.stop()
    assert proxy.cuts == 1
    assert error.unknown
    assert (receipt.stored, receipt.replays) == (0, 50)
    assert await InPostgres(dsn).stored() == {0: 50}


async def test_a_cancelled_write_leaves_the_sink_usable(dsn: str, sink: PostgresSink) -> None:
    """Whoever stops waiting costs the connection, not the sink."""
    blocker = await asyncpg.connect(dsn)
    await blocker.execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await sink.write(EVENTS)
    await blocker.close()
    await stored(sink, EVENTS, dsn)


async def test_opening_while_postgres_is_away_does_not_raise() -> None:
    """A worker starts without its database."""
    sink = PostgresSink(f"postgresql://nobody@127.0.0.1:{free_port()}/nothing")
    await sink.open()
    with pytest.raises(SinkDown):
        await sink.probe()
    await sink.close()


async def test_commits_are_durable_whatever_the_role_is_set_to(server: Postgres, dsn: str) -> None:
    """A database set to synchronous_commit = off would break the promise; the sink turns it on for itself."""
    await admin(server, "ALTER DATABASE faults SET synchronous_commit = off")
    sink = PostgresSink(dsn)
    await run(
        dsn,
        "CREATE TABLE seen_setting (v text)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO seen_setting VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$",
        "CREATE TRIGGER note AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION note()",
    )
    await sink.write(EVENTS)
    await sink.close()
    assert [row[0] for row in await InPostgres(dsn).rows("SELECT v FROM seen_setting")] == ["on"]


async def test_sync_back_is_verified_and_single_flight(dsn: str, sink: PostgresSink) -> None:
    """One holder of the lock at a time; count and hash tell what is there; each run is written down."""
    await sink.write(EVENTS)
    assert await sink.verify(EVENTS.events) == expected(EVENTS.events)
    assert await sink.verify([*EVENTS.events, logged(99)]) != expected([*EVENTS.events, logged(99)])
    changed = [*EVENTS.events[:-1], logged(49, fingerprint=b"y" * 16)]
    assert await sink.verify(changed) != expected(changed)
    other = PostgresSink(dsn)
    async with sink.sync_lock("file") as first, other.sync_lock("file") as second, other.sync_lock("b") as elsewhere:
        assert (first, second, elsewhere) == (True, False, True)
    count, total = expected(EVENTS.events)
    await sink.record_sync(
        SyncRun(worker="w", started_at=1, finished_at=2, first_seq=1, last_seq=50, rows=50, stored=50, verified=True,
                expected_count=count, expected_hash=total, found_count=count, found_hash=total)
    )  # fmt: skip
    assert [tuple(row) for row in await InPostgres(dsn).rows("SELECT rows, verified FROM sync_runs")] == [(50, True)]
    await other.close()


async def test_what_json_columns_cannot_hold_is_kept_as_sent(dsn: str, sink: PostgresSink) -> None:
    """jsonb gets the written substitutes; payload_raw keeps the text, and only where it is needed."""
    odd = '{"a": "\\u0000\\ud800"}'
    await sink.write(batch([logged(0, payload=odd, flags=4), logged(1)]))
    rows = await InPostgres(dsn).rows("SELECT payload ->> 'a', payload_raw FROM events ORDER BY event_id")
    assert [tuple(row) for row in rows] == [("\u2400\ufffd", odd), (None, None)]
