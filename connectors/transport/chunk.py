"""The value of one Faust event: what one poll returned for one partition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from faust.serializers.schemas import Schema

from connectors.transport.ledger import PartitionLedger, Span


class Record(Protocol):
    """One record as aiokafka gives it; key, value and headers are raw bytes, `timestamp` is epoch milliseconds.

    Its topic and partition are the chunk's.
    """

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Chunk:
    """Records of one partition, offsets strictly ascending, perhaps with gaps; never empty.

    `first` is the offset of the first record, `next` the offset to commit once all of them are done (last + 1).
    `generation` counts the assignments of this consumer. `live` is false once the assignment is over: what is still to
    be done with the chunk will be done again by whoever has the partition now, and acks are ignored.

    Acks are the only thing that moves the group's offset. The transport bounds the records and bytes of a partition
    that are handed out and not acked, so whoever gathers chunks into batches must flush by age as well.
    Not thread-safe: ack on the loop the app runs on.
    """

    __slots__ = ("_span", "first", "generation", "next", "partition", "records", "topic")

    def __init__(self, topic: str, partition: int, records: Sequence[Record], span: Span | None = None) -> None:
        """`records` must not be empty. Without a `span` (tests, examples) it keeps a ledger of its own."""
        self.topic = topic
        self.partition = partition
        self.records = records
        self.first = records[0].offset
        self.next = records[-1].offset + 1
        self._span = span or PartitionLedger(self.first).deliver(self.first, self.next, count=len(records))
        self.generation = self._span.generation

    @property
    def live(self) -> bool:
        return self._span.live

    @property
    def acked(self) -> int:
        """Everything of this chunk below this offset has been acked."""
        return self._span.done

    def ack(self, through: int | None = None) -> None:
        """Everything in this chunk below `through` (default: all of it) is done and durable.

        May be called again with higher values. An ack of a later chunk is kept until the earlier ones are acked.
        Raises ValueError when `through` is outside [first, next].
        """
        self._span.ack(self.next if through is None else through)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"<Chunk {self.topic}/{self.partition} [{self.first}, {self.next}) {len(self.records)} records>"


class ChunkSchema(Schema):  # type: ignore[type-arg]  # Faust's own default is the bare class, too
    """Hands the message's value on as it is: neither Faust nor a codec ever looks into a chunk."""

    def compile(self, app: Any, **_: Any) -> Any:
        """The decode function of a chunked topic (see faust.serializers.schemas.Schema.compile)."""
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return create_event(None, message.value, message.headers, message)

        return decode
