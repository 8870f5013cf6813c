"""An AsyncAPI 3.0 document from the topic declarations: what is declared public is what is told. Pure.

It describes Chronicle, so a consumer reads an operation `send` as what it receives. It names no address of an
installation: hosts are variables whose defaults are those of `chronicle up`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from app.asyncapi_messages import JSON, Message, messages
from app.asyncapi_words import worded
from app.views import shapes_live
from app.views.live import PARAMS
from connectors.topics import MAX_MESSAGE_BYTES, partitions_of
from schemas.registry import Registry
from schemas.topics import Topics, TopicSpec

Object = dict[str, Any]

#: Versions of the bindings, from github.com/asyncapi/bindings.
KAFKA_BINDING: Final = "0.5.0"
WS_BINDING: Final = "0.1.0"
BROKER: Final = "127.0.0.1:9092"
API: Final = "127.0.0.1:8000"

_TITLES: Final[Mapping[str, str]] = {
    "events": "The public stream",
    "dead_letters": "Dead letters",
    "aggregates": "The aggregate tables",
}


def document(topics: Topics, registry: Registry, version: str) -> Object:
    """The whole document. Raises `LookupError` for a public topic whose messages nobody has told."""
    told = messages(topics, registry)
    for role, spec in topics.public().items():
        if role not in told:
            raise LookupError(f"{spec.name} is public: tell its messages in app/asyncapi_messages.py")
    payloads, components = _schemas([*(one.payload for kinds in told.values() for one in kinds), *_LIVE])
    channels, operations = {}, {}
    for role, spec in topics.public().items():
        name = _camel(role)
        channels[name] = _channel(role, spec, partitions_of(spec, topics.all()), told[role], payloads)
        operations[f"send{name[:1].upper()}{name[1:]}"] = _operation("send", name, spec.doc, channels[name]["messages"])
    channels["live"] = _live(payloads)
    operations["sendLive"] = _operation("send", "live", "What is watched, as it flows", _names(shapes_live.SENT))
    operations["receiveLive"] = _operation("receive", "live", "A change of the filter", _names(shapes_live.TAKEN))
    return {
        "asyncapi": "3.0.0",
        "info": _info(version),
        "defaultContentType": JSON,
        "servers": _servers(),
        "channels": channels,
        "operations": operations,
        "components": {"schemas": worded(components)},
    }


def _info(version: str) -> Object:
    return {
        "title": "Chronicle",
        "version": version,
        "description": "Hook events in Kafka, each once; counts that are kept while they flow; what could not be "
        "stored. Names of topics begin with the prefix of the installation. The same process serves its HTTP API "
        "(/openapi.json) and a read-only schema registry in Confluent's form.",
        "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        "tags": [{"name": "topics"}, {"name": "live"}],
    }


def _servers() -> Object:
    return {
        "kafka": {
            "host": "{broker}",
            "protocol": "kafka",
            "description": "The brokers are told by whoever runs them. The schema registry is the HTTP API of "
            "Chronicle: put the address you have it from in place of the one told here.",
            "variables": {"broker": {"default": BROKER, "description": "host:port of a broker."}},
            "bindings": {
                "kafka": {
                    "schemaRegistryUrl": f"http://{API}",
                    "schemaRegistryVendor": "confluent",
                    "bindingVersion": KAFKA_BINDING,
                }
            },
        },
        "api": {
            "host": "{api}",
            "protocol": "ws",
            "description": "The HTTP API of Chronicle; wss behind a proxy that ends TLS.",
            "variables": {"api": {"default": API, "description": "host:port that you have this document from."}},
        },
    }


def _channel(
    role: str, spec: TopicSpec, partitions: int, kinds: Sequence[Message], payloads: Mapping[int, Any]
) -> Object:
    return {
        "address": spec.name,
        "title": _TITLES.get(role, spec.name),
        "description": _sentence(spec.doc),
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": {one.name: _message(one, payloads[id(one.payload)]) for one in kinds},
        "tags": [{"name": "topics"}],
        "bindings": {
            "kafka": {
                "partitions": partitions,
                "topicConfiguration": {
                    "cleanup.policy": [spec.cleanup],
                    "retention.ms": spec.retention_ms,
                    "max.message.bytes": MAX_MESSAGE_BYTES,
                },
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }


def _message(one: Message, payload: Any) -> Object:
    binding: Object = {"key": one.key, "bindingVersion": KAFKA_BINDING}
    if one.framed:  # 0x00, then the id in four bytes: Confluent's frame
        binding |= {"schemaIdLocation": "payload", "schemaIdPayloadEncoding": "confluent"}
    told: Object = {
        "name": one.name,
        "title": one.title,
        "summary": one.summary,
        "contentType": one.content_type,
        "payload": payload,
        "bindings": {"kafka": binding},
    }
    if one.headers is not None:
        told["headers"] = one.headers
    if one.example is not None:
        shown, headers = one.example
        told["examples"] = [{"name": one.name, "payload": shown} | ({"headers": dict(headers)} if headers else {})]
    return told


def _operation(action: str, channel: str, summary: str, names: Iterable[str]) -> Object:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": _sentence(summary),
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
    }


# --- the live feed ---------------------------------------------------------------------------------------------------

_LIVE: Final = (*shapes_live.SENT, *shapes_live.TAKEN)


def _live(payloads: Mapping[int, Any]) -> Object:
    query = {param.name: param.schema | {"description": param.doc} for param in PARAMS}
    return {
        "address": "/ws/events",
        "title": "The live feed",
        "description": "Events as they flow, one JSON object a message; `type` says what it is.",
        "servers": [{"$ref": "#/servers/api"}],
        "messages": {
            kind.__name__: {"name": kind.__name__, "summary": kind.__doc__, "payload": payloads[id(kind)]}
            for kind in _LIVE
        },
        "tags": [{"name": "live"}],
        "bindings": {
            "ws": {
                "method": "GET",
                "query": {"type": "object", "properties": query, "additionalProperties": False},
                "bindingVersion": WS_BINDING,
            }
        },
    }


def _names(kinds: Iterable[type]) -> list[str]:
    return [kind.__name__ for kind in kinds]


# --- schemas ---------------------------------------------------------------------------------------------------------


def _schemas(payloads: Sequence[Any]) -> tuple[dict[int, Any], dict[str, Any]]:
    """The schema of each payload by the id of the payload, and the named ones. A payload that is a schema stays."""
    types = [payload for payload in payloads if not isinstance(payload, dict)]
    found, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    plain = {id(payload): payload for payload in payloads if isinstance(payload, dict)}
    return plain | {id(kind): schema for kind, schema in zip(types, found, strict=True)}, dict(components)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _camel(role: str) -> str:
    """`dead_letters` -> `deadLetters`: code is made from these names."""
    first, *rest = role.split("_")
    return first + "".join(word.capitalize() for word in rest)
