"""/asyncapi.json tells every public topic and the live feed, by the rules of AsyncAPI 3.0, and what it tells is so.

No package that holds the specification's own schema is kept well enough to be locked, so its rules for the objects that
we use stand here: `OBJECTS` has (required, allowed besides) from the specification 3.0.0 and its bindings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import fastavro
import msgspec
import pytest
from jsonschema import Draft7Validator

from all_routes import VERSION, all_routes
from app.asyncapi import document
from app.asyncapi_messages import messages
from app.asyncapi_words import WORDS
from app.house import build
from app.settings import ROLES, Settings
from app.views.live import PARAMS
from reading import TOPICS, serving
from schemas.codec import AvroCodec, from_fields
from schemas.event import HookEvent, IdOrigin
from schemas.registry import registry
from schemas.topics import CAUSES
from tables.usage import keys
from tables.usage_codec import CLOCK, pack_key
from tables.usage_names import names_key

OBJECTS: dict[str, tuple[str, str]] = {
    "document": ("asyncapi info", "id servers defaultContentType channels operations components"),
    "info": ("title version", "description termsOfService contact license tags externalDocs"),
    "license": ("name", "url"),
    "tag": ("name", "description externalDocs"),
    "server": (
        "host protocol",
        "protocolVersion pathname description title summary variables security tags externalDocs bindings",
    ),
    "variable": ("", "enum default description examples"),
    "channel": ("", "address messages title summary description servers parameters tags externalDocs bindings"),
    "message": (
        "",
        "headers payload correlationId contentType name title summary description tags externalDocs bindings "
        "examples traits",
    ),
    "example": ("", "headers payload name summary"),
    "operation": (
        "action channel",
        "title summary description security tags externalDocs bindings traits messages reply",
    ),
    "format": ("schemaFormat schema", ""),
    "components": ("", "schemas servers channels operations messages parameters tags"),
    "reference": ("$ref", ""),
    "server kafka": ("", "schemaRegistryUrl schemaRegistryVendor bindingVersion"),
    "channel kafka": ("", "topic partitions replicas topicConfiguration bindingVersion"),
    "message kafka": ("", "key schemaIdLocation schemaIdPayloadEncoding schemaLookupStrategy bindingVersion"),
    "channel ws": ("", "method query headers bindingVersion"),
}
TOPIC_SETTINGS = {"cleanup.policy", "retention.ms", "retention.bytes", "delete.retention.ms", "max.message.bytes"}
EVENT = HookEvent(
    event_id=UUID(int=1),
    fingerprint=b"f" * 16,
    id_origin=IdOrigin.FRESH,
    session_id="s",
    event_type="tool_post_use",
    occurred_at=1_769_851_800_000_000,
    received_at=1_769_851_800_000_000,
    source="test",
    tool_name="Bash",
    agent_type="Explore",
    cwd="/home/ann/shop",
    payload="{}",
    metadata='{"machine": "m"}',
)


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """The document as a client reads it."""
    found: dict[str, Any] = json.loads(json.dumps(document(TOPICS, registry(TOPICS), VERSION)))
    return found


def objects(told: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(kind, where, object) of everything whose fields the specification fixes."""
    yield "document", "", told
    yield "info", "info", told["info"]
    yield "license", "info.license", told["info"]["license"]
    yield from (("tag", "info.tags", tag) for tag in told["info"]["tags"])
    yield "components", "components", told["components"]
    for name, server in told["servers"].items():
        yield "server", name, server
        yield from (("variable", f"{name}.{key}", one) for key, one in server["variables"].items())
        yield from bindings("server", name, server)
    for name, channel in told["channels"].items():
        yield "channel", name, channel
        yield from (("reference", f"{name}.servers", one) for one in channel["servers"])
        yield from (("tag", f"{name}.tags", tag) for tag in channel["tags"])
        yield from bindings("channel", name, channel)
        for key, message in channel["messages"].items():
            yield from parts_of_message(f"{name}.{key}", message)
    for name, operation in told["operations"].items():
        yield "operation", name, operation
        yield from (("reference", name, one) for one in (operation["channel"], *operation["messages"]))


