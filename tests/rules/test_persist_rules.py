"""Decoding, slicing and where to read on: the pure half of persist."""

from __future__ import annotations

import pytest
from faust.types import TP

from agents.persist import decode, durable_starts, slices
from fakes_persist import CODEC, TOPICS, KafkaRecord, chunk, make_event, record
from schemas.event import DeadLetter, LoggedEvent, Position


def decoded(item: KafkaRecord) -> LoggedEvent | DeadLetter:
    return decode(item, topic=TOPICS.events.name, partition=2, codec=CODEC, failed_at=7)


def test_a_record_becomes_an_event_with_both_positions() -> None:
    """The header says where it stood in ingest, the record itself where it stands in events."""
    item = record(40, make_event(1), partition=3)
    result = decoded(KafkaRecord(offset=41, value=item.value, headers=item.headers))
    assert isinstance(result, LoggedEvent)
    assert (result.event, result.ingest, result.events) == (make_event(1), Position(3, 40), Position(2, 41))
    assert result.value == item.value


@pytest.mark.parametrize("headers", [(), (("chronicle-position", b"short"),), (("other", b"x" * 12),)])
def test_a_foreign_record_gets_a_position_of_its_own(headers: tuple[tuple[str, bytes], ...]) -> None:
    """Without a usable position it is stored under one that ingest can never give."""
    result = decoded(KafkaRecord(offset=41, value=CODEC.encode(make_event(1)), headers=headers))
    assert isinstance(result, LoggedEvent)
    assert result.ingest == Position(-3, 41)


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (None, "undecodable"),
        (b"", "undecodable"),
        (b"\0\0\0", "undecodable"),
        (b"not avro at all", "undecodable"),
        (CODEC.encode(make_event(1))[:-3], "undecodable"),
        (b"\0" + (999_999).to_bytes(4, "big") + b"x" * 60, "unknown_schema"),
    ],
)
def test_what_cannot_be_decoded_is_a_dead_letter(value: bytes | None, cause: str) -> None:
    """It keeps its bytes, its place, its ingest position and the cause."""
    item = record(41, make_event(1), partition=2)
    result = decoded(KafkaRecord(offset=41, value=value, headers=item.headers, key=b"s"))
    assert isinstance(result, DeadLetter)
    assert (result.cause, result.value, result.key, result.stage) == (cause, value, b"s", "persist")
    assert (result.topic, result.partition, result.offset) == (TOPICS.events.name, 2, 41)
    assert result.ingest == Position(2, 41)


def test_a_bug_in_the_codec_costs_one_record() -> None:
    """An unexpected error is that record's dead letter, not the end of the agent."""

    class Broken:
        def encode(self, event: object) -> bytes:
            raise NotImplementedError

        def decode(self, value: bytes) -> object:
            raise ZeroDivisionError("bug")

    result = decode(record(1), topic="t", partition=0, codec=Broken(), failed_at=7)  # type: ignore[arg-type]
    assert isinstance(result, DeadLetter)
    assert (result.cause, result.detail) == ("undecodable", "bug")


def test_slices_cover_the_chunk_gaps_included() -> None:
    """Offsets that the log lost lie inside a slice, so that the spans join on."""
    source = chunk([record(offset) for offset in (10, 11, 15, 16, 17)])
    parts = list(slices(source, CODEC, 0, step=2))
    assert [(part.start, part.end, len(part.items)) for part in parts] == [(10, 15, 2), (15, 17, 2), (17, 18, 1)]
    assert all(part.chunk is source for part in parts)


def test_durable_starts_answer_for_the_events_topic_alone() -> None:
    """A partition without progress starts at 0: nothing of it is known to be durable."""
    asked = {TP("events", 0): 50, TP("events", 1): 60, TP("dead-letters", 0): 5}
    assert durable_starts(asked, {0: 40, 7: 1}, "events") == {TP("events", 0): 40, TP("events", 1): 0}
