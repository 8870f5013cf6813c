"""How chunks flow: when they are handed out, what an ack means, where reading begins, how it ends. No broker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from faust.exceptions import ImproperlyConfigured
from faust.types import TP

from connectors.transport import Chunk, assigned, chunk_topic, lag, last_progress, positions, use
from connectors.transport.flow import pause
from connectors.transport.settings import Options
from connectors.transport.thread import ChunkConsumerThread, Poll
from offline import TOPIC, TP0, Ours, record


async def test_transport_one_poll_of_a_partition_is_one_event() -> None:
    """The event's value is a chunk of the polled records."""
    ours = await Ours().begin()
    chunk = await ours.chunk(0, 1, 2, 7)
    assert isinstance(chunk, Chunk)
    assert ([r.offset for r in chunk.records], chunk.first, chunk.next) == ([0, 1, 2, 7], 0, 8)


async def test_transport_large_poll_is_split() -> None:
    """No chunk has more than max_records."""
    ours = await Ours(max_records=3).begin()
    await ours.receive(*range(7))
    chunks = [ours.channel.queue.get_nowait().value for _ in range(3)]
    assert [(chunk.first, chunk.next) for chunk in chunks] == [(0, 3), (3, 6), (6, 7)]


async def test_transport_ack_by_parts_commits_by_parts() -> None:
    """An agent may ack as far as it is."""
    ours = await Ours().begin()
    chunk = await ours.chunk(0, 1, 2, 3)
    chunk.ack(2)
    await ours.consumer.commit()
    chunk.ack(3)
    await ours.consumer.commit()
    chunk.ack()
    await ours.consumer.commit()
    assert ours.thread.commits == [{TP0: 2}, {TP0: 3}, {TP0: 4}]


async def test_transport_ack_of_a_former_assignment_is_ignored() -> None:
    """After a revocation the chunk is dead and its ack commits nothing, even when the partition is ours again."""
    ours = await Ours(drain_timeout=0.01).begin()
    chunk = await ours.chunk(0, 1)
    await ours.consumer.on_partitions_revoked({TP0})
    await ours.begin()
    again = await ours.chunk(0, 1)
    chunk.ack()
    await ours.consumer.commit()
    assert (chunk.live, again.live) == (False, True)
    assert again.generation > chunk.generation
    assert ours.thread.commits == []


async def test_transport_revocation_waits_for_what_an_agent_holds() -> None:
    """A chunk that is acked while partitions are being revoked is committed with them."""
    ours = await Ours().begin()
    chunk = await ours.chunk(0, 1)
    revocation = asyncio.ensure_future(ours.consumer.on_partitions_revoked({TP0}))
    await asyncio.sleep(0)
    chunk.ack()
    await revocation
    assert ours.thread.commits == [{TP0: 2}]


async def test_transport_revocation_waits_for_a_bounded_time() -> None:
    """A held sink does not hold the group: after drain_timeout the rest is left for the next owner."""
    ours = await Ours(drain_timeout=0.1).begin()
    (await ours.chunk(0, 1)).ack()
    await ours.chunk(2)
    start = time.monotonic()
    await ours.consumer.on_partitions_revoked({TP0})
    assert time.monotonic() - start < 2
    assert ours.thread.commits == [{TP0: 2}]


async def test_transport_queued_chunks_do_not_hold_a_revocation() -> None:
    """Only what an agent has taken is waited for."""
    ours = await Ours(drain_timeout=60).begin()
    await ours.receive(0, 1)
    await asyncio.wait_for(ours.consumer.on_partitions_revoked({TP0}), 5)
    assert ours.channel.queue.empty()


async def test_transport_poll_from_before_the_seek_is_thrown_away() -> None:
    """Records polled before the seek are read again; handing them out would let a later offset come first."""
    ours = await Ours().begin()
    polled = Poll(ours.thread.epoch, {TP0: [record(50)]})
    await ours.begin()
    await ours.consumer._hand_out(polled, ours.app.consumer_generation_id)
    assert ours.channel.queue.empty()
    assert (await ours.chunk(0)).first == 0


