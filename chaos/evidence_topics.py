"""What the topics hold: their ends, the groups' commits, dead letters by value, and the ids in the public stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from chaos.evidence_values import READS, Letter, Log, Offsets, Row
from chaos.ledger_sum import DIGEST

#: The id stands behind the frame of 5 bytes in every version of the record.
ID_AT = 5
TIMEOUT_S = 10.0
#: Seconds in which nothing comes although the end is not reached.
SILENT_S = 20.0


def read_log(broker: str, topics: Mapping[str, str], prefix: str, *, passed: bool = True) -> Log:
    """`topics` are names by role: ingest, events, aggregates, dead_letters. `passed`: read all of the public stream.

    Blocks. Raises KafkaException or TimeoutError: without the broker there is no verdict.
    """
    log = Log()
    with _Client(broker) as client:
        for role in {*READS.values(), "dead_letters"}:
            log.ends[role] = client.ends(topics[role])
        for role, topic in READS.items():
            log.committed[role] = client.committed(f"{prefix}-{role}", topics[topic])
        client.each(
            topics["dead_letters"], log.ends["dead_letters"], lambda message: log.letters.append(_letter(message))
        )
        if passed:
            client.each(topics["events"], log.ends["events"], lambda message: _pass(log, message))
            log.passed_read = True
    return log


class _Client:
    def __init__(self, broker: str) -> None:
        self._broker = broker
        group = f"drill-{uuid.uuid4().hex}"
        settings = {"bootstrap.servers": broker, "group.id": group, "enable.auto.commit": False, "log_level": 0}
        self._consumer = Consumer({**settings, "enable.partition.eof": False, "check.crcs": True})
        self._admin = AdminClient({"bootstrap.servers": broker, "log_level": 0})

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def ends(self, topic: str) -> dict[int, int]:
        partitions = self._consumer.list_topics(topic, TIMEOUT_S).topics[topic].partitions
        return {
            number: self._consumer.get_watermark_offsets(TopicPartition(topic, number), TIMEOUT_S)[1]
            for number in partitions
        }

    def committed(self, group: str, topic: str) -> Offsets:
        asked = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group)], request_timeout=TIMEOUT_S
        )
        places = asked[group].result(TIMEOUT_S).topic_partitions
        return {place.partition: place.offset for place in places if place.topic == topic and place.offset >= 0}

    def each(self, topic: str, ends: Offsets, take: Callable[[Any], None]) -> None:
        """Every record from the oldest one up to `ends`."""
        left = {}
        for number, end in ends.items():
            low, _ = self._consumer.get_watermark_offsets(TopicPartition(topic, number), TIMEOUT_S)
            if low < end:
                left[number] = low
        self._consumer.assign([TopicPartition(topic, number, low) for number, low in left.items()])
        heard = time.monotonic()
        while left:
            for message in self._consumer.consume(1000, 1.0):
                heard = time.monotonic()
                number, offset = _place(message)
                if offset < ends[number]:
                    take(message)
                if offset + 1 >= ends[number]:
                    left.pop(number, None)
            if time.monotonic() - heard > SILENT_S:
                raise TimeoutError(f"{topic}: nothing for {SILENT_S:g} s, partitions {sorted(left)} not at their end")
        self._consumer.unassign()


def _place(message: Any) -> tuple[int, int]:
    """(partition, offset). Raises KafkaException for what is an error and no record."""
    if (error := message.error()) is not None:
        raise KafkaException(error)
    return message.partition(), message.offset()


def _pass(log: Log, message: Any) -> None:
    value = message.value() or b""
    key = value[ID_AT : ID_AT + DIGEST]
    if len(key) == DIGEST:  # what is shorter is poison that somebody put there
        log.passed.add(Row(bytes(key), bytes(DIGEST), "", message.partition(), -1, message.offset()))


def _letter(message: Any) -> Letter:
    """A record that is no letter is one itself: bytes that somebody put there."""
    try:
        value = json.loads(message.value() or b"")
        event_id = str(UUID(value["event_id"])) if value.get("event_id") else ""
        return Letter(
            value["topic"],
            int(value["partition"]),
            int(value["offset"]),
            value["cause"],
            event_id,
            value.get("session_id") or "",
            has_bytes=value.get("value") is not None,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Letter(message.topic(), message.partition(), message.offset(), "undecodable", "", "")
