"""How many events the aggregate tables count, by their changelog alone, as any consumer of it would know."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from tables.usage import Usage
from tables.usage_codec import unpack_key, unpack_value


@contextlib.contextmanager
def total(broker: str, topic: str, partitions: int) -> Iterator[Callable[[], int]]:
    """A function that tells the sum over days of the dimension `all`; another thread reads meanwhile."""
    counts: dict[tuple[int, bytes], int] = {}
    end = threading.Event()

    def read() -> None:
        consumer: Any = Consumer({"bootstrap.servers": broker, "group.id": "bench", "enable.auto.commit": False})
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        while not end.is_set():
            for message in consumer.consume(500, timeout=0.1):
                if not message.error():
                    _take(counts, message.partition(), message.key(), message.value())
        consumer.close()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield lambda: sum(list(counts.values()))
    finally:
        end.set()
        thread.join()


def _take(counts: dict[tuple[int, bytes], int], partition: int, raw: bytes, value: bytes | None) -> None:
    key = unpack_key(raw)
    if value is None or key[0] != "usage" or (key[1], key[3]) != ("day", "all"):
        return
    found = unpack_value(key, value)
    assert isinstance(found, Usage)
    counts[partition, raw] = sum(found.events.values())
