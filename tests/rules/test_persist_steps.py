"""The five steps of persist, each failing in turn: nothing is acked before it is durable, nothing is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from faust.types import TP

from agents import quarantine
from agents.batching import Batcher, BatchPolicy
from agents.hold import Hold
from agents.persist import Persister, PersistStatus, resume, slices
from connectors.transport.chunk import Chunk
from connectors.transport.ledger import PartitionLedger
from fakes_persist import (
    CODEC,
    TOPICS,
    CountingMetrics,
    FakeLog,
    FakeSink,
    KafkaRecord,
    away,
    chunk,
    letter,
    make_event,
    record,
    until,
)
from schemas.clock import SystemClock


class House:
    """A persister with everything around it."""

    def __init__(self, **policy: object) -> None:
        self.sink, self.log, self.metrics, self.status = FakeSink(), FakeLog(), CountingMetrics(), PersistStatus()
        self.policy = BatchPolicy(**{"max_wait_s": 0.01, "max_size": 50, **policy})  # type: ignore[arg-type]
        clock = SystemClock()
        self.hold = Hold(clock=clock, metrics=self.metrics, sleep=lambda _: asyncio.sleep(0.001))
        self.persister = Persister(
            sink=self.sink,
            log=self.log,
            codec=CODEC,
            topics=TOPICS,
            policy=self.policy,
            clock=clock,
            metrics=self.metrics,
            status=self.status,
            hold=self.hold,
        )

    @property
    def buried(self) -> list[quarantine.DeadLetter]:
        return [quarantine.decode(item.value or b"") for item in self.log.sent.get(TOPICS.dead_letters.name, [])]

    async def settle(self, source: Chunk) -> None:
        """One batch out of one chunk, without the writer."""
        batcher = Batcher(self.policy)
        for part in slices(source, CODEC, 0):
            batcher.add(part, 0.0)
        await self.persister.settle(batcher.cut("size"))


@asynccontextmanager
async def running(**policy: object) -> AsyncIterator[House]:
    """A house whose writer runs."""
    house = House(**policy)
    writer = asyncio.create_task(house.persister.run())
    try:
        yield house
        assert not writer.done()
    finally:
        writer.cancel()


class KilledBeforeAck(Chunk):
    """The process ends where it would ack."""

    def ack(self, through: int | None = None) -> None:
        raise SystemError("killed")


def records(*offsets: int) -> list[KafkaRecord]:
    return [record(offset) for offset in offsets]


async def test_a_batch_is_stored_then_acked() -> None:
    """When all goes well the rows are in the sink and the chunk is done."""
    house, source = House(), chunk(records(0, 1, 2))
    await house.settle(source)
    assert sorted(item.events.offset for item in house.sink.rows.values()) == [0, 1, 2]
    assert (source.acked, house.sink.next) == (3, {0: 3})
    assert house.status.snapshot()["partitions"] == {"0": {"next": 3}}
    assert house.metrics.counts[("chronicle_sink_stored_total", "memory")] == 3


async def test_a_lone_event_leaves_by_its_own_timer() -> None:
    """Nothing has to come after it."""
    async with running() as house:
        source = chunk(records(5))
        await house.persister.take(source)
        await until(lambda: source.acked == 6)


async def test_nothing_is_acked_while_no_sink_takes_it() -> None:
    """The batch is held, tried again, and acked only when it is stored; the hold is told while it lasts."""
    async with running() as house:
        house.sink.down = away()
        source = chunk(records(0, 1))
        await house.persister.take(source)
        await until(lambda: house.sink.calls >= 5)
        assert (source.acked, house.sink.rows, house.buried) == (0, {}, [])
        assert house.status.snapshot()["held_since"] is not None
        assert house.metrics.gauges["chronicle_sink_held_seconds"] > 0
        house.sink.down = None
        await until(lambda: source.acked == 2)
        assert house.status.snapshot()["held_since"] is None
        assert house.metrics.gauges["chronicle_sink_held_seconds"] == 0


async def test_a_sink_that_breaks_its_contract_is_held_too() -> None:
    """An error nobody expected is an outage until somebody has looked: no event is lost by it."""
    house, source = House(), chunk(records(0))
    house.sink.script = [RuntimeError("bug"), TypeError("bug"), None]
    await house.settle(source)
    assert (source.acked, len(house.sink.rows)) == (1, 1)


async def test_an_unknown_outcome_is_written_again_and_is_a_replay() -> None:
    """A write that may have happened is repeated; the row is there once."""
    house, source = House(), chunk(records(0, 1))
    house.sink.script = ["unknown"]
    await house.settle(source)
    assert (source.acked, len(house.sink.rows), house.status.stored) == (2, 2, 0)


async def test_what_cannot_be_decoded_is_buried_before_the_ack() -> None:
    """The neighbours are stored, the broken record is a dead letter with its bytes, and the span has no hole."""
    house = House()
    broken = record(1, b"broken")
    source = chunk([record(0), broken, record(2)])
    await house.settle(source)
    (dead,) = house.buried
    assert (dead.offset, dead.value, dead.cause) == (1, b"broken", "undecodable")
    assert (source.acked, house.sink.next, len(house.sink.rows)) == (3, {0: 3}, 2)
    assert house.metrics.counts[("chronicle_dead_letters_total", "persist", "undecodable")] == 1


async def test_a_chunk_of_broken_records_moves_progress() -> None:
    """Also when there is nothing to store the sink learns how far we are."""
    house, source = House(), chunk([record(7, b"x"), record(8, b"y")])
    await house.settle(source)
    assert (house.sink.next, source.acked, len(house.buried)) == ({0: 9}, 9, 2)


async def test_refused_and_conflicting_rows_are_buried() -> None:
    """What the database does not take is in the dead letters before the ack; the first of two payloads stays."""
    house = House()
    house.sink.refuse = {1}
    source = chunk([record(0), record(1), record(2, make_event(0, payload='{"other": 1}'))])
    await house.settle(source)
    assert [(dead.offset, dead.cause) for dead in house.buried] == [(2, "conflict"), (1, "refused_by_database")]
    assert [item.event.payload for item in house.sink.rows.values()] == ["{}"]
    assert source.acked == 3


async def test_no_ack_before_the_dead_letters_are_durable() -> None:
    """With the broker away the events are stored but not acked; the write is not repeated, only the produce."""
    async with running() as house:
        house.log.down = away("no ack within 2 s", unknown=True)
        source = chunk([record(0), record(1, b"broken")])
        await house.persister.take(source)
        await until(lambda: house.log.calls >= 3)
        assert (source.acked, len(house.sink.rows), len(house.sink.batches)) == (0, 1, 1)
        house.log.down = None
        await until(lambda: source.acked == 2)
        assert (len(house.buried), len(house.sink.batches)) == (1, 1)


@pytest.mark.parametrize("crash_after", ["write", "dead letters"])
async def test_a_crash_between_two_steps_repeats_and_changes_nothing(crash_after: str) -> None:
    """The new process reads from the last ack: rows once, dead letters known by their place."""
    house = House()
    broken = [record(0), record(1, b"broken"), record(2)]
    source = chunk(broken) if crash_after == "write" else KilledBeforeAck(TOPICS.events.name, 0, broken)
    if crash_after == "write":
        house.log.down = away()
    victim = asyncio.create_task(house.settle(source))
    await until(lambda: victim.done() or house.log.calls >= 2)
    victim.cancel()
    await asyncio.gather(victim, return_exceptions=True)
    assert source.acked == 0
    house.log.down = None
    again = chunk(source.records)
    await house.settle(again)
    assert (again.acked, len(house.sink.rows)) == (3, 2)
    assert {quarantine.letter_id(dead) for dead in house.buried} == {f"{TOPICS.events.name}/0/1"}


async def test_collecting_goes_on_while_a_write_is_in_flight() -> None:
    """The next batch is ready when the sink is; one write at a time, in order."""
    async with running(max_size=2, backlog=4) as house:
        house.sink.gate = asyncio.Event()
        first, second, third = chunk(records(0, 1)), chunk(records(2, 3)), chunk(records(4, 5))
        await house.persister.take(first)
        await until(lambda: house.sink.calls == 1)
        await house.persister.take(second)
        await house.persister.take(third)
        assert (house.sink.calls, house.status.snapshot()["pending"]) == (1, 4)
        house.sink.gate.set()
        await until(lambda: third.acked == 6)
        assert [[item.events.offset for item in batch.events] for batch in house.sink.batches] == [
            [0, 1],
            [2, 3],
            [4, 5],
        ]


async def test_reading_stops_while_the_backlog_is_full() -> None:
    """Memory is bounded however long the sink is away, and reading goes on afterwards."""
    async with running(max_size=2, backlog=2) as house:
        house.sink.down = away()
        sources = [chunk(records(2 * index, 2 * index + 1)) for index in range(10)]
        taken: list[int] = []

        async def read() -> None:
            for index, source in enumerate(sources):
                await house.persister.take(source)
                taken.append(index)

        reader = asyncio.create_task(read())
        await until(lambda: house.sink.calls >= 20)
        assert len(taken) == 3  # one in flight, two waiting
        house.sink.down = None
        await until(lambda: sources[-1].acked == 20)
        await reader


async def test_priority_does_not_wait() -> None:
    """With an age of an hour a session_start is stored at once, and what came before it too."""
    async with running(max_wait_s=3600.0) as house:
        before = chunk(records(0, 1))
        await house.persister.take(before)
        start = chunk([record(2, make_event(2, kind="session_start"))])
        await house.persister.take(start)
        await until(lambda: start.acked == 3)
        assert [len(batch.events) for batch in house.sink.batches] == [3]
        assert house.metrics.counts[("chronicle_batch_events", "priority")] == 3


async def test_a_rebalance_replaces_what_is_delivered_again() -> None:
    """The old assignment's records are not written twice, its acks are ignored, the new ones count."""
    house = House(max_wait_s=3600.0, max_size=6)
    old_ledger, new_ledger = PartitionLedger(0, generation=1), PartitionLedger(0, generation=2)
    old = Chunk("t", 0, records(0, 1, 2), old_ledger.deliver(0, 3))
    new = Chunk("t", 0, records(0, 1, 2, 3, 4, 5), new_ledger.deliver(0, 6))
    await house.persister.take(old)
    old_ledger.close()
    await house.persister.take(new)
    writer = asyncio.create_task(house.persister.run())
    await until(lambda: new.acked == 6)
    writer.cancel()
    assert [[item.events.offset for item in batch.events] for batch in house.sink.batches] == [[0, 1, 2, 3, 4, 5]]
    assert (old.acked, old_ledger.position, new_ledger.position) == (0, 0, 6)


