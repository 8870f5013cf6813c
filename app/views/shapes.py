"""The answers as types: what /openapi.json tells. The readers give plain dicts; a test holds them against these."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Instant = str


class LogPosition(msgspec.Struct):
    """A place in the ingest topic: the event's sequence."""

    partition: int
    offset: int


class Event(msgspec.Struct):
    """A stored event. `payload` and `metadata` are JSON objects; times are ISO 8601, UTC, with microseconds."""

    event_id: str
    session_id: str
    event_type: str
    hook_event_name: str | None
    occurred_at: Instant
    received_at: Instant
    stored_at: Instant
    source: str
    tool_name: str | None
    tool_use_id: str | None
    agent_id: str | None
    agent_type: str | None
    prompt_id: str | None
    cwd: str | None
    id_origin: Literal["client", "natural", "fresh"]
    suspected_duplicate_of: str | None
    flags: list[Literal["redacted", "truncated", "sanitized", "duplicate_keys"]]
    position: LogPosition
    payload: dict[str, Any]
    metadata: dict[str, Any]


class Session(msgspec.Struct):
    """A session, rolled up from its events."""

    session_id: str
    source: str
    project: str | None
    machine: str | None
    cwd: str | None
    git_branch: str | None
    git_commit: str | None
    status: Literal["active", "completed", "terminated", "error"]
    event_count: int
    first_event_at: Instant
    last_event_at: Instant
    started_at: Instant | None
    ended_at: Instant | None


class Hit(Event):
    """An event in which all words were found; `snippet` is the text around the first of them."""

    snippet: str


class ToolCall(msgspec.Struct):
    """A tool call; null is what is not known (yet). `success` is null while it runs.

    `duration_ms` is the time between the hooks, `execution_time_ms` what the client told.
    """

    session_id: str
    agent_id: str | None
    agent_type: str | None
    tool_name: str
    tool_use_id: str | None
    started_at: Instant | None
    ended_at: Instant | None
    duration_ms: float | None
    execution_time_ms: int | None
    success: bool | None
    error_message: str | None


class DeadLetter(msgspec.Struct, kw_only=True):
    """A record that could not be decoded or stored."""

    id: str
    topic: str
    partition: int
    offset: int
    position: LogPosition | None
    stage: str
    cause: str
    detail: str
    event_id: str | None
    session_id: str | None
    failed_at: Instant
    resolved_at: Instant | None
    replayed_as: str | None


class DeadLetterBytes(DeadLetter, kw_only=True):
    """A dead letter with its key and value as base64."""

    key: str | None
    value: str | None


class Page(msgspec.Struct, kw_only=True):
    """`next` and `previous` go into `cursor` of another request; `next` is null on the last page.

    `source` is the database that answered.
    """

    next: str | None
    previous: str | None
    source: Literal["postgres", "sqlite"]
    degraded: bool
    note: str | msgspec.UnsetType = msgspec.UNSET


class EventPage(Page, kw_only=True):
    """A page of events."""

    items: list[Event]


class HitPage(Page, kw_only=True):
    """A page of events that were searched for."""

    items: list[Hit]


class ToolCallPage(Page, kw_only=True):
    """A page of tool calls."""

    items: list[ToolCall]


class SessionPage(Page, kw_only=True):
    """A page of sessions."""

    items: list[Session]


class DeadLetterPage(Page, kw_only=True):
    """A page of dead letters."""

    items: list[DeadLetter]


class Hop(msgspec.Struct, kw_only=True):
    """One station of an event. `at` is null where no time is kept."""

    hop: Literal["received", "ingest_log", "public_log", "stored", "dead_letter"]
    at: Instant | None
    topic: str | None
    partition: int | None
    offset: int | None
    detail: str


class Copy(msgspec.Struct):
    """A repeat of an event that the primary key turned away."""

    position: LogPosition | None
    recorded_at: Instant


class Trace(msgspec.Struct, kw_only=True):
    """The whole way of one event, in walking order."""

    event_id: str
    session_id: str | None
    event_type: str | None
    outcome: Literal["stored", "dead"]
    source: str
    degraded: bool
    hops: list[Hop]
    suspected_duplicate_of: str | None
    suspected_duplicates: list[str]
    duplicates: list[Copy]
    dead_letters: list[DeadLetter]


