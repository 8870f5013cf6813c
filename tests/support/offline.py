"""Faust apps without a broker: real consumer, real streams, real conductor; only the Kafka thread is a fake."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import faust
from faust.transport.drivers.aiokafka import Consumer, Transport
from faust.types import TP, ConsumerMessage
from mode import Service

from connectors.transport import FAUST_SETTINGS, ChunkTransport, chunk_topic, use
from connectors.transport.consumer import ChunkConsumer
from connectors.transport.thread import Place, Poll

TOPIC = "offline"
TP0 = TP(TOPIC, 0)


class FakeThread(Service):
    """Takes commits and remembers them; `answer` is what the broker says: True, False or an exception to raise."""

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self.consumer = consumer
        self.commits: list[dict[TP, int]] = []
        self.answer: bool | BaseException = True
        self.place = Place(committed=None, begin=0, end=1000)
        self.silent = 0  # so many questions after places go without an answer
        self.sought: dict[TP, int] = {}
        self.epoch = 0
        super().__init__(**kwargs)

    def assignment(self) -> set[TP]:
        return {TP0}

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        """The stock driver's way: False when it failed."""
        self.commits.append(dict(offsets))
        return self.answer is True

    async def commit_within(self, offsets: Mapping[TP, int], *, timeout: float) -> None:
        self.commits.append(dict(offsets))
        if self.answer is not True:
            raise self.answer if isinstance(self.answer, BaseException) else TimeoutError

    async def places(self, tps: set[TP], *, timeout: float) -> dict[TP, Place]:
        if self.silent:
            self.silent -= 1
            raise TimeoutError
        return dict.fromkeys(tps, self.place)

    async def seek_streams(self, starts: Mapping[TP, int]) -> int:
        self.sought.update(starts)
        self.epoch += 1
        return self.epoch

    async def poll(self, tps: set[TP], *, timeout: float, max_records: int) -> Poll:
        return Poll(self.epoch, {})

    def end_offset(self, tp: TP) -> int:
        return self.place.end


class StockConsumer(Consumer):
    """Faust's consumer as it is, but for the thread."""

    def _new_consumer_thread(self) -> Any:
        return FakeThread(self, loop=self.loop, beacon=self.beacon)


class StockTransport(Transport):
    Consumer = StockConsumer


class OurConsumer(ChunkConsumer):
    """Our consumer as it is, but for the thread."""

    def _new_consumer_thread(self) -> Any:
        return FakeThread(self, loop=self.loop, beacon=self.beacon)


def _app(**settings: Any) -> faust.App:
    return faust.App(
        "offline",
        broker="kafka://127.0.0.1:1",
        store="memory://",
        web_enabled=False,
        **{**FAUST_SETTINGS, **settings},
    )


def _assign(app: faust.App, topic: Any) -> Any:
    """Give the app partition 0, as if a rebalance were over; returns the channel an agent would read."""
    channel = aiter(topic)
    app.topics._acking_topics.add(TOPIC)
    app.topics._tp_index[TP0].add(channel)
    app.topics._update_callback_map()
    app.flow_control.resume()
    return channel


class Stock:
    """A stock app with one partition; `channel` is what an agent would read."""

    def __init__(self, **topic: Any) -> None:
        self.app = _app()
        self.app._new_transport = lambda: StockTransport(self.app.conf.broker_consumer, self.app)  # type: ignore[method-assign]
        self.channel = _assign(self.app, self.app.topic(TOPIC, **topic))
        self.consumer: Any = self.app.consumer
        self.thread: FakeThread = self.consumer._thread

    async def receive(self, offset: int, value: bytes = b"{}") -> ConsumerMessage:
        """One record comes in, by the conductor's way."""
        message = self.consumer._to_message(TP0, record(offset, value))
        await self.app.topics.on_message(message)
        return message

    def ack(self, *offsets: int) -> None:
        """What Faust's streams do when they are done with a message."""
        for offset in offsets:
            self.consumer.ack(self.consumer._to_message(TP0, record(offset)))


class Ours:
    """Our app with one partition, sought and flowing; `options` go to `use`."""

    def __init__(self, **options: Any) -> None:
        self.app = _app()
        use(self.app, chunked={TOPIC}, role="test", **options)
        made = self.app._new_transport
        self.app._new_transport = lambda: _offline(made())  # type: ignore[method-assign]
        self.channel = _assign(self.app, chunk_topic(self.app, TOPIC))
        self.consumer: Any = self.app.consumer
        self.thread: FakeThread = self.consumer._thread

    async def begin(self) -> Ours:
        """What Faust does when an assignment is complete."""
        self.app.rebalancing = False
        await self.consumer.perform_seek()
        self.app.flow_control.resume()
        self.consumer.resume_flow()
        return self

    async def receive(self, *offsets: int, value: bytes = b"{}") -> None:
        """One poll of records comes in."""
        polled = Poll(self.thread.epoch, {TP0: [record(offset, value) for offset in offsets]})
        await self.consumer._hand_out(polled, self.app.consumer_generation_id)

    async def chunk(self, *offsets: int) -> Any:
        """Receive and take it from the queue, as an agent's stream does."""
        await self.receive(*offsets)
        event = await self.channel.queue.get()
        event.message.tracked = True
        return event.value


def _offline(transport: ChunkTransport) -> ChunkTransport:
    transport.Consumer = OurConsumer  # type: ignore[misc]
    return transport


def record(offset: int, value: bytes = b"{}") -> Any:
    """An aiokafka ConsumerRecord, as far as anybody looks."""
    return SimpleNamespace(
        topic=TOPIC,
        partition=0,
        offset=offset,
        timestamp=1_700_000_000_000,
        timestamp_type=0,
        key=b"k",
        value=value,
        checksum=None,
        serialized_key_size=1,
        serialized_value_size=len(value),
        headers=(),
    )
