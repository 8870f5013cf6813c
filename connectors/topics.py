"""Topics: make what is missing, and say in one sentence what is wrong with what is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka import admin as _admin
from confluent_kafka.admin import AdminClient

from schemas.errors import Misconfigured, Unavailable
from schemas.topics import TopicSpec

#: An event is 900 KiB at most; a batch of one, its headers and a compressed neighbour fit.
MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
TIMEOUT: Final = 10.0
#: Seconds after which all brokers know of a topic that one of them has made: until then its absence means nothing.
SETTLED: Final = 2.0

#: Errors of a cluster that is just starting or changing its controller. Too few replicas is one of them: until a broker
#: has come out of its fence, the cluster has none to put a topic on.
_PASSING: Final = {
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NOT_CONTROLLER,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.INVALID_REPLICATION_FACTOR,
}

_untyped_model: Any = confluent_kafka
_untyped: Any = _admin  # what the package re-exports without listing it, so that mypy cannot see it
_LATEST: Final = _untyped.OffsetSpec.latest()

#: Compaction works on closed segments only: with Kafka's 1 GiB a small table would never be compacted.
_COMPACTED: Final = {
    "cleanup.policy": "compact",
    "segment.bytes": str(16 * 1024 * 1024),
    "segment.ms": str(60 * 60 * 1000),
    "min.cleanable.dirty.ratio": "0.2",
}


def partitions_of(spec: TopicSpec, specs: Sequence[TopicSpec]) -> int:
    """How many partitions a topic must have; 0 in the spec means as many as the first (the ingest topic)."""
    return spec.partitions or specs[0].partitions


def config_of(spec: TopicSpec, replication: int) -> dict[str, str]:
    """The topic's own settings. Two replicas must have a record before it is acked wherever there are three."""
    kind = _COMPACTED if spec.cleanup == "compact" else {"cleanup.policy": "delete"}
    return {
        **kind,
        "retention.ms": str(spec.retention_ms),
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        "min.insync.replicas": str(max(1, replication - 1)),
    }


async def ensure(brokers: str, specs: Sequence[TopicSpec], replication: int = 1) -> None:
    """Create the topics that are missing and wait until each has its leaders; those that exist are left as they are.

    Raises `Unavailable` when the broker does not answer, `Misconfigured` when it refuses to create one.
    """
    await asyncio.to_thread(_ensure, AdminClient(_settings(brokers)), specs, replication)


async def verify(brokers: str, specs: Sequence[TopicSpec]) -> None:
    """Raises `Misconfigured`, with the remedy in one sentence, unless every topic is as its spec says.

    Checked: the topic is there, its partitions (the events topic must have those of the ingest topic, because dedupe
    writes to the same number), its cleanup policy, the largest message it takes. Raises `Unavailable` when the broker
    does not answer: nothing is known of the topics then, so it is nobody's mistake.
    """
    found, configs = await asyncio.to_thread(_look, AdminClient(_settings(brokers)), specs)
    for spec in specs:
        _judge(spec, partitions_of(spec, specs), found.get(spec.name), configs.get(spec.name, {}))


class Identities:
    """The id that the broker gave each topic when it was made, None for a topic that is not there.

    A topic that is made anew under its old name has another id: its offsets begin at 0 and mean other records.
    """

    def __init__(self, brokers: str, names: Sequence[str]) -> None:
        self._brokers, self._names = brokers, names
        self._admin: AdminClient | None = None

    async def look(self) -> dict[str, str | None]:
        """Raises `Unavailable` when the broker does not answer for all of them."""
        return await asyncio.to_thread(self._look)

    def _look(self) -> dict[str, str | None]:
        self._admin = self._admin or AdminClient(_settings(self._brokers))
        try:
            return _identities(self._admin, self._names)
        except Unavailable:
            # librdkafka's admin client does not get over a broker that was suspended: another one next time
            self._admin = None
            raise


