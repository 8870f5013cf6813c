"""Each fault of stock Faust that the transport mends, shown on stock and absent here.

`docs/decisions/0002-chunk-transport.md` has the list. The parts are real (consumer, conductor,
streams, producer buffer); only the Kafka thread is a fake.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types.tuples import FutureMessage

from offline import TOPIC, TP0, Ours, Stock
from schemas.metrics import NullMetrics


class CountingMetrics(NullMetrics):
    """Remembers what was counted."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, dict[str, str]]] = []

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        self.counted.append((name, labels))


class SlowTopic:
    """A changelog topic whose broker does not answer until `answer` is set."""

    def __init__(self) -> None:
        self.answer = asyncio.Event()

    async def publish_message(self, fut: Any, wait: bool = False) -> None:
        await self.answer.wait()
        fut.set_result(None)

    def future(self) -> FutureMessage:
        return FutureMessage(SimpleNamespace(channel=self))  # type: ignore[arg-type]


# --- L1: a batch whose sink raised -----------------------------------------------------------------------------------


async def test_transport_l1_stock_take_acks_the_batch_that_failed() -> None:
    """Stock: take() acks what its consumer raised on; the next commit skips it."""
    stock = Stock(value_type=bytes, value_serializer="raw")
    stream = stock.app.stream(stock.channel)
    for offset in range(5):
        await stock.receive(offset)

    async def agent() -> None:
        async for _ in stream.take(5, within=5):
            raise RuntimeError("sink")

    with pytest.raises(RuntimeError, match="sink"):
        await agent()
    await stream.stop()
    await stock.consumer.commit()
    assert stock.thread.commits == [{TP0: 5}]


async def test_transport_l1_a_chunk_is_acked_by_its_agent_alone() -> None:
    """Here: an agent that raises, with or without Faust's acks, has acked nothing."""
    ours = await Ours().begin()

    async def agent(stream: Any) -> None:
        async for event in stream.events():
            assert len(event.value) == 5
            raise RuntimeError("sink")

    for stream in (ours.app.stream(ours.channel), ours.app.stream(ours.channel).noack()):
        await ours.receive(*range(ours.consumer.ledgers[TP0].delivered, 5 + ours.consumer.ledgers[TP0].delivered))
        with pytest.raises(RuntimeError, match="sink"):
            await agent(stream)
        await stream.stop()
    await ours.consumer.commit()
    assert ours.thread.commits == []


# --- L4, L5, L6: the head of the acked offsets -----------------------------------------------------------------------


async def test_transport_l4_stock_steps_over_one_unacked_offset_at_the_head() -> None:
    """Stock: 31 is not acked, 32 and 33 are, 34 is committed."""
    stock = Stock()
    stock.consumer._committed_offset[TP0] = 31
    stock.ack(32, 33)
    await stock.consumer.commit()
    assert stock.thread.commits == [{TP0: 34}]


async def test_transport_l4_an_unacked_offset_at_the_head_holds_the_commit() -> None:
    """Here: the same acks commit nothing until 31 is acked."""
    ours = Ours()
    ours.thread.place = ours.thread.place._replace(committed=31)
    await ours.begin()
    head, tail = await ours.chunk(31), await ours.chunk(32, 33)
    tail.ack()
    await ours.consumer.commit()
    assert ours.thread.commits == []
    head.ack()
    await ours.consumer.commit()
    assert ours.thread.commits == [{TP0: 34}]


async def test_transport_l5_stock_does_not_check_the_head_of_a_new_group() -> None:
    """Stock: nothing committed yet, 0 is not acked, 1 to 3 are, 4 is committed."""
    stock = Stock()
    stock.ack(1, 2, 3)
    await stock.consumer.commit()
    assert stock.thread.commits == [{TP0: 4}]


async def test_transport_l5_a_new_group_is_checked_from_its_first_offset() -> None:
    """Here: the same acks commit nothing."""
    ours = await Ours().begin()
    await ours.chunk(0)
    (await ours.chunk(1, 2, 3)).ack()
    await ours.consumer.commit()
    assert ours.thread.commits == []


async def test_transport_l6_stock_counts_the_first_record_after_a_gap_as_done() -> None:
    """Stock: offsets 11 to 14 were compacted away; 15 is not acked, 16 is, 17 is committed."""
    stock = Stock()
    stock.consumer._committed_offset[TP0] = 10
    await stock.consumer._add_gap(TP0, 11, 15)  # as the drain loop calls it when 15 follows 10
    stock.ack(10, 16)
    await stock.consumer.commit()
    assert stock.thread.commits == [{TP0: 17}]


async def test_transport_l6_the_first_record_after_a_gap_must_be_acked() -> None:
    """Here: the same acks commit 11, and 17 once 15 is acked."""
    ours = Ours()
    ours.thread.place = ours.thread.place._replace(committed=10)
    await ours.begin()
    before, after, last = await ours.chunk(10), await ours.chunk(15), await ours.chunk(16)
    before.ack()
    last.ack()
    await ours.consumer.commit()
    after.ack()
    await ours.consumer.commit()
    assert ours.thread.commits == [{TP0: 11}, {TP0: 17}]


