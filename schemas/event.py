"""HookEvent, the one value that walks through the house, and where it stands in the log."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from uuid import UUID

import msgspec


class IdOrigin(IntEnum):
    """Where `event_id` came from; the order is the order of the Avro symbols."""

    CLIENT = 0
    NATURAL = 1
    FRESH = 2


class Flag(IntFlag):
    """What was done to an event on the way in."""

    REDACTED = 1
    TRUNCATED = 2
    SANITIZED = 4
    DUPLICATE_KEYS = 8


class HookEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One hook event as it is carried and stored.

    Times are microseconds since the epoch, UTC. `payload` and `metadata` are JSON texts (objects), valid UTF-8, with
    escape sequences as the client wrote them. `fingerprint` is 16 bytes.
    """

    event_id: UUID
    fingerprint: bytes
    id_origin: IdOrigin
    session_id: str
    event_type: str
    occurred_at: int
    received_at: int
    source: str
    payload: str
    hook_event_name: str | None = None
    tool_name: str | None = None
    tool_use_id: str | None = None
    agent_id: str | None = None
    agent_type: str | None = None
    prompt_id: str | None = None
    cwd: str | None = None
    suspected_duplicate_of: UUID | None = None
    flags: int = 0
    metadata: str = "{}"


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in a topic: the sequence of an event is its `Position` in `chronicle.ingest`."""

    partition: int
    offset: int


class LoggedEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event read from `chronicle.events`, with both of its places and the record it came from.

    `ingest` is its place in `chronicle.ingest`, `events` in `chronicle.events`; `value` is the framed Avro record.
    """

    event: HookEvent
    ingest: Position
    events: Position
    value: bytes


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A record that could not be decoded or stored, with its bytes.

    `topic`, `partition`, `offset` say where it was read and are its key (a replay makes no second one). `ingest` is
    None for a record that did not come through `chronicle.ingest`. `cause` is one of `schemas.topics.CAUSES`.
    `stage` is dedupe or persist. `failed_at` is microseconds since the epoch.
    """

    topic: str
    partition: int
    offset: int
    ingest: Position | None
    stage: str
    cause: str
    detail: str
    key: bytes | None
    value: bytes | None
    failed_at: int
    event_id: UUID | None = None
    session_id: str | None = None
