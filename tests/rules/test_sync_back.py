"""Sync-back: in order, verified, once, and stopped by nothing but Postgres itself."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from agents.quarantine import decode
from agents.sync_back import LEAST, TICK, Mismatch, SyncBack, Synced
from connectors.ports import Batch, OutboxRow, Receipt, Span
from fakes_persist import (
    TOPICS,
    CountingMetrics,
    FakeLocal,
    FakeLog,
    FakePrimary,
    ManualClock,
    away,
    digest,
    letter,
    logged,
)
from schemas.errors import Unavailable


class FakeGate:
    """A switch that is told."""

    def __init__(self) -> None:
        self.open = True
        self.reports: list[Exception] = []
        self.tended = 0

    def reachable(self) -> bool:
        return self.open

    def report(self, error: Exception) -> None:
        self.reports.append(error)

    async def tend(self) -> None:
        self.tended += 1


class House:
    """SQLite holds `count` events, Postgres is back."""

    def __init__(self, count: int, batch: int = 10) -> None:
        self.primary, self.local, self.gate, self.log = FakePrimary(), FakeLocal(), FakeGate(), FakeLog()
        self.metrics, self.clock = CountingMetrics(), ManualClock()
        self.local._store(Batch(events=[logged(number) for number in range(count)], spans=[Span(0, 0, count)]))
        self.sync = SyncBack(
            backlog=self.local,
            primary=self.primary,
            gate=self.gate,
            log=self.log,
            topics=TOPICS,
            clock=self.clock,
            metrics=self.metrics,
            digest=digest,
            batch=batch,
            sleep=self.clock.sleep,
        )

    @property
    def order(self) -> list[int]:
        return [item.ingest.offset for batch in self.primary.batches for item in batch.events]

    @property
    def causes(self) -> list[str]:
        return [decode(item.value or b"").cause for item in self.log.sent.get(TOPICS.dead_letters.name, [])]


async def test_everything_goes_home_in_order_and_is_verified() -> None:
    """All rows, oldest first, in batches, each run recorded with its check; one line says so."""
    house = House(25)
    with capture_logs() as lines:
        assert await house.sync.sync_once() == Synced(found=25, events=25)
    assert (house.order, await house.local.pending()) == (list(range(25)), 0)
    assert [(run.first_seq, run.last_seq, run.rows, run.stored, run.verified) for run in house.primary.runs] == [
        (1, 10, 10, 10, True),
        (11, 20, 10, 10, True),
        (21, 25, 5, 5, True),
    ]
    assert [line["event"] for line in lines] == ["synced 25 of 25, verified"]
    assert house.metrics.counts[("chronicle_sync_synced_total",)] == 25
    assert house.sync.state() == {"running": False, "synced": 25, "verified_at": house.clock.at, "last_error": None}


async def test_live_progress_is_left_alone() -> None:
    """Rows that left the log long ago do not move the live writer's place in it."""
    house = House(5)
    await house.sync.sync_once()
    assert house.primary.next == {}


async def test_rows_already_there_are_no_obstacle() -> None:
    """A batch whose COMMIT went unanswered is in both: it comes home as a replay."""
    house = House(5)
    house.primary._store(Batch(events=[logged(number) for number in range(3)], spans=()))
    assert (await house.sync.sync_once()).events == 5
    assert len(house.primary.rows) == 5
    assert house.primary.runs[0].stored == 2


async def test_nothing_to_do_asks_nobody() -> None:
    """A quiet second costs Postgres nothing."""
    house = House(0)
    assert (await house.sync.sync_once(), house.primary.calls) == (Synced(), 0)


async def test_a_closed_gate_and_a_held_lock_keep_it_out() -> None:
    """It does not knock at a Postgres that is away, nor work beside another process."""
    house = House(3)
    house.gate.open = False
    await house.sync.sync_once()
    assert house.primary.calls == 0
    house.gate.open, house.primary.locked = True, True
    assert await house.sync.sync_once() == Synced(found=3)
    assert (house.primary.rows, await house.local.pending()) == ({}, 3)


@pytest.mark.parametrize("calls", range(1, 8))
async def test_postgres_going_away_at_any_step_repeats_and_changes_nothing(calls: int) -> None:
    """Whatever call fails, the next pass finishes: every row once, in order, and the gate is told."""
    house = House(15)
    fate = house.primary._fate
    failing = {calls}

    async def fail_once() -> Exception | str | None:
        result = await fate()
        if house.primary.calls in failing:
            failing.clear()
            raise away()
        return result

    house.primary._fate = fail_once  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await house.sync.sync_once()
    assert len(house.gate.reports) == 1
    left = await house.local.pending()
    assert left in (15, 5)
    await house.sync.sync_once()
    assert (sorted(item.ingest.offset for item in house.primary.rows.values())) == list(range(15))
    assert await house.local.pending() == 0


async def test_refused_rows_and_conflicts_do_not_block_the_rest() -> None:
    """They are dead letters with their bytes; those behind them go home, and the check leaves them out."""
    house = House(12, batch=5)
    house.primary.refuse = {0, 7}
    other = logged(3, offset=900, payload='{"first": true}')
    house.primary.rows[other.event.event_id] = other
    assert await house.sync.sync_once() == Synced(found=12, events=12, letters=3)
    assert house.causes == ["conflict", "refused_by_database", "refused_by_database"]
    assert house.primary.rows[other.event.event_id] is other
    assert all(run.verified for run in house.primary.runs)