def _identities(admin: AdminClient, names: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    asked = admin.describe_topics(_untyped_model.TopicCollection(list(names)), request_timeout=3.0)
    for name, done in asked.items():
        try:
            found[name] = str(done.result(3.0).topic_id)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise Unavailable("kafka", error.args[0].str()) from error
            found[name] = None
        except TimeoutError as error:
            raise Unavailable("kafka", "did not tell its topics") from error
    return found


def _judge(spec: TopicSpec, partitions: int, found: int | None, config: Mapping[str, str]) -> None:
    if found is None:
        raise Misconfigured(f"The topic {spec.name} does not exist.", "Create it with `chronicle topics ensure`.")
    if found != partitions:
        raise Misconfigured(
            f"The topic {spec.name} has {found} partitions instead of {partitions}.",
            f"Set the number of partitions to {found}, or move to another topic prefix: keys would change their place.",
        )
    policy = config.get("cleanup.policy", spec.cleanup)
    if policy != spec.cleanup:
        raise Misconfigured(
            f"The topic {spec.name} has cleanup.policy={policy} instead of {spec.cleanup}.",
            f"Alter it: kafka-configs --alter --topic {spec.name} --add-config cleanup.policy={spec.cleanup}.",
        )
    largest = int(config.get("max.message.bytes", MAX_MESSAGE_BYTES))
    if largest < MAX_MESSAGE_BYTES:
        raise Misconfigured(
            f"The topic {spec.name} takes messages of {largest} bytes at most, events need {MAX_MESSAGE_BYTES}.",
            f"Alter it: kafka-configs --alter --topic {spec.name} --add-config max.message.bytes={MAX_MESSAGE_BYTES}.",
        )


def _ensure(admin: AdminClient, specs: Sequence[TopicSpec], replication: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while (fault := _create_missing(admin, specs, replication)) is not None:
        if fault[1].code() not in _PASSING or time.monotonic() > deadline:
            raise refused(*fault)
        time.sleep(0.2)
    _await_leaders(admin, {spec.name for spec in specs})


def _create_missing(admin: AdminClient, specs: Sequence[TopicSpec], replication: int) -> tuple[str, KafkaError] | None:
    """Try once; returns a topic that could not be created and why."""
    there = _partitions(admin)
    missing = [
        _untyped.NewTopic(spec.name, partitions_of(spec, specs), replication, config=config_of(spec, replication))
        for spec in specs
        if spec.name not in there
    ]
    asked = admin.create_topics(missing, operation_timeout=TIMEOUT) if missing else {}
    for name, done in asked.items():
        try:
            done.result(TIMEOUT)
        except KafkaException as error:
            # TOPIC_ALREADY_EXISTS: another process was quicker
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                return name, error.args[0]
        except TimeoutError as error:
            raise Unavailable("kafka", f"creating {name} was not answered") from error
    return None


def refused(name: str, error: KafkaError) -> Misconfigured | Unavailable:
    """Whose fault it is that a topic was not created: an outage's or an operator's."""
    if error.code() in _PASSING and error.code() != KafkaError.INVALID_REPLICATION_FACTOR:
        return Unavailable("kafka", f"creating {name}: {error.str()}")
    return Misconfigured(
        f"The broker refuses to create the topic {name}: {error.str()}.",
        "Create it by hand, let this user create topics, or ask for fewer replicas.",
    )


def _await_leaders(admin: AdminClient, names: set[str]) -> None:
    """Wait until each partition answers: the metadata name a leader some time before it works."""
    deadline = time.monotonic() + TIMEOUT
    waiting = set(names)
    while time.monotonic() < deadline:
        topics = _metadata(admin).topics
        waiting = {name for name in waiting if name not in topics or not _answers(admin, topics[name])}
        if not waiting:
            return
        time.sleep(0.02)
    raise Unavailable("kafka", f"topics without leaders after {TIMEOUT:g} s: {sorted(waiting)}")


def _answers(admin: AdminClient, topic: Any) -> bool:
    if not topic.partitions or any(partition.leader < 0 for partition in topic.partitions.values()):
        return False
    places: dict[TopicPartition, Any] = {TopicPartition(topic.topic, number): _LATEST for number in topic.partitions}
    try:
        for done in admin.list_offsets(places, request_timeout=TIMEOUT).values():
            done.result(TIMEOUT)
    except (KafkaException, TimeoutError):
        return False
    return True


def _look(admin: AdminClient, specs: Sequence[TopicSpec]) -> tuple[dict[str, int], dict[str, dict[str, str]]]:
    """(partitions by topic, settings by topic)."""
    deadline = time.monotonic() + SETTLED
    while not {spec.name for spec in specs} <= (found := _partitions(admin)).keys() and time.monotonic() < deadline:
        time.sleep(0.1)
    resources = [
        _untyped.ConfigResource(_untyped.ResourceType.TOPIC, spec.name) for spec in specs if spec.name in found
    ]
    configs: dict[str, dict[str, str]] = {}
    if resources:
        for resource, done in admin.describe_configs(resources, request_timeout=TIMEOUT).items():
            try:
                configs[resource.name] = {name: entry.value for name, entry in done.result(TIMEOUT).items()}
            except (KafkaException, TimeoutError):
                configs[resource.name] = {}  # not everybody may describe; what cannot be read is not judged
    return found, configs


def _partitions(admin: AdminClient) -> dict[str, int]:
    return {name: len(topic.partitions) for name, topic in _metadata(admin).topics.items() if topic.error is None}


def _metadata(admin: AdminClient) -> Any:
    try:
        return admin.list_topics(timeout=3.0)
    except KafkaException as error:
        raise Unavailable("kafka", error.args[0].str()) from error


def _settings(brokers: str) -> dict[str, Any]:
    return {"bootstrap.servers": brokers, "socket.timeout.ms": 5_000, "log_level": 0}