async def test_a_letter_too_large_for_the_topic_is_kept_whole_in_the_table() -> None:
    """Its bytes go to the table first, the topic gets the letter without them; its neighbours are whole."""
    house = House()
    house.log.limit = 2_000
    source = chunk([record(0, b"x" * 5_000), record(1, b"small")])
    await house.settle(source)
    assert [(dead.offset, dead.value) for dead in house.buried] == [(0, None), (1, b"small")]
    assert [dead.value for dead in house.sink.dead.values()] == [b"x" * 5_000]
    assert source.acked == 2


async def test_quarantine_mirrors_and_then_acks() -> None:
    """The table has each letter once, however often the topic holds it; foreign bytes are kept as well."""
    sink, hold = FakeSink(), Hold(clock=SystemClock(), metrics=CountingMetrics(), gauge=None)
    values = [quarantine.encode(letter(number)).value for number in (1, 2, 1)] + [b"not json"]
    topic = TOPICS.dead_letters.name
    source = chunk([KafkaRecord(offset=index, value=value) for index, value in enumerate(values)], topic=topic)
    new = await quarantine.mirror(source, sink=sink, hold=hold, clock=SystemClock())
    assert (new, source.acked) == (3, 4)
    assert set(sink.dead) == {(TOPICS.ingest.name, 0, 1), (TOPICS.ingest.name, 0, 2), (topic, 0, 3)}