async def test_no_row_is_marked_before_its_dead_letter_is_durable() -> None:
    """With the broker away the pass stops; Postgres is not blamed for it."""
    house = House(3)
    house.primary.refuse, house.log.down = {1}, away("no ack", unknown=True)
    with pytest.raises(Unavailable):
        await house.sync.sync_once()
    assert (await house.local.pending(), house.gate.reports) == (3, [])
    house.log.down = None
    assert (await house.sync.sync_once()).letters == 1


async def test_a_mismatch_marks_nothing_and_is_counted() -> None:
    """What Postgres does not give back is kept in SQLite."""
    house = House(3)
    house.primary.forget = {1}
    with pytest.raises(Mismatch):
        await house.sync.sync_once()
    assert await house.local.pending() == 3
    assert house.metrics.counts[("chronicle_sync_mismatches_total",)] == 1
    assert [run.verified for run in house.primary.runs] == [False]


async def test_dead_letters_go_home_as_well() -> None:
    """Also when no event waits."""
    house = House(0)
    await house.local.write_dead_letters([letter(1), letter(2)])
    assert (await house.sync.sync_once()).letters == 2
    assert len(house.primary.dead) == 2
    assert await house.local.dead_letters(10) == []


async def test_a_pass_ends_while_live_batches_keep_coming() -> None:
    """During the hold-down SQLite is still written to: a pass takes what it found, so that the gate is tended."""
    house = House(10, batch=4)
    peek = house.local.peek

    async def busy(limit: int, after: int = 0) -> list[OutboxRow]:
        number = 100 + len(house.local.outbox)
        house.local._store(Batch(events=[logged(n) for n in range(number, number + 5)], spans=()))
        return await peek(limit, after)

    house.local.peek = busy  # type: ignore[method-assign]
    assert (await house.sync.sync_once()).events == 10


async def test_the_next_rows_are_read_while_these_are_written() -> None:
    """The file does not wait for Postgres; behind the last row nothing is asked for."""
    house, seen = House(25), list[tuple[list[tuple[int, int]], int]]()
    write = house.primary.write

    async def watched(batch: Batch) -> Receipt:
        receipt = await write(batch)
        seen.append((house.local.peeked[-1:], house.local.synced))
        return receipt

    house.primary.write = watched  # type: ignore[method-assign]
    assert (await house.sync.sync_once()).events == 25
    assert seen == [([(10, 10)], 0), ([(5, 20)], 10), ([(5, 20)], 20)]
    assert house.order == list(range(25))


async def test_rows_read_ahead_of_a_failure_are_read_again() -> None:
    """Nothing of them was written, so nothing of them may be left out; a failed look does not hide why."""
    house = House(25)
    house.primary.script = [None, None, None, None, away()]  # lock, write, verify, record; write
    peek = house.local.peek

    async def once(limit: int, after: int = 0) -> list[OutboxRow]:
        if after == 20:
            raise Unavailable("sqlite", "disk I/O error")
        return await peek(limit, after)

    house.local.peek = once  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="refused"):
        await house.sync.sync_once()
    assert house.local.synced == 10
    house.local.peek = peek  # type: ignore[method-assign]
    assert (await house.sync.sync_once()).events == 15
    assert house.order == list(range(25))


async def test_a_postgres_that_cannot_take_whole_batches_gets_smaller_ones() -> None:
    """Until it keeps up; batches that go through grow again, but not so quickly that every other one fails."""
    house = House(9 * LEAST, batch=12 * LEAST)
    write, sizes = house.primary.write, list[int]()

    async def slow(batch: Batch) -> Receipt:
        sizes.append(len(batch.events))
        if len(batch.events) > 2 * LEAST:
            raise away("canceled: statement timeout")
        return await write(batch)

    house.primary.write = slow  # type: ignore[method-assign]
    service = asyncio.create_task(house.sync.run_forever())
    while await house.local.pending():
        await asyncio.sleep(0)
    service.cancel()
    assert sizes[:4] == [9 * LEAST, 6 * LEAST, 3 * LEAST, LEAST + LEAST // 2]
    assert all(size <= 2 * LEAST for size in sizes[3:6])
    assert sorted(house.order) == list(range(9 * LEAST))


async def test_whole_batches_do_not_wait_for_the_next_look() -> None:
    """As long as rows come quicker than they go, passes follow each other at once."""
    house, tended = House(20, batch=4), list[float]()
    tend = house.gate.tend

    async def told() -> None:
        tended.append(house.clock.at)
        await tend()

    house.gate.tend = told  # type: ignore[method-assign]
    service = asyncio.create_task(house.sync.run_forever())
    while len(tended) < 3:
        await asyncio.sleep(0)
    service.cancel()
    assert [at - tended[0] for at in tended[:3]] == [0.0, 0.0, TICK]


async def test_the_service_goes_on_after_any_failure_and_says_it_once() -> None:
    """A pass that fails for a minute is one line; rows left from an earlier run are drained at the start."""
    house = House(5)
    house.primary.down = away()
    with capture_logs() as lines:
        service = asyncio.create_task(house.sync.run_forever())
        while house.gate.tended < 60:
            await asyncio.sleep(0)
        assert [line["event"] for line in lines] == ["sync-back stopped, will go on"]
        house.primary.down = None
        while await house.local.pending():
            await asyncio.sleep(0)
        service.cancel()
    assert house.order == list(range(5))
