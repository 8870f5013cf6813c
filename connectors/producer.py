"""KafkaLog: records to Kafka and their acks back, on aiokafka.

One request at a time, with a batch for each partition in it; while it is on its way the next records wait in line and
go out together. So requests grow with the load, and there are no more of them for more partitions: librdkafka sends a
request a partition, which cost the broker and us several times as much (decision 0014). There is one future a call and
none a record, and no thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed, RecordListTooLargeError

from connectors.flight import BATCH_BYTES, Call, Flight
from connectors.ports import Record
from schemas.errors import Misconfigured, Poison, Unavailable
from schemas.event import Position

log = structlog.get_logger(__name__)

#: Equal to the topics' max.message.bytes, minus room for the batch header the broker counts in.
MAX_RECORD_BYTES: Final = 2 * 1024 * 1024 - 4096
#: Records put into batches before the loop gets its turn: about a millisecond.
SLICE: Final = 500
#: An answer that is later than this breaks the connection; what it was about is sent again, and the broker knows it.
REQUEST_TIMEOUT_MS: Final = 5_000
RETRY_BACKOFF_MS: Final = 50
METADATA_MAX_AGE_MS: Final = 60_000
#: Seconds between two tries to reach a broker, growing from the first to the second.
CONNECT_SECONDS: Final = (0.05, 0.5)
#: Seconds until a topic that was not there is looked for again.
TOPIC_SECONDS: Final = 0.1
#: How long a producer that was given up may keep whoever gave it up.
BURIAL_SECONDS: Final = 0.3

#: As Kafka calls them; the broker keeps a record as it came, each reader unpacks it.
Compression = Literal["none", "gzip", "lz4", "zstd"]

_Producer: Any = AIOKafkaProducer  # aiokafka tells no types

_OVERSIZE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)


class _Generation:
    """One producer of aiokafka, the calls that wait for it, and the task that sends; given up as a whole."""

    __slots__ = ("calls", "cause", "flight", "line", "pilot", "producer", "retired", "started")

    def __init__(self) -> None:
        self.producer: Any = None
        self.started = asyncio.Event()
        self.calls: set[Call] = set()
        self.line: deque[Call] = deque()  # those not wholly in a batch
        self.flight: Flight | None = None  # the one on its way
        self.pilot: asyncio.Task[None] | None = None
        self.cause = ""  # what it waits for
        self.retired = False


class KafkaLog:
    """Implements `connectors.ports.EventLog`.

    A call that times out or gets an error fails every call in flight with it (`Unavailable`), and the producer is
    replaced: so no later record of a partition can reach the log before an earlier one that was given up. `unknown` is
    false for a call of which nothing had been sent.
    A record that is too large for the log raises `Poison` ("oversize") before anything of its call is sent.
    A position with offset -1 is acked, but its place is unknown (the first answer was lost, the retry found it there).
    `linger_ms`: how long the first record of a request waits for others.
    """

    def __init__(
        self,
        brokers: str,
        client_id: str,
        *,
        linger_ms: float = 0,
        compression: Compression = "none",
        max_record_bytes: int = MAX_RECORD_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._max_bytes = max_record_bytes
        self._linger = linger_ms / 1000
        self._settings: dict[str, Any] = {
            "bootstrap_servers": brokers.split(","),
            "client_id": client_id,
            "acks": "all",
            "enable_idempotence": True,
            "compression_type": None if compression == "none" else compression,
            "max_batch_size": BATCH_BYTES,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "retry_backoff_ms": RETRY_BACKOFF_MS,
            "metadata_max_age_ms": METADATA_MAX_AGE_MS,
        }
        self._now: _Generation | None = None
        self._burials: set[asyncio.Task[None]] = set()
        self.last_error: str | None = None

    async def open(self) -> None:
        """Begin to connect; does not need the broker. Raises `Misconfigured` for settings aiokafka refuses."""
        try:
            await _Producer(**self._settings).stop()
        except (ValueError, RuntimeError, KafkaError) as error:
            raise Misconfigured(f"The Kafka producer cannot start: {error}.", "Check the broker settings.") from error
        self._now = _Generation()
        self._take_off(self._now)

    async def send(self, topic: str, records: Sequence[Record], *, timeout: float = 2.0) -> list[Position]:
        """As `EventLog.send`; `topic` must exist."""
        if not records:
            return []
        self._check_sizes(records)
        generation = self._generation()
        loop = asyncio.get_running_loop()
        call = Call(topic, records, loop.create_future())
        generation.calls.add(call)
        generation.line.append(call)
        self._take_off(generation)
        end = loop.call_later(timeout, _finish, call)
        try:
            await call.done
        finally:
            end.cancel()
            generation.calls.discard(call)
        if call.acked:
            return call.positions()
        if (error := call.error) is not None:
            raise _failure(topic, error)
        await self._give_up(generation, f"no ack within {timeout:g} s{generation.cause}")
        raise Unavailable("kafka", f"{topic}: {self.last_error}", unknown=bool(call.places))

    async def probe(self, timeout: float = 2.0) -> None:
        """Ask the broker for its metadata; raises `Unavailable`."""
        generation = self._generation()
        self._take_off(generation)
        try:
            async with asyncio.timeout(timeout):
                await generation.started.wait()
                await generation.producer.client.fetch_all_metadata()
        except TimeoutError as error:
            raise Unavailable("kafka", f"no answer within {timeout:g} s") from error
        except KafkaError as error:
            raise Unavailable("kafka", str(error)) from error

    async def close(self) -> None:
        """Give up what is in flight, after a last second for its acks."""
        if self._now is None:
            return
        generation, self._now = self._now, None
        deadline = self._monotonic() + 1.0
        while generation.calls and self._monotonic() < deadline:
            await asyncio.sleep(0.001)
        await self._retire(generation, "the log was closed")
        if self._burials:
            await asyncio.wait(self._burials, timeout=3.0)

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

    def _take_off(self, generation: _Generation) -> None:
        if generation.pilot is None or generation.pilot.done():
            generation.pilot = asyncio.get_running_loop().create_task(self._fly(generation))

    async def _fly(self, generation: _Generation) -> None:
        """Send what is in line, one request at a time, until nothing is left."""
        try:
            if not generation.started.is_set():
                await self._connect(generation)
            if self._linger and generation.line:
                await asyncio.sleep(self._linger)
            while generation.line:
                flight = await self._filled(generation)
                if flight.batches:
                    await self._deliver(generation, flight)
                elif generation.line:
                    await asyncio.sleep(TOPIC_SECONDS)
        except Exception as error:
            if not isinstance(error, KafkaError):
                log.exception("kafka.flight_failed")  # a bug, and it must not leave calls without an answer
            await self._give_up(generation, repr(error))

    async def _connect(self, generation: _Generation) -> None:
        """Make a producer and reach the broker, trying until it is there or the generation was given up."""
        pause, most = CONNECT_SECONDS
        while True:
            generation.producer = _Producer(**self._settings)
            try:
                await generation.producer.start()
                generation.cause = ""
                generation.started.set()
                return
            except (KafkaError, OSError):
                generation.cause = f": no broker answers at {','.join(self._settings['bootstrap_servers'])}"
                await generation.producer.stop()
            await asyncio.sleep(pause)
            pause = min(pause * 2, most)

    async def _filled(self, generation: _Generation) -> Flight:
        """The next flight. Calls whose topic is not known stay in line; others need not wait for them."""
        flight, held = Flight(generation.producer.create_batch), list[Call]()
        while generation.line and not flight.full:
            call = generation.line.popleft()
            if call.done.done():
                continue
            partitions = self._partitions(generation, call)
            if not partitions:
                held.append(call)
                continue
            taken = flight.take(call, partitions, SLICE)
            if not call.packed:
                generation.line.appendleft(call)
            if taken == SLICE:
                await asyncio.sleep(0)
        generation.line.extendleft(reversed(held))
        return flight

    def _partitions(self, generation: _Generation, call: Call) -> int:
        """How many its topic has, 0 while that, or a partition that is wanted, is not known."""
        client = generation.producer.client
        known = client.cluster.partitions_for_topic(call.topic) or ()
        if known and call.highest < len(known):
            return len(known)
        if call.topic in client._topics:
            lacks = f"has no partition {call.highest}" if known else "is not there"
            generation.cause = f": the topic {call.topic} {lacks}"
            client.force_metadata_update()
        else:
            client.add_topic(call.topic)
        return 0

    async def _deliver(self, generation: _Generation, flight: Flight) -> None:
        """Send a flight, await its acks, and answer the calls whose outcome is known."""
        generation.flight = flight
        acks, send = [], generation.producer.send_batch
        for batch in flight.batches:
            ack = await send(batch.builder, batch.topic, partition=batch.partition)
            ack.add_done_callback(batch.landed)
            acks.append(ack)
        await asyncio.wait(acks)
        errors = [batch.error for batch in flight.batches if batch.error is not None]
        if errors:
            await self._give_up(generation, repr(errors[0]))
        else:
            _settle(flight)
            generation.flight, generation.cause = None, ""

    # --- giving up ---

    async def _give_up(self, generation: _Generation, reason: str) -> None:
        """Fail everything in flight on this producer and put a new one in its place."""
        if generation.retired:
            return
        log.info("kafka.gave_up", reason=reason, calls=len(generation.calls))
        if self._now is generation:
            self._now = _Generation()
        await self._retire(generation, reason)

    async def _retire(self, generation: _Generation, reason: str) -> None:
        if generation.retired:
            return
        generation.retired = True
        self.last_error = reason
        pilot = generation.pilot
        if pilot is not None and pilot is not asyncio.current_task():
            pilot.cancel()
        if generation.producer is not None:
            _cut(generation.producer)
            burial = asyncio.get_running_loop().create_task(_bury(generation.producer))
            self._burials.add(burial)
            burial.add_done_callback(self._burials.discard)
        if generation.flight is not None:
            _settle(generation.flight)
        generation.line.clear()
        for call in tuple(generation.calls):
            _finish(call)
        if self._burials:
            await asyncio.wait(self._burials, timeout=BURIAL_SECONDS)


def _settle(flight: Flight) -> None:
    for call in flight.outcomes():
        _finish(call)


def _cut(producer: Any) -> None:
    """Let nothing more leave this process: no retry, and not what the sockets still hold.

    `stop` alone would wait for acks and send what is left in the transports' buffers. aiokafka 0.14 has no other way.
    """
    if producer._sender.sender_task is not None:
        producer._sender.sender_task.cancel()
    for connection in producer.client._conns.values():
        if connection._writer is not None:
            connection._writer.transport.abort()
        connection.close()


async def _bury(producer: Any) -> None:
    """End what the producer still does, so that nothing of it stays in memory.

    A sender that was cancelled waits for the requests on their way, and these for metadata that may never come: it is
    told until it has ended. What waits for acks is failed then, else `stop` would wait for them for ever. A batch that
    the broker refused waits for its next try apart from them, and nobody waits for it any more: it is dropped first,
    since aiokafka 0.14 would fail it with a KeyError on the loop and an error that nobody fetches.
    """
    sender = producer._sender.sender_task
    while sender is not None and not sender.done():
        await asyncio.wait({sender}, timeout=BURIAL_SECONDS)
        sender.cancel()
    producer._message_accumulator._batches.clear()
    producer._message_accumulator.fail_all(ProducerClosed())
    await producer.stop()


def _finish(call: Call) -> None:
    if not call.done.done():
        call.done.set_result(None)


def _failure(topic: str, error: Exception) -> Poison | Unavailable:
    if isinstance(error, _OVERSIZE):
        return Poison("oversize", f"{topic} does not take a record of this size: {error}")
    return Unavailable("kafka", f"{topic}: {error!r}", unknown=True)
