"""The words of /asyncapi.json for the values of the public topics: what each is, and each of its fields. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas.event import DeadLetter, Position
from schemas.topics import CAUSES
from tables.usage import Names, SessionUse, ToolUse, Usage
from tables.usage_codec import NewestTime

Schema = dict[str, Any]

_AT: Final = {
    "at": "The highest offset of the ingest topic that is counted; -1 for none. A repeat changes nothing.",
    "foreign_at": "The same in the events topic, for records that did not come through Chronicle's intake.",
    "generation": "0, or when a rebuild wrote the value (epoch seconds).",
}
#: What a value is, and what each of its fields is.
WORDS: Final[Mapping[type[msgspec.Struct], tuple[str, Mapping[str, str]]]] = {
    Usage: (
        "Events and sessions of a bucket, in one partition.",
        {
            **_AT,
            "events": "Event type: how many. Beyond 200 types the rest counts as `other`.",
            "sessions": "A 48-bit mark for each session seen: join the sets of the partitions.",
            "more": "There were more than 5,000 sessions; not all of them are in `sessions`.",
        },
    ),
    ToolUse: (
        "Finished calls of a tool in a bucket, in one partition.",
        {
            **_AT,
            "calls": "How many ended.",
            "failures": "How many of them failed.",
            "durations": "An exponential histogram (OpenTelemetry's, scale 3): bucket i counts calls that took more "
            "than 2^(i/8) and up to 2^((i+1)/8) milliseconds. Histograms add up bucket by bucket.",
        },
    ),
    SessionUse: (
        "Everything of a session so far.",
        {
            **_AT,
            "first": "Its earliest event, microseconds since the epoch.",
            "last": "Its latest event, microseconds since the epoch.",
            "events": "Event type: how many.",
            "prompts": "How many prompts.",
            "tools": "Tool: [calls that ended, failures among them].",
            "agents": "The ids of its sub-agents.",
            "files": "Files that its tool calls wrote.",
            "open": "tool_use_id of each call that has not ended: when it began, microseconds since the epoch.",
        },
    ),
    Names: (
        "The names of a dimension that are told apart in one partition; the rest counts as `other`.",
        {**_AT, "names": "Name: the day it was last seen on, days since the epoch."},
    ),
    NewestTime: (
        "How far a partition has come.",
        {"newest": "The latest event time of the partition, microseconds since the epoch."},
    ),
    DeadLetter: (
        "A record that could not be decoded or stored.",
        {
            "topic": "Where it was read.",
            "partition": "Where it was read.",
            "offset": "Where it was read.",
            "ingest": "Its place in the ingest topic; null when it did not come through there.",
            "stage": "dedupe or persist.",
            "cause": f"One of {', '.join(CAUSES)}.",
            "detail": "A sentence of at most 500 characters, without the value.",
            "key": "The bytes of the record's key, base64.",
            "value": "The bytes of the record's value, base64.",
            "failed_at": "Microseconds since the epoch, UTC.",
            "event_id": "Where it could be read.",
            "session_id": "Where it could be read.",
        },
    ),
    Position: (
        "A place in a topic.",
        {"partition": "Number of the partition.", "offset": "Offset in it."},
    ),
}


def worded(schemas: Mapping[str, Schema]) -> dict[str, Schema]:
    """Component schemas with the words of `WORDS`; every field is required, because every field is written."""
    by_name = {kind.__name__: words for kind, words in WORDS.items()}
    return {name: _worded(schema, *by_name[name]) if name in by_name else schema for name, schema in schemas.items()}


def _worded(schema: Schema, about: str, fields: Mapping[str, str]) -> Schema:
    told = {name: field | {"description": fields[name]} for name, field in schema["properties"].items()}
    return schema | {"description": about, "properties": told, "required": list(told)}
