"""Topics are made as they must be, what is wrong is said in one sentence, and offsets are told in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors.offsets import LogOffsets
from connectors.ports import Record
from connectors.producer import KafkaLog
from connectors.topics import ensure, verify
from schemas.errors import Misconfigured, Unavailable
from schemas.topics import Topics, TopicSpec, topics

pytestmark = pytest.mark.e2e


@dataclass
class Place:
    brokers: str
    topics: Topics


@pytest.fixture
async def place(kafka: str, topic_prefix: str) -> Place:
    made = Place(kafka, topics(prefix=topic_prefix, partitions=3))
    await ensure(kafka, made.topics.all())
    return made


async def test_what_ensure_makes_verify_accepts(place: Place) -> None:
    """And a second start changes nothing."""
    await ensure(place.brokers, place.topics.all())
    await verify(place.brokers, place.topics.all())


async def test_two_starts_at_once_do_not_disturb_each_other(kafka: str, topic_prefix: str) -> None:
    """Whoever is later finds the topics there."""
    specs = topics(prefix=topic_prefix, partitions=2).all()
    await asyncio.gather(ensure(kafka, specs), ensure(kafka, specs))
    await verify(kafka, specs)


async def test_more_replicas_than_brokers_is_an_operators_mistake(kafka: str, topic_prefix: str) -> None:
    """Only after the brokers had time to come up: a cluster that just starts has none to put a topic on."""
    with pytest.raises(Misconfigured) as caught:
        await ensure(kafka, topics(prefix=topic_prefix, partitions=1).all()[:1], replication=3)
    assert "fewer replicas" in caught.value.remedy


async def faulty(brokers: str, specs: list[TopicSpec]) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        await verify(brokers, specs)
    assert caught.value.remedy.endswith(".")
    return caught.value


async def test_what_is_wrong_is_told_with_its_remedy(place: Place) -> None:
    """A missing topic, another number of partitions, another cleanup policy, a limit that is too low."""
    ingest, events = place.topics.ingest, place.topics.events
    change = msgspec.structs.replace
    missing = await faulty(place.brokers, [ingest, change(events, name=f"{events.name}.not")])
    assert "does not exist" in missing.detail
    wrong = await faulty(place.brokers, [change(ingest, partitions=4), events])
    assert "3 partitions instead of 4" in wrong.detail
    assert "to 3" in wrong.remedy
    derived = await faulty(place.brokers, [ingest, change(place.topics.control, partitions=0)])
    assert "1 partitions instead of 3" in derived.detail
    policy = await faulty(place.brokers, [change(ingest, cleanup="compact"), events])
    assert "cleanup.policy=delete" in policy.detail


@pytest.mark.parametrize("ask", [ensure, verify])
async def test_a_broker_that_is_not_there_is_an_outage(ask: Callable[..., Awaitable[None]]) -> None:
    """Nobody's mistake, also when it goes away between `ensure` and `verify`: a worker waits for it."""
    with pytest.raises(Unavailable):
        await ask("127.0.0.1:1", topics(prefix="t", partitions=1).all())


async def test_offsets_tell_begin_end_and_group(place: Place) -> None:
    """Partition by partition; what a group has not committed is absent."""
    name, group = place.topics.ingest.name, place.topics.ingest.name
    log, offsets = KafkaLog(place.brokers, "test"), LogOffsets(place.brokers)
    await log.open()
    await log.send(name, [Record(None, b"v", partition=number % 2) for number in range(5)])
    await log.close()
    consumer = Consumer({"bootstrap.servers": place.brokers, "group.id": group, "enable.auto.commit": False})
    await asyncio.to_thread(consumer.commit, offsets=[TopicPartition(name, 1, 2)], asynchronous=False)
    consumer.close()
    assert await offsets.end_offsets(name) == {0: 3, 1: 2, 2: 0}
    assert await offsets.begin_offsets(name) == {0: 0, 1: 0, 2: 0}
    assert await offsets.group_offsets(group, name) == {1: 2}
    assert await offsets.group_offsets("nobody", name) == {}
    await offsets.close()


async def test_an_answer_is_kept_for_a_second_and_no_longer(place: Place) -> None:
    """A page that is asked a hundred times a second asks the broker once."""
    now, name = [100.0], place.topics.ingest.name
    log, offsets = KafkaLog(place.brokers, "test"), LogOffsets(place.brokers, monotonic=lambda: now[0])
    await log.open()
    assert (await offsets.end_offsets(name))[0] == 0
    await log.send(name, [Record(None, b"v", partition=0)])
    assert (await offsets.end_offsets(name))[0] == 0
    now[0] += 1.1
    assert (await offsets.end_offsets(name))[0] == 1
    await offsets.close()
    await log.close()


async def test_offsets_of_a_broker_that_is_not_there_fail_within_two_seconds() -> None:
    """A page that asks must not hang; callers at the same time share the one request."""
    offsets = LogOffsets("127.0.0.1:1")
    started = time.perf_counter()
    results = await asyncio.gather(*(offsets.end_offsets("t") for _ in range(20)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert time.perf_counter() - started < 5
    await offsets.close()


async def test_offsets_of_an_unknown_topic_are_unavailable(kafka: str) -> None:
    """Not a KeyError in a page."""
    offsets = LogOffsets(kafka)
    with pytest.raises(Unavailable):
        await offsets.end_offsets("there.is.no.such.topic")
    await offsets.close()


async def test_retention_and_compaction_reach_the_broker(place: Place) -> None:
    """What was asked for is what the broker says."""
    from confluent_kafka.admin import ConfigResource, ResourceType

    admin = AdminClient({"bootstrap.servers": place.brokers})
    resource = ConfigResource(ResourceType.TOPIC, place.topics.seen.name)
    config = {name: entry.value for name, entry in admin.describe_configs([resource])[resource].result(10).items()}
    assert config["cleanup.policy"] == "compact"
    assert config["retention.ms"] == "-1"
    assert config["max.message.bytes"] == str(2 << 20)
    assert int(config["segment.bytes"]) <= 16 << 20