def bindings(kind: str, where: str, of: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield from ((f"{kind} {protocol}", where, one) for protocol, one in of.get("bindings", {}).items())


def parts_of_message(where: str, message: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "message", where, message
    yield from (("example", where, one) for one in message.get("examples", ()))
    yield from bindings("message", where, message)
    if "schemaFormat" in message["payload"]:
        yield "format", where, message["payload"]


def references(value: Any) -> Iterator[str]:
    """Every `$ref` below a value."""
    if isinstance(value, dict):
        if isinstance(found := value.get("$ref"), str):
            yield found
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def resolve(told: dict[str, Any], ref: str) -> Any:
    """What it points at; KeyError when nothing is there."""
    assert ref.startswith("#/"), ref
    found: Any = told
    for part in ref[2:].split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def validator(told: dict[str, Any], schema: dict[str, Any]) -> Draft7Validator:
    """Of a schema in the document. A `$ref` beside others is alone in draft 7, so it is put one level down."""
    Draft7Validator.check_schema(schema)
    return Draft7Validator({"components": told["components"], "allOf": [schema]})


def test_every_object_has_the_fields_of_the_specification(told: dict[str, Any]) -> None:
    """What is required is there, what is unknown is not."""
    faults = []
    for kind, where, found in objects(told):
        required, allowed = (set(words.split()) for words in OBJECTS[kind])
        faults += [f"{kind} {where} lacks {name}" for name in required - set(found)]
        faults += [f"{kind} {where} may not have {name}" for name in set(found) - required - allowed]
    assert faults == []
    assert told["asyncapi"] == "3.0.0"
    assert told["info"]["version"] == VERSION


def test_every_reference_leads_somewhere(told: dict[str, Any]) -> None:
    """Operations point at channels of the root and at messages of that very channel."""
    for ref in set(references(told)):
        resolve(told, ref)
    for name, operation in told["operations"].items():
        channel = operation["channel"]["$ref"]
        assert re.fullmatch(r"#/channels/\w+", channel), name
        assert all(one["$ref"].startswith(f"{channel}/messages/") for one in operation["messages"]), name
        assert operation["action"] in ("send", "receive"), name


def test_variables_are_told_and_used(told: dict[str, Any]) -> None:
    """Each `{name}` in a host has its variable, and a default to begin with."""
    for name, server in told["servers"].items():
        assert set(re.findall(r"\{(\w+)\}", server["host"])) == set(server["variables"]), name
        assert all(one["default"] for one in server["variables"].values()), name


def test_the_channels_are_the_public_topics_and_the_feed(told: dict[str, Any]) -> None:
    """With the partitions and the retention that the topics have; nothing internal is told."""
    found = {channel["address"]: channel["bindings"] for channel in told["channels"].values()}
    assert set(found) == {spec.name for spec in TOPICS.public().values()} | {"/ws/events"}
    for spec in TOPICS.public().values():
        binding = found[spec.name]["kafka"]
        settings = binding["topicConfiguration"]
        assert binding["partitions"] == spec.partitions
        assert (settings["cleanup.policy"], settings["retention.ms"]) == ([spec.cleanup], spec.retention_ms)
        assert set(settings) <= TOPIC_SETTINGS
    internal = {spec.name for spec in TOPICS.all() if not spec.public}
    assert not [name for name in internal if name in json.dumps(told)]


def test_chronicle_sends_what_others_read(told: dict[str, Any]) -> None:
    """Every message of every channel is in an operation; only a change of the feed's filter is received."""
    told_of: dict[str, set[str]] = {"send": set(), "receive": set()}
    for operation in told["operations"].values():
        told_of[operation["action"]] |= {one["$ref"] for one in operation["messages"]}
    every = {f"#/channels/{name}/messages/{key}" for name, one in told["channels"].items() for key in one["messages"]}
    assert told_of["send"] | told_of["receive"] == every
    assert told_of["receive"] == {"#/channels/live/messages/LiveChange"}


def test_a_new_public_topic_must_be_told() -> None:
    """Making one public without saying what it holds is an error, not an empty channel."""
    opened = msgspec.structs.replace(TOPICS, control=msgspec.structs.replace(TOPICS.control, public=True))
    with pytest.raises(LookupError):
        document(opened, registry(opened), VERSION)


def test_what_is_told_is_public() -> None:
    """The other way round: a topic that became internal leaves the document, and its messages go with it."""
    assert set(messages(TOPICS, registry(TOPICS))) == set(TOPICS.public())


def test_the_avro_schema_is_the_newest_of_the_registry(told: dict[str, Any]) -> None:
    """Inlined as JSON, as the multi-format schema object asks, and one that Avro takes."""
    payload = told["channels"]["events"]["messages"]["HookEvent"]["payload"]
    versions = registry(TOPICS).subject(f"{TOPICS.events.name}-value")
    assert versions is not None
    assert payload["schema"] == versions[-1].parsed()
    assert payload["schemaFormat"].startswith("application/vnd.apache.avro;version=")
    fastavro.parse_schema(payload["schema"])


def test_the_avro_example_is_an_event(told: dict[str, Any]) -> None:
    """In Avro's JSON encoding; the codec takes it."""
    message = told["channels"]["events"]["messages"]["HookEvent"]
    plain = json.loads(json.dumps(message["payload"]["schema"]), object_hook=without_logical_type)
    (fields,) = fastavro.json_reader(StringIO(json.dumps(message["examples"][0]["payload"])), plain)
    event = from_fields(cast("dict[str, Any]", fields))
    assert AvroCodec().decode(AvroCodec().encode(event)) == event


def without_logical_type(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "logicalType"}


def test_examples_fit_what_they_are_examples_of(told: dict[str, Any]) -> None:
    """Payload and headers; and a payload fits one message of its channel, no other: clients tell them apart by it."""
    shown = 0
    for name, channel in told["channels"].items():
        plain = {key: one for key, one in channel["messages"].items() if "schemaFormat" not in one["payload"]}
        for key, message in channel["messages"].items():
            for example in message.get("examples", ()):
                shown += 1
                if "headers" in example:
                    validator(told, message["headers"]).validate(example["headers"])
                if key in plain:
                    fits = [other for other, one in plain.items() if fit(told, one["payload"], example["payload"])]
                    assert fits == [key], name
    assert shown == 7


def fit(told: dict[str, Any], schema: dict[str, Any], value: Any) -> bool:
    return validator(told, schema).is_valid(value)


def test_every_message_of_a_topic_has_an_example_or_no_value(told: dict[str, Any]) -> None:
    """Whoever writes a consumer sees one of each."""
    for name in ("events", "deadLetters", "aggregates"):
        for key, message in told["channels"][name]["messages"].items():
            assert "examples" in message or message["payload"] == {"type": "null"}, key


def test_the_keys_of_real_records_fit_one_message_each(told: dict[str, Any]) -> None:
    """What an event touches in every table, the names, and the clock."""
    kinds = {
        name: message["bindings"]["kafka"]["key"]
        for name, message in told["channels"]["aggregates"]["messages"].items()
        if name != "AggregateEnded"
    }
    found = set()
    for key in [*keys(EVENT, EVENT.occurred_at), names_key("project"), CLOCK]:
        packed = json.loads(pack_key(key))
        fits = [name for name, schema in kinds.items() if fit(told, schema, packed)]
        assert len(fits) == 1, packed
        found.add(fits[0])
    assert found == set(kinds)


def test_every_field_has_its_words(told: dict[str, Any]) -> None:
    """And no words are left of a field that is gone."""
    for kind, (_, fields) in WORDS.items():
        assert set(fields) == set(kind.__struct_encode_fields__), kind
        schema = told["components"]["schemas"][kind.__name__]
        assert all(part["description"] for part in schema["properties"].values())
        assert set(schema["required"]) == set(fields)
    words = told["components"]["schemas"]["DeadLetter"]["properties"]["cause"]["description"]
    assert all(cause in words for cause in CAUSES)


def test_the_feed_takes_the_parameters_of_its_route(told: dict[str, Any]) -> None:
    """The query of the WebSocket's handshake."""
    binding = told["channels"]["live"]["bindings"]["ws"]
    assert binding["method"] == "GET"
    assert set(binding["query"]["properties"]) == {param.name for param in PARAMS}


async def test_it_is_served() -> None:
    """Beside /openapi.json, under the names of this installation."""
    async with serving(all_routes()) as client, client.get("/asyncapi.json") as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        told = await answer.json()
    assert told["channels"]["events"]["address"] == TOPICS.events.name


async def test_no_address_of_the_installation_is_told(tmp_path: Path) -> None:
    """Brokers, database and names of the server stay where they are."""
    house = build(
        Settings.load(
            state_dir=tmp_path,
            worker={"roles": ROLES, "name": "docs"},
            kafka={"brokers": "secret-broker.example:9999", "prefix": "mine"},
            database={"url": "postgresql://secret-user@secret-db.example/x"},
        )
    )
    (route,) = [route for route in house.routes if route.path == "/asyncapi.json"]
    answer = cast("Any", await route.handler(cast("Any", None)))
    text = answer.body.decode()
    assert "mine.events" in text
    assert "secret" not in text
    assert set(re.findall(r"\b[\w.-]+:\d{4,5}\b", text)) <= {"127.0.0.1:9092", "127.0.0.1:8000"}
