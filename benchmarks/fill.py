"""Fill a topic: framed Avro events of the size all figures are given for, one in ten a repeat."""

from __future__ import annotations

import struct
import time
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Producer

from benchmarks.bulk_load import event_id
from benchmarks.codec import sample
from schemas.codec import AvroCodec
from schemas.topics import POSITION_HEADER

#: Of ten events that follow each other in a session, the last has the id of the third.
TEN = 10
SESSIONS = 500
#: Microseconds between two events.
APART = 10_000


class Record(NamedTuple):
    """What is produced. `timestamp` in milliseconds."""

    partition: int
    key: str
    value: bytes
    timestamp: int
    headers: list[tuple[str, bytes]]


def records(partitions: int, first: int, events: int, *, last: int, public: bool = False) -> list[Record]:
    """The events `first` … `first + events` (both multiples of ten).

    `public`: as the public stream has them, each id once and with its position. Times are a hundredth of a second
    apart; the event with the number `last` is of now, so that what is made later in a round is never older.
    """
    encode, event = AvroCodec().encode, sample()
    made, now = [], time.time_ns() // 1000 - APART * last
    for number in range(first, first + events):
        ten, place = divmod(number, TEN)
        session, partition = f"session-{ten % SESSIONS}", ten % partitions
        repeats = place == TEN - 1 and not public
        one = msgspec.structs.replace(
            event,
            event_id=uuid.UUID(event_id(number - 7 if repeats else number)),
            session_id=session,
            tool_name=("Bash", "Read", "Edit", "Grep")[number % 4],
            event_type="tool_post_use",
            occurred_at=now + APART * number,
        )
        headers = [(POSITION_HEADER, struct.pack(">iq", partition, number))] if public else []
        made.append(Record(partition, session, encode(one), one.occurred_at // 1000, headers))
    return made


def distinct(events: int) -> int:
    """How many ids so many events have that are not `public`."""
    return events - events // TEN


def send(broker: str, topic: str, made: Sequence[Record]) -> None:
    """Produce them. Raises RuntimeError when the broker did not take them all."""
    settings = {
        "bootstrap.servers": broker,
        "linger.ms": 20,
        "queue.buffering.max.messages": len(made) + 1,
        "queue.buffering.max.kbytes": 2 << 20,
    }
    producer: Any = Producer(settings)
    lost = [0]

    def done(error: object, _message: object) -> None:
        lost[0] += error is not None

    for one in made:
        place = {"partition": one.partition, "timestamp": one.timestamp, "headers": one.headers}
        producer.produce(topic, value=one.value, key=one.key, on_delivery=done, **place)
    if left := producer.flush(60) + lost[0]:
        raise RuntimeError(f"the broker did not take {left} of {len(made)} events")
