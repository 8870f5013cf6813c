"""Read `chronicle.events` with Confluent's client and Chronicle's own schema registry, each event exactly once.

    pip install "confluent-kafka[avro,schemaregistry]"
    python python_avro.py --broker 127.0.0.1:9092 --registry http://127.0.0.1:8000 --state mine.json --max 10

Prints one JSON object a line. Nothing of Chronicle is imported: copy the file and go on from here.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from confluent_kafka import Consumer, Message
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

#: Partition and offset in the ingest topic, big-endian: the sequence number of the event.
POSITION = struct.Struct(">iq")
HEADER = "chronicle-position"

Position = tuple[int, int]


class Applied:
    """The highest position that was applied, by partition: what is at or below it has been seen.

    A record may come again: after a crash of Chronicle, after a crash of yours, by a replay. Whoever writes to a
    database keeps these numbers in a table of it, and moves them in the transaction that writes the events; then each
    event counts once, whatever happens. Here a file stands for that table.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._highest: dict[int, int] = {}
        if path is not None and path.exists():
            self._highest = {int(partition): offset for partition, offset in json.loads(path.read_text()).items()}

    def is_new(self, position: Position | None) -> bool:
        """Whether it was not applied yet. What has no position did not come through Chronicle; take it as new."""
        return position is None or position[1] > self._highest.get(position[0], -1)

    def add(self, position: Position | None) -> None:
        """It is applied now."""
        if position is None:
            return
        self._highest[position[0]] = position[1]
        if self._path is not None:
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(self._highest))
            new.replace(self._path)


def position_of(headers: Any) -> Position | None:
    """Out of the headers of a record, pairs of name and bytes; None when it has none."""
    value = dict(headers or []).get(HEADER)
    if not isinstance(value, bytes) or len(value) != POSITION.size:
        return None
    partition, offset = POSITION.unpack(value)
    return partition, offset


def shown(event: dict[str, Any], position: Position | None) -> str:
    """One line for people and for the next program: the id in its usual form, the payload as the JSON it is."""
    event_id, payload = UUID(bytes=event["event_id"]), json.loads(event["payload"])
    return json.dumps({"position": position, **event, "event_id": event_id, "payload": payload}, default=_text)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, datetime) else str(value)


def messages(consumer: Consumer) -> Iterator[Message]:
    """What comes, without end."""
    while True:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            print(message.error(), file=sys.stderr)
            continue
        yield message


def read(arguments: argparse.Namespace) -> None:
    """1. decode · 2. pass over what was applied · 3. apply · 4. keep the position · 5. commit."""
    decode = AvroDeserializer(SchemaRegistryClient({"url": arguments.registry}))
    settings = {
        "bootstrap.servers": arguments.broker,
        "group.id": arguments.group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
    applied, left = Applied(arguments.state), arguments.max
    consumer = Consumer(settings)
    consumer.subscribe([arguments.topic])
    try:
        for message in messages(consumer):
            position = position_of(message.headers())
            if applied.is_new(position):
                event = decode(message.value(), SerializationContext(arguments.topic, MessageField.VALUE))
                print(shown(event, position), flush=True)
                applied.add(position)
                left -= 1
            consumer.commit(message=message, asynchronous=True)
            if left == 0:
                return
    finally:
        consumer.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Print the events of Chronicle, each exactly once.")
    parser.add_argument("--broker", default="127.0.0.1:9092", help="host:port of Kafka")
    parser.add_argument("--registry", default="http://127.0.0.1:8000", help="the address of Chronicle's API")
    parser.add_argument("--topic", default="chronicle.events")
    parser.add_argument("--group", default="python-avro", help="consumer group; another one begins at the beginning")
    parser.add_argument("--state", type=Path, help="file that keeps the positions over a restart")
    parser.add_argument("--max", type=int, default=0, help="end after so many events; 0 goes on until Ctrl-C")
    try:
        read(parser.parse_args())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
