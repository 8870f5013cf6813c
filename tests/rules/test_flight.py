"""A flight: which records go together, how much, and where they went."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from aiokafka.errors import NotLeaderForPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from connectors.flight import Batch, Call, Flight
from connectors.memory import partition_of
from connectors.ports import Record
from schemas.event import Position


def builder(size: int = 10_000) -> Any:
    """An empty batch, as the producer makes them."""
    make: Any = BatchBuilder
    return make(size, 0)


def call(*records: Record, topic: str = "t") -> Call:
    """Waited for by nobody."""
    loop = asyncio.new_event_loop()
    try:
        return Call(topic, records, loop.create_future())
    finally:
        loop.close()


def land(batch: Batch, offset: int | None = None, error: Exception | None = None) -> None:
    """What the broker says."""
    loop = asyncio.new_event_loop()
    ack: asyncio.Future[Any] = loop.create_future()
    if error is not None:
        ack.set_exception(error)
    elif offset is None:
        ack.cancel()
    else:
        place = TopicPartition(batch.topic, batch.partition)
        ack.set_result(RecordMetadata(batch.topic, batch.partition, place, offset, 0, 0, 0))
    batch.landed(ack)
    loop.close()


def counts(flight: Flight) -> dict[tuple[str, int], int]:
    """Records by topic and partition."""
    return {(batch.topic, batch.partition): batch.count for batch in flight.batches}


def test_calls_share_one_batch_a_partition() -> None:
    """Whatever their number: that is what makes requests few."""
    flight = Flight(builder)
    for number in range(6):
        flight.take(call(Record(b"k", b"v", partition=number % 2), Record(b"k", b"v", partition=2)), 3, 100)
    flight.take(call(Record(b"k", b"v", partition=0), topic="other"), 3, 100)
    assert counts(flight) == {("t", 0): 3, ("t", 1): 3, ("t", 2): 6, ("other", 0): 1}


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=20), st.integers(1, 64))
def test_a_key_goes_where_other_producers_put_it(keys: list[bytes], partitions: int) -> None:
    """Against the other implementation we have of the Java client's hash."""
    made = call(*(Record(key, b"v") for key in keys))
    Flight(lambda: builder(1 << 20)).take(made, partitions, 100)
    assert [batch.partition for batch, _ in made.places] == [partition_of(key, partitions) for key in keys]


def test_records_without_a_key_go_to_any_partition() -> None:
    """As the Java client's default does."""
    made = call(*(Record(None, b"v") for _ in range(200)))
    Flight(builder).take(made, 4, 200)
    assert {batch.partition for batch, _ in made.places} == {0, 1, 2, 3}


def test_a_full_batch_ends_the_flight() -> None:
    """The record that finds no room, and all behind it, wait: nothing may overtake it."""
    flight = Flight(lambda: builder(1_000))
    made = call(*(Record(b"k", b"x" * 400, partition=0) for _ in range(5)))
    assert flight.take(made, 1, 100) == 2
    assert flight.full
    assert not made.packed


def test_a_flight_is_bounded_over_all_partitions() -> None:
    """It is in memory several times while it is made."""
    flight = Flight(builder, max_bytes=1_000)
    made = call(*(Record(b"k", b"x" * 400, partition=number) for number in range(10)))
    assert flight.take(made, 10, 100) == 3  # the last one goes over it
    assert flight.full


def test_a_record_larger_than_a_batch_goes_alone() -> None:
    """Else it would never go."""
    made = call(Record(b"k", b"x" * 5_000, partition=0), Record(b"k", b"v", partition=0))
    flight = Flight(lambda: builder(1_000))
    assert flight.take(made, 1, 100) == 1


def test_at_most_so_many_records_are_taken_at_once() -> None:
    """The loop gets its turn between; the rest comes with the next take, in order."""
    flight, made = Flight(builder), call(*(Record(b"k", b"%d" % number, partition=0) for number in range(5)))
    assert [flight.take(made, 1, 2) for _ in range(3)] == [2, 2, 1]
    assert made.packed
    assert not flight.full
    assert counts(flight) == {("t", 0): 5}


def test_positions_count_from_what_the_broker_says() -> None:
    """In the order of the records; calls of one batch stand one behind the other."""
    first, second = (call(*(Record(b"k", b"v", partition=number % 2) for number in range(3))) for _ in range(2))
    flight = Flight(builder)
    for made in (first, second):
        flight.take(made, 2, 100)
    for batch, offset in zip(flight.batches, (100, 7), strict=True):
        land(batch, offset)
    assert list(flight.outcomes()) == [first, second]
    assert first.positions() == [Position(0, 100), Position(1, 7), Position(0, 101)]
    assert second.positions() == [Position(0, 102), Position(1, 8), Position(0, 103)]


def test_an_ack_without_a_place_is_an_ack() -> None:
    """The broker had it before and no longer knows where."""
    made, flight = call(Record(b"k", b"v", partition=0), Record(b"k", b"v", partition=0)), Flight(builder)
    flight.take(made, 1, 100)
    land(flight.batches[0], -1)
    assert made.acked
    assert made.positions() == [Position(0, -1), Position(0, -1)]


def test_a_call_over_two_flights_is_acked_with_the_second() -> None:
    """And its records are where both put them."""
    made = call(*(Record(b"k", b"x" * 400, partition=0) for _ in range(3)))
    flights = []
    for offset in (10, 12):
        flights.append(Flight(lambda: builder(1_000)))
        flights[-1].take(made, 1, 100)
        land(flights[-1].batches[0], offset)
    assert [list(flight.outcomes()) for flight in flights] == [[made], [made]]
    assert made.positions() == [Position(0, 10), Position(0, 11), Position(0, 12)]


@pytest.mark.parametrize("error", [NotLeaderForPartitionError(), None], ids=["refused", "given up"])
def test_a_call_is_not_acked_while_a_part_is_missing(error: Exception | None) -> None:
    """One partition has it, the other does not."""
    made, flight = call(Record(b"k", b"v", partition=0), Record(b"k", b"v", partition=1)), Flight(builder)
    flight.take(made, 2, 100)
    land(flight.batches[0], 5)
    assert list(flight.outcomes()) == []
    land(flight.batches[1], error=error)
    assert not made.acked
    assert made.error is error
    assert list(flight.outcomes()) == ([made] if error else [])


def test_a_call_and_its_batches_go_without_the_collector() -> None:
    """It runs rarely in a worker: in a circle the records of many seconds would stay in memory."""
    gc.disable()
    try:
        made, flight = call(*(Record(b"k", b"v", partition=number) for number in range(2))), Flight(builder)
        flight.take(made, 2, 100)
        land(flight.batches[0], 5)
        before = batches()
        del made, flight
        assert batches() == before - 2
    finally:
        gc.enable()


def batches() -> int:
    """How many there are in this process."""
    return sum(isinstance(thing, Batch) for thing in gc.get_objects())