async def test_transport_poll_from_after_the_seek_is_never_just_dropped() -> None:
    """What was polled at the newest position and cannot be handed out now would be skipped: it is sought again."""
    ours = await Ours().begin()
    ours.consumer._open = False  # the flow is not resumed yet
    await ours.receive(0)
    assert ours.channel.queue.empty()
    ours.thread.sought.clear()
    await ours.consumer._drain_once()
    assert ours.thread.sought == {TP0: 0}
    assert (await ours.chunk(0)).first == 0


async def test_transport_a_seek_by_somebody_else_is_followed_by_our_own() -> None:
    """A late seek of an assignment that is over moves the position under the open ledgers."""
    ours = await Ours().begin()
    await ours.thread.seek_streams({TP0: 70})
    await ours.receive(70)
    assert ours.channel.queue.empty()
    await ours.consumer._drain_once()
    assert ours.thread.sought == {TP0: 0}
    assert (await ours.chunk(0)).first == 0


class Fetching:
    """An aiokafka consumer and its fetcher, as far as `poll` looks: `give` ends the wait with these records."""

    _closed = False

    def __init__(self) -> None:
        self._fetcher = self
        self._subscriptions = self
        self._records: dict[TP, Any] = {}
        self.give: asyncio.Future[dict[TP, list[Any]]] = asyncio.get_running_loop().create_future()
        self.position: dict[TP, int] = {}

    def fetch_context(self) -> Any:
        return contextlib.nullcontext()

    async def fetched_records(self, *_: Any, **__: Any) -> dict[TP, list[Any]]:
        return await self.give

    def seek(self, tp: TP, offset: int) -> None:
        self.position[tp] = offset


class BareThread(ChunkConsumerThread):
    """The consumer thread's own logic, in this thread."""

    def __init__(self, consumer: Any) -> None:
        self.consumer, self.fetching = consumer, Fetching()

    def _kafka(self) -> Any:
        return self.fetching

    async def call_thread(self, fun: Any, *args: Any, **kwargs: Any) -> Any:
        return await fun(*args, **kwargs)

    async def _seek_wait(self, consumer: Any, partitions: Mapping[TP, int]) -> None:
        consumer.position.update(partitions)


async def test_transport_poll_that_waited_across_a_seek_goes_back_to_its_first_record() -> None:
    """Its records were fetched after the seek, for a ledger that did not yet exist when it was asked for."""
    thread = BareThread(SimpleNamespace(flow_active=True))
    polling = asyncio.ensure_future(thread.poll({TP0}, timeout=1, max_records=10))
    await asyncio.sleep(0)
    epoch = await thread.seek_streams({TP0: 283})
    thread.fetching.position[TP0] = 285  # the fetcher has given 283 and 284 away
    thread.fetching.give.set_result({TP0: [record(283), record(284)]})
    assert await polling == (epoch, {})
    assert thread.fetching.position == {TP0: 283}


async def test_transport_poll_without_a_seek_gives_what_it_found() -> None:
    """With the epoch it belongs to."""
    thread = BareThread(SimpleNamespace(flow_active=True))
    epoch = await thread.seek_streams({TP0: 5})
    thread.fetching.give.set_result({TP0: [record(5)]})
    polled = await thread.poll({TP0}, timeout=1, max_records=10)
    assert (polled.epoch, [one.offset for one in polled.records[TP0]]) == (epoch, [5])
    assert thread.fetching.position == {TP0: 5}


async def test_transport_nothing_is_handed_out_between_the_seek_and_the_flow() -> None:
    """Faust empties the queues when the flow is resumed; a chunk put in before would be lost to its partition."""
    ours = await Ours().begin()
    ours.consumer.stop_flow()
    ours.consumer.flow_active = True  # as during table recovery
    await ours.consumer.perform_seek()
    await ours.receive(0)
    assert ours.channel.queue.empty()
    ours.app.flow_control.resume()
    ours.consumer.resume_flow()
    await ours.consumer._drain_once()  # what came too early is read again
    await ours.receive(0)
    assert not ours.channel.queue.empty()


