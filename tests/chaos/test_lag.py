"""What counts as worked off: every group, in the order an event walks, each up to the end its topic had."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from chaos.lag import Lag
from chaos.place import GROUPS, STORING, TOPICS

INGEST, EVENTS, AGGREGATES = (TOPICS[role] for role in ("ingest", "events", "aggregates"))
DEDUPE, PERSIST, AGGREGATE, HISTORY = GROUPS


@dataclass
class Committed:
    offset: int


@dataclass
class Broker:
    """Both clients at once: ends by topic, commits by group, one partition each. `asked` is who was asked for."""

    ends: dict[str, int] = field(default_factory=lambda: {INGEST: 9, EVENTS: 7, AGGREGATES: 30})
    commits: dict[str, int] = field(default_factory=lambda: {DEDUPE: 9, PERSIST: 7, AGGREGATE: 7, HISTORY: 30})
    asked: list[str] = field(default_factory=list)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def close(self) -> None: ...

    async def describe_topics(self) -> list[dict[str, Any]]:
        return [{"topic": topic, "partitions": [{"partition": 0}]} for topic in self.ends]

    async def end_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {place: self.ends[place.topic] for place in places}

    async def beginning_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    async def list_consumer_group_offsets(self, group: str) -> dict[TopicPartition, Committed]:
        self.asked.append(group)
        at = self.commits.get(group)
        return {} if at is None else {TopicPartition(GROUPS[group], 0): Committed(at)}


def lag(broker: Broker) -> Lag:
    return Lag("", GROUPS, connect=lambda _: (broker, broker))


async def test_lag_is_of_the_groups_that_are_asked_for() -> None:
    """What waits for Postgres only is not on its way into a database."""
    broker = Broker(commits={DEDUPE: 8, PERSIST: 7, AGGREGATE: 5})
    assert await lag(broker).ask() == 1 + 2 + 30
    assert await lag(broker).ask(STORING) == 1


async def test_a_broker_that_does_not_tell_has_no_lag() -> None:
    """Not even 0; a topic that is not there is the same."""
    broker = Broker(ends={INGEST: 9, EVENTS: 7})
    assert await lag(broker).ask() == -1
    assert await lag(broker).ask(STORING) == 0

    class Away(Broker):
        async def describe_topics(self) -> list[dict[str, Any]]:
            raise KafkaError("away")

    assert await lag(Away()).ask() == -1


async def test_worked_off_is_what_all_groups_have_passed() -> None:
    """Stored, counted and in the history, asked in this order."""
    broker = Broker()
    await asyncio.wait_for(lag(broker).worked_off(), 5)
    assert broker.asked == [DEDUPE, PERSIST, AGGREGATE, HISTORY]


async def test_worked_off_waits_for_the_slowest_and_not_for_what_comes_later() -> None:
    """The group that counts is held to the end that the topic had when storing was looked at."""
    broker = Broker()
    broker.commits[AGGREGATE] = 6
    waiting = asyncio.create_task(lag(broker).worked_off())
    while AGGREGATE not in broker.asked:
        await asyncio.sleep(0)
    assert not waiting.done()
    assert HISTORY not in broker.asked
    broker.ends[EVENTS], broker.commits[AGGREGATE] = 100, 7
    await asyncio.wait_for(waiting, 5)