async def test_quarantine_holds_while_no_sink_takes_letters() -> None:
    """A dead letter is not acked before it is in the table."""
    sink, metrics = FakeSink(), CountingMetrics()
    sink.down = away()
    hold = Hold(clock=SystemClock(), metrics=metrics, gauge=None, sleep=lambda _: asyncio.sleep(0.001))
    source = chunk([KafkaRecord(offset=0, value=quarantine.encode(letter(1)).value)], topic="dead")
    task = asyncio.create_task(quarantine.mirror(source, sink=sink, hold=hold, clock=SystemClock()))
    await until(lambda: sink.calls >= 3)
    assert source.acked == 0
    sink.down = None
    await task
    assert (source.acked, len(sink.dead), metrics.gauges) == (1, 1, {})


async def test_resume_answers_durable_progress_or_says_it_is_away() -> None:
    """The transport falls back to the group's offsets by itself when nobody knows better."""
    sink = FakeSink()
    sink.next = {0: 12}
    ask: Callable[..., object] = resume(sink, "events")
    assert await ask({TP("events", 0): 20}) == {TP("events", 0): 12}  # type: ignore[misc]
    sink.down = away()
    with pytest.raises(type(sink.down)):
        await ask({TP("events", 0): 20})  # type: ignore[misc]