async def test_transport_stopped_flow_needs_a_new_seek() -> None:
    """A poll that came back while the flow was stopped is thrown away, so reading must begin again, not after it."""
    ours = await Ours().begin()
    ours.consumer.stop_flow()
    ours.consumer.resume_flow()
    await ours.receive(5)
    assert ours.channel.queue.empty()
    await ours.consumer._drain_once()
    await ours.receive(0)
    assert (await ours.channel.queue.get()).value.first == 0


async def test_transport_partition_without_room_is_not_polled() -> None:
    """Flow control counts records handed out and not acked, wherever they are."""
    ours = await Ours(max_unacked_records=4).begin()
    ours.consumer.resume_partitions({TP0})
    assert ours.consumer._fetchable() == ({TP0}, False)
    chunk = await ours.chunk(0, 1, 2, 3)
    assert ours.consumer._fetchable() == (set(), True)
    chunk.ack(2)
    assert ours.consumer._fetchable() == (set(), True)
    chunk.ack()
    assert ours.consumer._fetchable() == ({TP0}, False)


async def test_transport_partition_without_room_for_bytes_is_not_polled() -> None:
    """And bytes."""
    ours = await Ours(max_unacked_bytes=1000).begin()
    ours.consumer.resume_partitions({TP0})
    await ours.receive(0, value=b"x" * 1000)
    assert ours.consumer._fetchable() == (set(), True)


@pytest.mark.parametrize(
    ("found", "more", "seconds"), [(0, False, 0.0), (1, False, 0.25), (9, False, 0.25), (9, True, 0.0)]
)
def test_transport_a_poll_that_found_all_there_is_waits_before_the_next(found: int, more: bool, seconds: float) -> None:
    """Not after one that has waited itself, and never behind a backlog, however little one fetch brings of it."""
    options = Options(chunked=frozenset(), role="test", max_records=100, pace_s=0.25)
    assert pause(found, more, options) == seconds


@pytest.mark.parametrize(("end", "pauses"), [(1, 1), (2, 0)])
async def test_transport_a_paced_consumer_pauses_once_it_has_read_all_there_is(end: int, pauses: int) -> None:
    """Once it has handed out what it found; not while the log has more, by what the fetch told of its end."""
    ours = await Ours(pace_s=0.25).begin()
    paused: list[float] = []
    ours.thread.end_offset = lambda _tp: end  # type: ignore[method-assign]

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    async def poll(*_: Any, **__: Any) -> Poll:
        return Poll(ours.thread.epoch, {TP0: [record(0)]})

    ours.consumer.resume_partitions({TP0})
    ours.consumer.sleep, ours.thread.poll = sleep, poll  # type: ignore[method-assign]
    await ours.consumer._drain_once()
    assert (len(paused), ours.channel.queue.get_nowait().value.next) == (pauses, 1)


async def test_transport_reading_begins_at_the_lower_durable_progress() -> None:
    """`resume` is told the group's offsets and lowers the start; what follows is committed from there."""
    asked: list[Mapping[TP, int]] = []

    async def resume(committed: Mapping[TP, int]) -> Mapping[TP, int]:
        asked.append(committed)
        return {TP0: 40}

    ours = Ours(resume=resume)
    ours.thread.place = ours.thread.place._replace(committed=60)
    await ours.begin()
    assert (asked, ours.thread.sought) == ([{TP0: 60}], {TP0: 40})
    (await ours.chunk(40, 41)).ack()
    await ours.consumer.commit()
    assert ours.thread.commits == [{TP0: 42}]


async def test_transport_unknown_durable_progress_begins_at_the_group_offset() -> None:
    """A database that is away does not keep the stream from reading."""

    async def resume(committed: Mapping[TP, int]) -> Mapping[TP, int]:
        raise ConnectionError("database")

    ours = Ours(resume=resume)
    ours.thread.place = ours.thread.place._replace(committed=60)
    await ours.begin()
    assert ours.thread.sought == {TP0: 60}


