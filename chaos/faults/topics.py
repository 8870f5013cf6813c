"""Bad records on the topics themselves, as a foreign producer would leave them there, and ids that say two things."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from chaos.faults.own import PREFIX, Own, missing_after, rows, until
from chaos.model import Fault, Place

#: Seconds for the broker to answer.
ASK_S = 15.0
MEGABYTE = 1_000_000
#: A dead letter of the first stage carries at least this much of a key or a value; the rest is at its place in the log.
LETTER_BYTES = 32 << 10
#: `max.message.bytes` of the topics, and what a batch of one record takes of it beside key, value and header.
LIMIT = 2 << 20
FRAME_BYTES = 100
#: Where a framed record holds the event's id (docs/topics.md).
ID_BYTES = slice(5, 21)


@dataclass(frozen=True)
class Bad:
    """A record that can never be an event (`stored` False), or one that may be one."""

    what: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    stored: bool = False


@dataclass(frozen=True)
class Placed:
    """A record and where the broker put it."""

    bad: Bad
    topic: str
    partition: int
    offset: int


def bad_records(chance: random.Random, good: bytes) -> Iterator[Bad]:
    """One of each kind. `good` is a framed record that Chronicle wrote."""
    key = f"{PREFIX}poison-{chance.getrandbits(48):012x}".encode()
    foreign = good[: ID_BYTES.start] + chance.randbytes(16) + good[ID_BYTES.stop :]
    yield Bad("empty value", key, b"")
    yield Bad("null value", key, None)
    yield Bad("null value and key", None, None)
    yield Bad("random bytes", key, chance.randbytes(300))
    yield Bad("null key", None, chance.randbytes(301))
    yield Bad("unknown schema id", key, b"\0\x7f\xff\xff\xfe" + foreign[5:] + chance.randbytes(8))
    yield Bad("head of a record only", key, foreign[:30])
    yield Bad("truncated Avro", key, foreign[: len(foreign) - 9])
    yield Bad("2 MB", key, chance.randbytes(2 * MEGABYTE))
    yield Bad("more than can be passed on", key, chance.randbytes(2 * MEGABYTE + 80_000))
    yield Bad("huge key", key + b"x" * (2 * MEGABYTE), chance.randbytes(303))
    yield Bad("huge headers", key, chance.randbytes(302), (("chaos", bytes(MEGABYTE)),))


def too_good(chance: random.Random, good: bytes) -> Bad:
    """An event whose headers fill the record to the topic's limit: what is added on the way makes it too large."""
    mark = uuid.UUID(int=chance.getrandbits(128), version=4).bytes
    whole = good[: ID_BYTES.start] + mark + good[ID_BYTES.stop :]
    key = f"{PREFIX}poison-{chance.getrandbits(48):012x}".encode()
    filler = bytes(LIMIT - len(whole) - len(key) - FRAME_BYTES)
    return Bad("a good event with headers up to the limit", key, whole, (("chaos", filler),), stored=True)


def produce(broker: str, topic: str, records: list[Bad], partitions: int, chance: random.Random) -> list[Placed]:
    """Write them past Chronicle; blocks until the broker has acked all. Raises RuntimeError when it does not."""
    producer = Producer({"bootstrap.servers": broker, "acks": "all", "message.max.bytes": 3 * MEGABYTE})
    placed: list[Placed] = []
    failed: list[str] = []
    for bad in records:

        def done(error: Any, message: Any, bad: Bad = bad) -> None:
            if error is not None:
                failed.append(f"{bad.what}: {error}")
            else:
                placed.append(Placed(bad, topic, message.partition(), message.offset()))

        where = chance.randrange(partitions)
        producer.produce(topic, bad.value, bad.key, where, on_delivery=done, headers=list(bad.headers))
    left = producer.flush(ASK_S)
    if left or failed:
        raise RuntimeError(f"{topic}: {left} records not acked, refused: {failed}")
    return placed


def partitions_of(broker: str, topic: str) -> int:
    """How many there are."""
    return len(Producer({"bootstrap.servers": broker}).list_topics(topic, timeout=ASK_S).topics[topic].partitions)


def record_with_key(broker: str, topic: str, key: bytes, *, back: int = 5000) -> bytes | None:
    """The value of the newest record with this key, among the last `back` of each partition."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": f"{PREFIX}look", "enable.auto.commit": False})
    found = None
    with contextlib.closing(consumer):
        for number in consumer.list_topics(topic, timeout=ASK_S).topics[topic].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=ASK_S)
            at = max(low, high - back)
            if at < high:
                consumer.assign([TopicPartition(topic, number, at)])
            while at < high and (message := consumer.poll(ASK_S)) is not None and not message.error():
                found = message.value() if message.key() == key else found
                at = (message.offset() or 0) + 1
    return found


class _Raw(Fault):
    """Needs a record as Chronicle writes it: it sends an event and reads it back from the topic."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.own = Own(self.name, chance)
        self.placed: list[Placed] = []

    async def good(self, place: Place) -> bytes:
        events = self.own.events(1)
        await self.own.send(place.url, events)
        key = self.own.session.encode()
        value = await asyncio.to_thread(record_with_key, place.broker, place.topics["ingest"], key)
        if value is None:
            raise RuntimeError("the event that was just accepted is not in the ingest topic")
        return value

    async def heal(self, place: Place) -> None:
        """What is on a topic stays there."""


