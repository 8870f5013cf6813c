"""How much the consumer groups still have to do, asked of the broker itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import confluent_kafka
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

TIMEOUT_S: Final = 2.0
_untyped: Any = confluent_kafka.admin  # names that the package re-exports without listing them


class Lag:
    """`groups`: consumer group -> its topic. Bootstraps at `broker`; answers come from where the broker advertises."""

    def __init__(self, broker: str, groups: Mapping[str, str]) -> None:
        self._broker = broker
        self._groups = groups
        self._admin: AdminClient | None = None

    def ask(self) -> int:
        """Records between the committed offsets and the ends; -1 when the broker does not tell. Blocks 3 s at most."""
        try:
            return sum(self._of(group, topic) for group, topic in self._groups.items())
        except KafkaException:
            self._admin = None  # a client that met a dead broker waits before it tries again; a new one does not
            return -1

    def close(self) -> None:
        """Forget the connection."""
        self._admin = None

    def _of(self, group: str, topic: str) -> int:
        admin = self._client()
        metadata = admin.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
        if metadata.error is not None:
            raise KafkaException(metadata.error)
        places = [TopicPartition(topic, partition) for partition in metadata.partitions]
        asked = [ConsumerGroupTopicPartitions(group)]
        committing = admin.list_consumer_group_offsets(asked, request_timeout=TIMEOUT_S)[group]
        first = self._edges(places, _untyped.OffsetSpec.earliest())
        last = self._edges(places, _untyped.OffsetSpec.latest())
        done = {
            place.partition: place.offset
            for place in committing.result(TIMEOUT_S).topic_partitions or ()
            if place.topic == topic and place.offset >= 0
        }
        return sum(max(0, end - done.get(partition, first[partition])) for partition, end in last.items())

    def _edges(self, places: list[TopicPartition], spec: Any) -> dict[int, int]:
        asked = self._client().list_offsets(dict.fromkeys(places, spec), request_timeout=TIMEOUT_S)
        return {place.partition: done.result(TIMEOUT_S).offset for place, done in asked.items()}

    def _client(self) -> AdminClient:
        if self._admin is None:
            # log_level 0: a broker that is away is what a drill is about, no news
            self._admin = AdminClient(
                {"bootstrap.servers": self._broker, "reconnect.backoff.max.ms": 500, "log_level": 0}
            )
        return self._admin