# --- L7: what cannot be decoded --------------------------------------------------------------------------------------


async def test_transport_l7_stock_acks_what_it_cannot_decode() -> None:
    """Stock: the record is acked before anybody has seen it."""
    stock = Stock(value_type=int, value_serializer="json")
    await stock.receive(0, b"\xff not json")
    await stock.consumer.commit()
    assert stock.thread.commits == [{TP0: 1}]


async def test_transport_l7_the_agent_gets_the_bytes_and_nothing_is_acked() -> None:
    """Here: nobody decodes before the agent, which gets the bytes as they are."""
    ours = await Ours().begin()
    await ours.receive(0, value=b"\xff not json")
    event = await ours.channel.queue.get()
    assert event.value.records[0].value == b"\xff not json"
    await ours.consumer.commit()
    assert ours.thread.commits == []


# --- L8: revocation --------------------------------------------------------------------------------------------------


async def test_transport_l8_stock_forgets_acks_at_revocation() -> None:
    """Stock: 10 to 14 are acked, the partition is revoked, nothing is committed."""
    stock = Stock()
    stock.consumer._committed_offset[TP0] = 10
    stock.ack(10, 11, 12, 13, 14)
    await stock.consumer.on_partitions_revoked({TP0})
    await stock.consumer.commit()
    assert stock.thread.commits == []


async def test_transport_l8_revocation_commits_first() -> None:
    """Here: what was acked is committed before the partition is forgotten."""
    ours = Ours()
    ours.thread.place = ours.thread.place._replace(committed=10)
    await ours.begin()
    (await ours.chunk(10, 11, 12, 13, 14)).ack()
    await ours.consumer.on_partitions_revoked({TP0})
    assert ours.thread.commits == [{TP0: 15}]
    assert ours.consumer.ledgers == {}


# --- L9: the changelog behind the commit -----------------------------------------------------------------------------


async def test_transport_l9_stock_commits_while_changelog_records_are_queued() -> None:
    """Stock: the flush gives up after 100 ms and the offset is committed all the same."""
    stock, changelog = Stock(), SlowTopic()
    buffer = stock.app.producer.buffer
    await buffer.start()
    queued = [changelog.future(), changelog.future()]
    for future in queued:
        buffer.put(future)
    stock.ack(0)
    await stock.consumer.commit()
    assert stock.thread.commits == [{TP0: 1}]
    assert not any(future.done() for future in queued)
    changelog.answer.set()
    await asyncio.gather(*queued)
    await buffer.stop()


async def test_transport_l9_commit_waits_for_changelog_records() -> None:
    """Here: no commit while the broker has not acked them, a commit when it has."""
    ours, changelog = await Ours(commit_timeout=0.2).begin(), SlowTopic()
    buffer: Any = ours.app.producer.buffer
    await buffer.start()
    buffer.put(changelog.future())
    buffer.put(changelog.future())
    (await ours.chunk(0)).ack()
    await ours.consumer.commit()
    assert ours.thread.commits == []
    changelog.answer.set()
    await ours.consumer.commit()
    assert ours.thread.commits == [{TP0: 1}]
    await buffer.stop()


async def test_transport_l9_refused_changelog_record_holds_the_commit_for_good() -> None:
    """Here: a changelog record the broker will never take is a hole; offsets must not pass it."""
    ours = await Ours().begin()
    buffer: Any = ours.app.producer.buffer
    lost = SlowTopic().future()
    buffer.put(lost)
    lost.set_exception(ValueError("too large"))
    (await ours.chunk(0)).ack()
    await ours.consumer.commit()
    await ours.consumer.commit()
    assert ours.thread.commits == []


# --- S3: a commit that failed ----------------------------------------------------------------------------------------


async def test_transport_s3_stock_takes_a_failed_commit_for_done() -> None:
    """Stock: the broker refused, and nothing is tried again."""
    stock = Stock()
    stock.ack(0, 1)
    stock.thread.answer = False
    await stock.consumer.commit()
    stock.thread.answer = True
    await stock.consumer.commit()
    assert stock.thread.commits == [{TP0: 2}]  # the refused one


@pytest.mark.parametrize("answer", [TimeoutError(), ConnectionError("gone")])
async def test_transport_s3_failed_commit_is_kept_counted_and_tried_again(answer: BaseException) -> None:
    """Here: it is tried again at the next interval, counted, and told."""
    metrics = CountingMetrics()
    told: list[dict[Any, int]] = []
    ours = await Ours(metrics=metrics, on_commit_failure=lambda offsets, exc: told.append(dict(offsets))).begin()
    (await ours.chunk(0, 1)).ack()
    ours.thread.answer = answer
    assert not await ours.consumer.commit()
    ours.thread.answer = True
    assert await ours.consumer.commit()
    assert ours.thread.commits == [{TP0: 2}, {TP0: 2}]
    assert metrics.counted == [("chronicle_commit_failures_total", {"role": "test"})]
    assert told == [{TP0: 2}]
    assert TP0.topic == TOPIC
