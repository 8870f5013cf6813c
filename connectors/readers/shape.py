"""Rows of the tables as the API shows them. Pure.

A row maps column names to the Python values of `connectors.model`: times are integer microseconds, ids are `UUID`.
`payload`, `payload_raw` and `metadata` are JSON *texts* and go into the answer as they are, never parsed and dumped.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import msgspec

from schemas.event import Flag, IdOrigin
from schemas.query import Cursor, SessionSort
from schemas.times import EPOCH, MICROSECOND

Row = Mapping[str, Any]

#: The first instant of the year 1, and the latest that can be written as a date: 9999-12-31T23:59:59.999999Z.
MIN_MICROS, MAX_MICROS = -62_135_596_800_000_000, 253_402_300_799_999_999


def iso(micros: int | None) -> str | None:
    """`2026-01-31T09:30:00.123456Z`; always six digits, so that texts sort as times do.

    A time that no date can tell, which only a record of somebody else can have, shows as the first or last one.
    """
    if micros is None:
        return None
    instant = EPOCH + min(max(micros, MIN_MICROS), MAX_MICROS) * MICROSECOND
    return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")


def flag_names(flags: int) -> list[str]:
    """The names of the set bits, in lower case."""
    return [str(flag.name).lower() for flag in Flag if flags & flag]


def event(row: Row) -> dict[str, Any]:
    """An event. The payload is the text as it was sent wherever the database could not keep it as it is."""
    return {
        "event_id": str(row["event_id"]),
        "session_id": row["session_id"],
        "event_type": row["event_type"],
        "hook_event_name": row["hook_event_name"],
        "occurred_at": iso(row["occurred_at"]),
        "received_at": iso(row["received_at"]),
        "stored_at": iso(row["stored_at"]),
        "source": row["source"],
        "tool_name": row["tool_name"],
        "tool_use_id": row["tool_use_id"],
        "agent_id": row["agent_id"],
        "agent_type": row["agent_type"],
        "prompt_id": row["prompt_id"],
        "cwd": row["cwd"],
        "id_origin": IdOrigin(row["id_origin"]).name.lower(),
        "suspected_duplicate_of": text(row["suspected_duplicate_of"]),
        "flags": flag_names(row["flags"] or 0),
        "position": {"partition": row["ingest_partition"], "offset": row["ingest_offset"]},
        "payload": _raw(row["payload_raw"] if row["payload_raw"] is not None else row["payload"]),
        "metadata": _raw(row["metadata"]),
    }


SESSION_FIELDS = (
    "session_id",
    "source",
    "project",
    "machine",
    "cwd",
    "git_branch",
    "git_commit",
    "status",
    "event_count",
)
SESSION_TIMES = ("first_event_at", "last_event_at", "started_at", "ended_at")


def session(row: Row) -> dict[str, Any]:
    """A session's roll-up."""
    return {name: row[name] for name in SESSION_FIELDS} | {name: iso(row[name]) for name in SESSION_TIMES}


def call(row: Row) -> dict[str, Any]:
    """A tool call. `duration_ms` is the time between the hooks, `execution_time_ms` what the client told."""
    began, ended = row["started_at"], row["ended_at"]
    return {
        "session_id": row["session_id"],
        "agent_id": row["agent_id"] or None,
        "agent_type": row["agent_type"],
        "tool_name": row["tool_name"],
        "tool_use_id": row["tool_use_id"],
        "started_at": iso(began),
        "ended_at": iso(ended),
        "duration_ms": None if began is None or ended is None else (ended - began) / 1000,
        "execution_time_ms": row["execution_time_ms"],
        "success": None if row["success"] is None else bool(row["success"]),
        "error_message": row["error_message"],
    }


def dead_letter(row: Row, *, with_bytes: bool = False) -> dict[str, Any]:
    """A dead letter; key and value as base64 only when asked for."""
    shown = {
        "id": letter_id(row),
        "topic": row["topic"],
        "partition": row["partition"],
        "offset": row["offset"],
        "position": position(row["ingest_partition"], row["ingest_offset"]),
        "stage": row["stage"],
        "cause": row["cause"],
        "detail": row["detail"],
        "event_id": text(row["event_id"]),
        "session_id": row["session_id"],
        "failed_at": iso(row["failed_at"]),
        "resolved_at": iso(row["resolved_at"]),
        "replayed_as": text(row["replayed_as"]),
    }
    return shown | {"key": base64_of(row["key"]), "value": base64_of(row["value"])} if with_bytes else shown


def duplicate(row: Row) -> dict[str, Any]:
    """One copy of an event that the primary key turned away."""
    at = position(row["ingest_partition"], row["ingest_offset"])
    return {"position": at, "recorded_at": iso(row["recorded_at"])}


def letter_id(row: Row) -> str:
    """`topic/partition/offset`."""
    return f"{row['topic']}/{row['partition']}/{row['offset']}"


def split_letter_id(id: str) -> tuple[str, int, int] | None:
    """The parts of `topic/partition/offset`; None when it is not one."""
    topic, _, rest = id.partition("/")
    partition, _, offset = rest.partition("/")
    if not (topic and partition.isascii() and partition.isdigit() and offset.isascii() and offset.isdigit()):
        return None
    return (topic, int(partition), int(offset)) if int(partition) < 2**31 and int(offset) < 2**63 else None


def position(partition: int | None, offset: int | None) -> dict[str, int] | None:
    """A place in `chronicle.ingest`."""
    return None if partition is None or offset is None else {"partition": partition, "offset": offset}


def event_cursor(row: Row) -> Cursor:
    """Where a list of events goes on after this row."""
    return Cursor(row["occurred_at"], str(row["event_id"]))


def session_cursor(sort: SessionSort) -> Callable[[Row], Cursor]:
    """Where a list of sessions in this order goes on after a row."""
    return lambda row: Cursor(row[sort], row["session_id"])


def call_cursor(row: Row) -> Cursor:
    """Where a list of tool calls goes on after this row."""
    return Cursor(call_began(row), msgspec.json.encode((row["agent_id"], row["call_id"])).decode())


def call_began(row: Row) -> int:
    """By what calls are in order: when they began, or, where that is not known, ended; µs."""
    began: int = row["ended_at"] if row["started_at"] is None else row["started_at"]
    return began


def letter_cursor(row: Row) -> Cursor:
    """Where a list of dead letters goes on after this row."""
    return Cursor(row["failed_at"], letter_id(row))


def text(id: UUID | None) -> str | None:
    """An id as text."""
    return None if id is None else str(id)


def _raw(json: str | None) -> msgspec.Raw:
    return msgspec.Raw((json or "{}").encode())


def base64_of(value: bytes | None) -> str | None:
    """Bytes as text."""
    return None if value is None else base64.b64encode(value).decode()
