"""KafkaLog: records to Kafka and their acks back, on librdkafka.

One counter a call, not a future a record. Delivery reports are collected by polling: with few calls in flight a helper
thread waits inside librdkafka and wakes the loop the moment an ack is there (an idle system answers in half a
millisecond); with many the loop polls by itself each millisecond, which costs no thread hop at all; with thousands of
records in flight the thread takes the reports again, because serving them all at once would hold the loop. Linger is
zero: while five requests are on the way the next records queue up and go out together: batches grow with the load.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connectors.ports import Record
from schemas.errors import Misconfigured, Poison, Unavailable
from schemas.event import Position

log = structlog.get_logger(__name__)

#: Equal to the topics' max.message.bytes, minus room for the batch header the broker counts in.
MAX_RECORD_BYTES: Final = 2 * 1024 * 1024 - 4096
#: Up to this many calls in flight a thread waits for the acks; above, the loop polls.
FEW: Final = 8
POLL_SECONDS: Final = 0.001
#: Records handed to librdkafka before the loop gets its turn: 2 to 5 ms.
SLICE: Final = 500
#: More records in flight than this may report at once for longer than the loop may be held.
BULK: Final = 2000
#: Librdkafka's own limit, only a net below ours: `send` always gives up first and purges.
MESSAGE_TIMEOUT_MS: Final = 60_000

#: As librdkafka and the broker call them; the broker keeps a record as it came, each reader unpacks it.
Compression = Literal["none", "gzip", "lz4", "zstd"]
Delivered = Callable[[KafkaError | None, Message], None]

_OVERSIZE: Final = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}


class _Call:
    """One `send`: how many acks are missing, and where the acked ones went."""

    __slots__ = ("done", "error", "missing", "positions")

    def __init__(self, size: int, done: asyncio.Future[None]) -> None:
        self.done = done
        self.missing = size
        self.positions: list[Position | None] = [None] * size
        self.error: KafkaError | None = None


class _Generation:
    """One librdkafka producer and the calls that are in flight on it; given up as a whole."""

    __slots__ = ("calls", "finished", "producer", "records", "retired")

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.calls: set[_Call] = set()
        self.finished: deque[_Call] = deque()  # filled by the waiting thread, emptied by the loop
        self.records = 0
        self.retired = False

    def add(self, call: _Call) -> None:
        self.calls.add(call)
        self.records += len(call.positions)

    def remove(self, call: _Call) -> None:
        if call in self.calls:
            self.calls.remove(call)
            self.records -= len(call.positions)


class KafkaLog:
    """Implements `connectors.ports.EventLog`.

    A call that times out or gets an error fails every call in flight with it (`Unavailable`, `unknown` true), and the
    producer is replaced: so no later record of a partition can reach the log before an earlier one that was given up.
    A record that is too large for the log raises `Poison` ("oversize") before anything of its call is sent.
    A position with offset -1 is acked, but its place is unknown (the first answer was lost, the retry found it there).
    """

    def __init__(
        self,
        brokers: str,
        client_id: str,
        *,
        linger_ms: float = 0,
        compression: Compression = "none",
        max_record_bytes: int = MAX_RECORD_BYTES,
        overrides: Mapping[str, Any] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._max_bytes = max_record_bytes
        self._settings = {
            "bootstrap.servers": brokers,
            "client.id": client_id,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": linger_ms,
            "compression.type": compression,
            "partitioner": "murmur2_random",  # the Java client's: the same key lands where every other producer puts it
            "message.timeout.ms": MESSAGE_TIMEOUT_MS,
            "message.max.bytes": max_record_bytes + 4096,
            "queue.buffering.max.messages": 100_000,
            "queue.buffering.max.kbytes": 128 * 1024,
            "socket.keepalive.enable": True,
            "socket.connection.setup.timeout.ms": 5_000,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "topic.metadata.refresh.interval.ms": 60_000,
            "topic.metadata.propagation.max.ms": 5_000,
            "log.connection.close": False,
            **(overrides or {}),
        }
        self._now: _Generation | None = None
        self._pump: asyncio.Task[None] | None = None
        self._burials: set[asyncio.Future[None]] = set()
        self._waiter = ThreadPoolExecutor(1, thread_name_prefix="kafka-acks")
        self._undertaker = ThreadPoolExecutor(1, thread_name_prefix="kafka-close")
        self.last_error: str | None = None

    async def open(self) -> None:
        """Start the producer; does not need the broker. Raises `Misconfigured` for settings librdkafka refuses."""
        self._now = self._fresh()

    async def send(self, topic: str, records: Sequence[Record], *, timeout: float = 2.0) -> list[Position]:
        """As `EventLog.send`; `topic` must exist."""
        if not records:
            return []
        self._check_sizes(records)
        generation = self._generation()
        call = _Call(len(records), asyncio.get_running_loop().create_future())
        deadline = self._monotonic() + timeout
        generation.add(call)
        try:
            async with asyncio.timeout(timeout):
                await self._produce(generation, call, topic, records, deadline)
                await call.done
        except TimeoutError:
            await self._give_up(generation, f"no ack within {timeout:g} s")
        except asyncio.CancelledError:
            generation.remove(call)
            raise
        if call.error is not None:
            await self._give_up(generation, call.error.str())
            raise _failure(topic, call.error)
        if call.missing:
            raise Unavailable("kafka", f"{topic}: {self.last_error}", unknown=True)
        return call.positions  # type: ignore[return-value]  # all are set once none is missing

    async def probe(self, timeout: float = 2.0) -> None:
        """Ask the broker for its metadata; raises `Unavailable`."""
        producer = self._generation().producer
        try:
            await asyncio.to_thread(producer.list_topics, timeout=timeout)
        except KafkaException as error:
            raise Unavailable("kafka", error.args[0].str()) from error

    async def close(self) -> None:
        """Give up what is in flight, after a last second for its acks."""
        if self._now is None:
            return
        generation, self._now = self._now, None
        deadline = self._monotonic() + 1.0
        while generation.calls and self._monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        await self._retire(generation, "the log was closed")
        if self._pump is not None:
            await self._pump
        if self._burials:
            await asyncio.wait(self._burials, timeout=3.0)
        self._waiter.shutdown(wait=False)
        self._undertaker.shutdown(wait=False)

    # --- sending ---

    def _generation(self) -> _Generation:
        if self._now is None:
            raise Unavailable("kafka", "the log is not open")
        return self._now

    def _check_sizes(self, records: Sequence[Record]) -> None:
        for record in records:
            size = len(record.value or b"") + len(record.key or b"")
            if size > self._max_bytes:
                raise Poison("oversize", f"a record of {size} bytes is over the log's limit of {self._max_bytes}")

    async def _produce(
        self, generation: _Generation, call: _Call, topic: str, records: Sequence[Record], deadline: float
    ) -> None:
        """Hand the records to librdkafka in order; wait where its queue is full."""
        produce, report = generation.producer.produce, self._reporter(generation, call)
        for index, record in enumerate(records):
            if index and index % SLICE == 0:
                self._start_pump()
                await asyncio.sleep(0)
            while not generation.retired:
                try:
                    produce(
                        topic,
                        record.value,
                        record.key,
                        record.partition,
                        report(index),
                        timestamp=record.timestamp_ms,
                        headers=list(record.headers),
                    )
                    break
                except BufferError:
                    self._start_pump()
                    await asyncio.sleep(POLL_SECONDS)
                except KafkaException as error:
                    call.error = error.args[0]
                    self._finish(call)
                    return
        self._start_pump()

    @staticmethod
    def _reporter(generation: _Generation, call: _Call) -> Callable[[int], Delivered]:
        """Delivery reports of one call. They may run in the waiting thread: they touch the call, never the loop."""

        def report(index: int) -> Delivered:
            def delivered(error: KafkaError | None, message: Message) -> None:
                if error is None:
                    # both are known on a delivered message; the stubs cannot tell
                    call.positions[index] = Position(message.partition() or 0, _offset(message.offset()))
                else:
                    call.error = error
                call.missing -= 1
                if not call.missing or call.error is not None:
                    generation.finished.append(call)

            return delivered

        return report

    @staticmethod
    def _finish(call: _Call) -> None:
        if not call.done.done():
            call.done.set_result(None)

    # --- acks ---

    def _start_pump(self) -> None:
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._poll())

    async def _poll(self) -> None:
        """Serve delivery reports while anything is in flight on the living generation."""
        loop = asyncio.get_running_loop()
        while (generation := self._now) is not None and generation.calls:
            bulk = generation.records > BULK
            if not bulk:
                generation.producer.poll(0)
            if generation.finished:
                self._settle(generation)
                await asyncio.sleep(0)
            elif bulk or len(generation.calls) <= FEW:
                await loop.run_in_executor(self._waiter, generation.producer.poll, 0.02)
            else:
                await asyncio.sleep(POLL_SECONDS)

    def _settle(self, generation: _Generation) -> None:
        finished = generation.finished
        while finished:
            call = finished.popleft()
            generation.remove(call)
            self._finish(call)

    # --- giving up ---

    def _fresh(self) -> _Generation:
        try:
            return _Generation(Producer({**self._settings, "error_cb": self._on_error, "logger": _logger()}))
        except KafkaException as error:
            raise Misconfigured(
                f"The Kafka producer cannot start: {error.args[0].str()}.", "Check the broker settings."
            ) from error

    def _on_error(self, error: KafkaError) -> None:
        self.last_error = error.str()

    async def _give_up(self, generation: _Generation, reason: str) -> None:
        """Fail everything in flight on this producer and put a new one in its place."""
        if generation.retired:
            return
        log.info("kafka.gave_up", reason=reason, calls=len(generation.calls), last_error=self.last_error)
        if self._now is generation:
            self._now = self._fresh()
        await self._retire(generation, reason)

    async def _retire(self, generation: _Generation, reason: str) -> None:
        if generation.retired:
            return
        generation.retired = True
        self.last_error = reason
        generation.producer.purge(in_queue=True, in_flight=True, blocking=False)
        self._settle(generation)
        for call in tuple(generation.calls):
            self._finish(call)
        generation.calls.clear()
        burial = asyncio.get_running_loop().run_in_executor(self._undertaker, _bury, generation)
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)
        # A broker thread picks the purge up at once; this bounds how long a hung one can keep the caller.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(burial), 0.3)


def _bury(generation: _Generation) -> None:
    """Wait until nothing of the old producer is on its way, then let it go. Runs in a thread of its own."""
    generation.producer.purge(in_queue=True, in_flight=True, blocking=True)
    generation.producer.poll(0.05)
    del generation.producer


def _offset(offset: int | None) -> int:
    return -1 if offset is None or offset < 0 else offset


def _failure(topic: str, error: KafkaError) -> Poison | Unavailable:
    if error.code() in _OVERSIZE:
        return Poison("oversize", f"{topic} does not take a record of this size: {error.str()}")
    return Unavailable("kafka", f"{topic}: {error.str()}", unknown=True)


def _logger() -> Any:
    """Librdkafka's own lines, kept out of stderr; what matters comes back as errors of the calls."""
    logger = logging.getLogger("chronicle.librdkafka")
    logger.setLevel(logging.ERROR)
    return logger
