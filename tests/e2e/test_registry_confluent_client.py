"""Confluent's own client and Avro deserializer read our topic by our registry, over a real port and a real broker."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

from app.views.registry import CONTENT_TYPE, routes
from connectors.ports import Record
from connectors.producer import KafkaLog
from connectors.topics import ensure
from schemas.codec import AvroCodec
from schemas.event import HookEvent, IdOrigin
from schemas.registry import packaged, registry
from schemas.topics import topics

EVENT = HookEvent(
    event_id=uuid.UUID("0198f1a2-7b3c-7def-8123-456789abcdef"),
    fingerprint=b"0123456789abcdef",
    id_origin=IdOrigin.CLIENT,
    session_id="session",
    event_type="tool_pre_use",
    occurred_at=1_763_690_000_000_000,
    received_at=1_763_690_000_000_001,
    source="test",
    tool_name="Bash",
    payload='{"command":"ls"}',
    flags=1,
)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app = web.Application()
    for route in routes(registry(topics(prefix="chronicle", partitions=1))):
        app.router.add_route(route.method, route.path, route.handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
def client(url: str) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": url, "max.retries": 0})


@pytest.mark.e2e
async def test_the_avro_deserializer_reads_a_record_of_the_public_topic(
    kafka: str, client: SchemaRegistryClient, topic_prefix: str
) -> None:
    """A stranger's consumer needs the broker, the registry's URL and nothing of ours."""
    ours = topics(prefix=topic_prefix, partitions=1)
    await ensure(kafka, [ours.events])
    log = KafkaLog(kafka, "test")
    await log.open()
    await log.send(ours.events.name, [Record(b"session", AvroCodec().encode(EVENT))])
    await log.close()

    def read() -> dict[str, object]:
        consumer = Consumer({"bootstrap.servers": kafka, "group.id": topic_prefix})
        consumer.assign([TopicPartition(ours.events.name, 0, 0)])
        message = consumer.poll(10)
        consumer.close()
        assert message is not None
        context = SerializationContext(ours.events.name, MessageField.VALUE)
        return AvroDeserializer(client)(message.value(), context)  # type: ignore[return-value]

    found = await asyncio.to_thread(read)
    assert uuid.UUID(bytes=found["event_id"]) == EVENT.event_id  # type: ignore[arg-type]
    assert (found["session_id"], found["payload"], found["id_origin"]) == ("session", EVENT.payload, "client")
    assert found["occurred_at"].timestamp() == 1_763_690_000  # type: ignore[attr-defined]


async def test_the_client_finds_its_way_through_subjects_versions_and_ids(client: SchemaRegistryClient) -> None:
    """Everything a UI or a connector asks before it reads."""
    subject = "chronicle.events-value"

    def ask() -> tuple[object, ...]:
        latest = client.get_latest_version(subject)
        assert latest.schema is not None
        return (
            client.get_subjects(),
            client.get_versions(subject),
            (latest.schema_id, latest.version, client.get_version(subject, 1).schema_id),
            json.loads(client.get_schema(1).schema_str or "") == packaged()[0].parsed(),
            client.lookup_schema(subject, latest.schema).schema_id,
            client.get_compatibility(),
            [(place.subject, place.version) for place in client.get_schema_versions(1)],
        )

    assert await asyncio.to_thread(ask) == (
        ["chronicle.events-value", "chronicle.ingest-value"],
        [1],
        (1, 1, 1),
        True,
        1,
        "BACKWARD_TRANSITIVE",
        [("chronicle.events-value", 1), ("chronicle.ingest-value", 1)],
    )


async def test_a_serializer_that_registers_our_schema_gets_its_id_and_any_other_is_refused(
    client: SchemaRegistryClient,
) -> None:
    """Read-only, said in Confluent's words."""

    def serialize() -> int:
        AvroSerializer(client, packaged()[0].text)
        with pytest.raises(SchemaRegistryError) as caught:
            client.register_schema("chronicle.events-value", Schema('"string"', "AVRO"))
        assert caught.value.error_code == 42205
        return client.register_schema("chronicle.events-value", Schema(packaged()[0].text, "AVRO"))

    assert await asyncio.to_thread(serialize) == 1


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/subjects/nope/versions", 404, 40401),
        ("/subjects/nope/versions/latest", 404, 40401),
        ("/subjects/chronicle.events-value/versions/99", 404, 40402),
        ("/subjects/chronicle.events-value/versions/zero", 422, 42202),
        ("/subjects/chronicle.events-value/versions/0", 422, 42202),
        ("/schemas/ids/99", 404, 40403),
        ("/schemas/ids/²", 404, 40403),
        ("/schemas/ids/99/versions", 404, 40403),
        ("/config/nope", 404, 40401),
    ],
)
async def test_errors_have_confluents_form(url: str, path: str, status: int, code: int) -> None:
    """Clients decide by `error_code`."""
    async with ClientSession() as session, session.get(url + path) as response:
        assert response.status == status
        assert response.content_type == CONTENT_TYPE
        assert json.loads(await response.read())["error_code"] == code


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"schema":1}', b'{"schema":"{"}', b'{"schema":"' + b"[" * 100_000]
)
async def test_a_body_without_a_schema_is_422(url: str, body: bytes) -> None:
    """Never a 500."""
    async with (
        ClientSession() as session,
        session.post(f"{url}/subjects/chronicle.events-value", data=body) as response,
    ):
        assert (response.status, json.loads(await response.read())["error_code"]) == (422, 42201)