class Poison(_Raw):
    name = "poison"
    rows = ("F31",)
    what = (
        "Records that are no events (empty, random, unknown schema, cut off, null, 2 MB, huge headers) on both topics."
    )
    short = True
    hold_s = 2.0

    async def inject(self, place: Place) -> bool:
        good = await self.good(place)
        for role in ("ingest", "events"):
            topic = place.topics[role]
            count = await asyncio.to_thread(partitions_of, place.broker, topic)
            records = list(bad_records(self.chance, good))
            if role == "ingest":  # on the other topic it would be an event that nobody accepted
                records.append(too_good(self.chance, good))
            self.placed += await asyncio.to_thread(produce, place.broker, topic, records, count, self.chance)
        return True

    async def verify(self, place: Place) -> None:
        for placed in self.placed:
            await until(lambda placed=placed: self._fate(place, placed), 30.0)  # type: ignore[misc]
            letters = await self._letters(place, placed)
            if placed.bad.stored and not letters:
                await self._stored(place, placed)
            elif len(letters) != 1:
                self._say(placed, f"has {len(letters)} dead letters")
            elif not same(letters[0]["value"], placed.bad.value) or not same(letters[0]["key"], placed.bad.key):
                self._say(placed, "is a dead letter with other bytes")
        self.found.broken += await self.own.broken(place.dsn)

    async def _fate(self, place: Place, placed: Placed) -> bool:
        return bool(await self._letters(place, placed)) or placed.bad.stored

    async def _letters(self, place: Place, placed: Placed) -> list[Any]:
        """Those read at its place, or at the place where the first stage passed it on to."""
        sql = """SELECT key, value, cause FROM dead_letters WHERE (topic = $1 AND partition = $2 AND "offset" = $3)
            OR (topic = $4 AND ingest_partition = $2 AND ingest_offset = $3)"""
        second = place.topics["events"] if placed.topic == place.topics["ingest"] else ""
        return await rows(place.dsn, sql, placed.topic, placed.partition, placed.offset, second)

    async def _stored(self, place: Place, placed: Placed) -> None:
        value = placed.bad.value or b""
        if await missing_after(place.dsn, [str(uuid.UUID(bytes=value[ID_BYTES]))], 30.0):
            self._say(placed, "is neither stored nor a dead letter")

    def _say(self, placed: Placed, what: str) -> None:
        self.found.broken.append(f"{placed.bad.what} at {placed.topic}/{placed.partition}/{placed.offset} {what}")


def same(kept: bytes | None, sent: bytes | None) -> bool:
    """Whether a dead letter holds what was sent; of a very large value its beginning is enough."""
    if kept is None or sent is None or len(kept) == len(sent):
        return kept == sent
    return len(kept) >= LETTER_BYTES and len(sent) > MEGABYTE and sent.startswith(kept)


class Conflict(_Raw):
    """The first content stays; the other is a dead letter with its bytes, whichever way it came."""

    name = "conflict"
    rows = ("F28",)
    what = "An id is sent twice with different payloads: through HTTP, under another session, and as a raw record."
    short = True
    hold_s = 2.0

    async def inject(self, place: Place) -> bool:
        self.first = self.own.events(3)
        await self.own.send(place.url, self.first)
        self.lost_first = await missing_after(place.dsn, list(self.own.acked), 30.0)
        same_session, elsewhere, raw = ({**event, "payload": {"other": True}} for event in self.first)
        elsewhere["session_id"] = raw["session_id"] = f"{self.own.session}-other"
        self.others = [same_session, elsewhere, raw]
        for event in self.others:
            await self.own.send(place.url, [event])
        copy = await asyncio.to_thread(
            record_with_key, place.broker, place.topics["ingest"], raw["session_id"].encode()
        )
        if copy is None:
            raise RuntimeError("the event that was just accepted is not in the ingest topic")
        bad = Bad("the last one once more, raw", raw["session_id"].encode(), copy)
        topic = place.topics["events"]
        self.placed = await asyncio.to_thread(produce, place.broker, topic, [bad], 1, self.chance)
        return True

    async def verify(self, place: Place) -> None:
        self.found.broken += await self.own.broken(place.dsn)
        ids = [event["event_id"] for event in self.first]
        await until(lambda: self._all_there(place, ids), 30.0)
        letters = await self._letters(place, ids)
        for index, event_id in enumerate(ids):
            wanted = 2 if index == 2 else 1  # the last one came once more, raw
            if letters.count(event_id) != wanted:
                self.found.broken.append(f"{event_id} has {letters.count(event_id)} conflicts, not {wanted}")
        sql = "SELECT event_id::text AS id FROM events WHERE event_id = ANY($1::uuid[]) AND payload ? 'other'"
        replaced = [row["id"] for row in await rows(place.dsn, sql, ids)]
        if replaced:
            self.found.broken.append(f"the second content replaced the first: {replaced}")

    async def _all_there(self, place: Place, ids: list[str]) -> bool:
        return len(await self._letters(place, ids)) >= len(ids) + 1

    async def _letters(self, place: Place, ids: list[str]) -> list[str]:
        sql = "SELECT event_id::text AS id FROM dead_letters WHERE cause = 'conflict' AND event_id = ANY($1::uuid[])"
        return [row["id"] for row in await rows(place.dsn, sql, ids)]