async def test_transport_offset_outside_the_log_begins_at_the_oldest(caplog: pytest.LogCaptureFixture) -> None:
    """A log that was lost and made anew is read from its beginning, and one line says so."""
    ours = Ours()
    ours.thread.place = ours.thread.place._replace(committed=5000, begin=3, end=10)
    await ours.begin()
    assert ours.thread.sought == {TP0: 3}
    assert len([line for line in caplog.messages if "wanted 5000" in line]) == 1


async def test_transport_log_that_went_back_while_reading_is_read_on_from_there() -> None:
    """Lower offsets than before mean a log made anew: they are delivered, and older acks no longer count."""
    ours = await Ours().begin()
    old = await ours.chunk(*range(100, 110))
    new = await ours.chunk(0, 1)
    old.ack()
    new.ack()
    await ours.consumer.commit()
    assert ours.thread.commits == [{TP0: 2}]


async def test_transport_seek_that_failed_is_tried_again() -> None:
    """While the broker does not tell where a partition stands nothing is handed out; then it goes on by itself."""
    ours = Ours()
    ours.thread.silent = 1
    await ours.begin()
    await ours.receive(0)
    assert ours.channel.queue.empty()
    await ours.consumer._drain_once()
    await ours.receive(0)
    assert not ours.channel.queue.empty()


async def test_transport_two_agents_on_one_chunked_topic_are_refused() -> None:
    """Two would ack the same chunk."""
    ours = await Ours().begin()
    other = aiter(chunk_topic(ours.app, TOPIC))
    ours.app.topics._tp_index[TP0].add(other)
    with pytest.raises(ImproperlyConfigured):
        await ours.receive(0)


async def test_transport_single_messages_of_other_topics_are_acked_in_order_too() -> None:
    """A topic that is not chunked keeps Faust's acks, by the same ledger: no commit over the head."""
    ours = Ours()
    ours.consumer.options = type(ours.consumer.options)(chunked=frozenset(), role="test")
    await ours.begin()
    messages = []
    for offset in (0, 1, 2):
        await ours.receive(offset)
        messages.append((await ours.channel.queue.get()).message)
    for message in messages[1:]:
        message.ack(ours.consumer)
    await ours.consumer.commit()
    messages[0].ack(ours.consumer)
    await ours.consumer.commit()
    assert ours.thread.commits == [{TP0: 3}]


async def test_transport_positions_tell_lag_and_progress() -> None:
    """What readiness and the watchdog need: position, end, lag and the time of the last progress."""
    ours = await Ours(drain_timeout=0.01).begin()
    (await ours.chunk(0, 1, 2)).ack(2)
    assert assigned(ours.app) == {TP0}
    assert positions(ours.app) == {TP0: (2, 1000)}
    assert lag(ours.app) == {TP0: 998}
    assert time.monotonic() - last_progress(ours.app)[TP0] < 60
    await ours.consumer.on_partitions_revoked({TP0})
    assert (assigned(ours.app), positions(ours.app), lag(ours.app)) == (frozenset(), {}, {})


async def test_transport_use_comes_first() -> None:
    """An app that has a transport already cannot be given ours."""
    app = faust.App("late", broker="kafka://127.0.0.1:1", web_enabled=False)
    app.transport  # noqa: B018  # makes Faust's own
    with pytest.raises(RuntimeError):
        use(app, chunked={TOPIC})


async def test_transport_producer_is_idempotent() -> None:
    """A retried batch is no duplicate."""
    ours = Ours()
    producer: Any = ours.app.producer
    assert producer._settings_extra() == {"acks": "all", "enable_idempotence": True}


def test_chunk_of_a_test_keeps_a_ledger_of_its_own() -> None:
    """Agents can be tested with chunks made by hand."""
    chunk = Chunk(TOPIC, 0, [record(3), record(5)])
    chunk.ack(4)
    assert (chunk.live, chunk.acked, len(chunk)) == (True, 4, 2)
    with pytest.raises(ValueError):
        chunk.ack(7)