class Replay(msgspec.Struct, kw_only=True):
    """How to replay a dead letter. A conflict needs `as_new_id`: its id belongs to the event that came first."""

    as_new_id: bool = False
    dry_run: bool = False


class Replayed(msgspec.Struct, kw_only=True):
    """`via` is the topic the record goes to; `resolved` is false for a dry run."""

    id: str
    via: str
    event_id: str | None
    resolved: bool
    dry_run: bool


class LedgerSum(msgspec.Struct, kw_only=True):
    """accepted = stored + duplicates + rejected + dead + pending + difference."""

    accepted: int
    stored: int
    duplicates: int
    rejected: int
    dead: int
    pending: int
    difference: int
    balanced: bool | None


class Stats(msgspec.Struct, kw_only=True):
    """The loss ledger. `stale` names parts that are older than `at`; while there is one, `balanced` is null."""

    ledger: LedgerSum
    parts: dict[str, dict[str, int]]
    source: str
    degraded: bool
    stale: list[str]
    dead_letters_open: int | None
    workers: dict[str, Any]
    at: Instant


class LogStretch(msgspec.Struct, kw_only=True):
    """Offsets [begin, end) of one partition of the ingest topic."""

    partition: int
    begin: int
    end: int


class Audit(msgspec.Struct, kw_only=True):
    """The loss ledger, and the stretches of the log that hold its records (one, when a session was named)."""

    ledger: LedgerSum
    parts: dict[str, dict[str, int]]
    source: str
    degraded: bool
    stale: list[str]
    at: Instant
    session_id: str | None
    log: list[LogStretch]


class Fates(msgspec.Struct, kw_only=True):
    """What became of records, counted one by one."""

    stored: int
    duplicates: int
    rejected: int
    dead: int
    pending: int
    missing: int


class Missing(msgspec.Struct, kw_only=True):
    """A record that is nowhere; `event_id` is null where its bytes do not tell one."""

    event_id: str | None
    partition: int
    offset: int


class AuditPage(msgspec.Struct, kw_only=True):
    """`read` records were read from `start` on; ask again with `start` = `next` until it is null."""

    partition: int
    start: int
    next: int | None
    end: int
    read: int
    records: Fates
    missing: list[Missing]


class Conflict(msgspec.Struct, kw_only=True):
    """Two events under one id. `first` is stored, `other` is the dead letter `letter`; places are of the ingest topic.

    `first` is null while the first event is not in the database that answers.
    """

    event_id: str
    letter: str
    session_id: str | None
    stage: str
    first: LogPosition | None
    other: LogPosition | None
    found_at: Instant
    resolved_at: Instant | None
    strategy: Literal["remote", "local", "merge", "manual", "new_id"] | None


class ConflictPage(Page, kw_only=True):
    """A page of conflicts."""

    items: list[Conflict]


class OtherSide(Conflict, kw_only=True):
    """A conflict with the event that came later; null where its bytes cannot be read any more."""

    event: dict[str, Any] | None


class Sides(msgspec.Struct, kw_only=True):
    """All that claim one id: the stored event, and those that came later, latest first."""

    event_id: str
    first: Event | None
    others: list[OtherSide]


class Resolve(msgspec.Struct, kw_only=True):
    """How to resolve the conflicts of an id; `letter` says which, when several are open; `payload` is for `manual`."""

    strategy: Literal["remote", "local", "merge", "manual"]
    letter: str | None = None
    payload: dict[str, Any] | None = None
    dry_run: bool = False


class Resolved(msgspec.Struct, kw_only=True):
    """`payload` is that of the stored event afterwards; `resolved` is false for a dry run."""

    event_id: str
    strategy: str
    letters: list[str]
    payload: dict[str, Any] | None
    changed: bool
    resolved: bool


class Health(msgspec.Struct, kw_only=True):
    """The process lives."""

    status: Literal["ok"]
    version: str
    uptime_s: float
    pid: int


class Check(msgspec.Struct, kw_only=True):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    remedy: str


class Ready(msgspec.Struct, kw_only=True):
    """May events be sent here?"""

    status: Literal["ready", "degraded", "starting", "down"]
    checks: list[Check]


class Index(msgspec.Struct, kw_only=True):
    """What this is and where to go."""

    name: str
    version: str
    links: dict[str, str]
