"""The queries, once for both databases: SQLAlchemy Core over `connectors.model`, keyset paging, never OFFSET. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from connectors.model import Id, Micros, dead_letters, duplicates, events, logs, sessions, sink_progress
from connectors.readers import conflicts, paging
from connectors.readers.dialect import bytewise
from connectors.readers.search import has_words
from schemas.query import EventFilter, SessionFilter

_BODIES: Final = ("payload", "payload_raw", "metadata")
_FACTS = [column for column in events.c if column.key not in {*_BODIES, "fingerprint"}]
#: Everything of an event the API shows; JSON columns as text, so that nobody parses and dumps them.
EVENT: Final = [
    *_FACTS,
    events.c.payload_raw,
    sa.cast(events.c.payload, sa.Text).label("payload"),
    sa.cast(events.c.metadata, sa.Text).label("metadata"),
]
_NO_BODIES: Final = [
    sa.null().label("payload_raw"),
    sa.literal_column("'{}'").label("payload"),
    sa.literal_column("'{}'").label("metadata"),
]
LETTER: Final = [column for column in dead_letters.c if column.key not in {"key", "value"}]
#: Filters of events that ask for equality with a column.
EQUAL: Final = ("session_id", "source", "cwd", "agent_id", "agent_type", "prompt_id", "tool_use_id")
#: Those that ask for equality with a column of the session.
OF_SESSION: Final = ("project", "machine")


def events_page(wanted: EventFilter) -> sa.Select[Any]:
    """One row more than the page, so that the reader knows whether there is a next one."""
    table = events.c
    query = sa.select(*(EVENT if wanted.bodies else [*_FACTS, *_NO_BODIES]))
    query = query.where(*(table[name] == value for name in EQUAL if (value := getattr(wanted, name)) is not None))
    for column, values in ((table.event_type, wanted.event_type), (table.tool_name, wanted.tool_name)):
        query = query.where(column.in_(values)) if values else query
    query = _between(query, table.occurred_at, table.occurred_at, wanted.since, wanted.until)
    if wanted.ids:
        query = query.where(table.event_id.in_(wanted.ids))
    for name in OF_SESSION:
        if (value := getattr(wanted, name)) is not None:
            of_such = sa.select(sessions.c.session_id).where(sessions.c[name] == value)
            query = query.where(table.session_id.in_(of_such))
    if wanted.words:
        query = query.where(has_words(wanted.words))
    cursor = wanted.cursor
    place = (
        None
        if cursor is None
        else (sa.literal(paging.instant(cursor), Micros()), sa.literal(paging.uuid(cursor), Id()))
    )
    return _paged(
        query, (table.occurred_at, table.event_id), place, paging.upwards(cursor, wanted.ascending), wanted.limit
    )


def sessions_page(wanted: SessionFilter) -> sa.Select[Any]:
    """Sessions that had events between `since` and `until`."""
    table, columns = sessions.c, session_columns(wanted.idle_before)
    query = _between(sa.select(*columns), table.last_event_at, table.first_event_at, wanted.since, wanted.until)
    if wanted.status is not None:
        query = query.where(_status(wanted.idle_before) == wanted.status)
    for name in ("project", "machine", "source"):
        query = query.where(table[name] == value) if (value := getattr(wanted, name)) is not None else query
    key, cursor = table[wanted.sort], wanted.cursor
    place = None
    if cursor is not None:
        number = cursor.at if wanted.sort == "event_count" and 0 <= cursor.at < 1 << 63 else paging.instant(cursor)
        place = (sa.literal(number, key.type), sa.literal(cursor.id, sa.Text()))
    return _paged(
        query, (key, bytewise(table.session_id)), place, paging.upwards(cursor, wanted.ascending), wanted.limit
    )


def session_columns(idle_before: int | None) -> list[sa.ColumnElement[Any]]:
    """All of a session; one that has been idle since before that instant shows as ended with its last event."""
    told = [column for column in sessions.c if column.key not in {"status", "ended_at"}]
    if idle_before is None:
        return [*told, sessions.c.status, sessions.c.ended_at]
    ended = sa.case((_idle(idle_before), sessions.c.last_event_at), else_=sessions.c.ended_at)
    return [*told, _status(idle_before).label("status"), ended.label("ended_at")]


def letters_page(limit: int, after: str | None, cause: str | None) -> sa.Select[Any]:
    """Dead letters, latest first."""
    table = dead_letters.c
    query = sa.select(*LETTER)
    if cause is not None:
        query = query.where(table.cause == cause)
    return _letters_after(query, after, limit)


def conflicts_page(limit: int, after: str | None, still_open: bool) -> sa.Select[Any]:
    """Conflicts, latest first."""
    table = dead_letters.c
    query = conflicts.conflict_rows()
    if still_open:
        query = query.where(table.resolved_at.is_(None))
    return _letters_after(query, after, limit)


def _letters_after(query: sa.Select[Any], after: str | None, limit: int) -> sa.Select[Any]:
    table = dead_letters.c
    keys = (table.failed_at, bytewise(table.topic), table.partition, table.offset)
    place = None
    if after is not None:
        at, *parts = paging.letter(after)
        place = (sa.literal(at, Micros()), *(sa.literal(part) for part in parts))
    return _paged(query, keys, place, False, limit)


def persist_dead() -> sa.ColumnElement[bool]:
    """Letters of records that passed dedup: those before are in the counters of the dedup table.

    A letter that was put back into `chronicle.events` at its own position is on its way again and no longer dead.
    """
    table = dead_letters.c
    replaced = sa.and_(table.resolved_at.is_not(None), table.cause != "conflict")
    return sa.and_(table.stage == "persist", table.ingest_partition.is_not(None), sa.not_(replaced))


def letters_where(*conditions: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    """How many dead letters."""
    return sa.select(sa.func.count()).select_from(dead_letters).where(*conditions).scalar_subquery()


def ledger_query(unsynced: sa.ScalarSelect[int] | sa.ColumnElement[int]) -> sa.Select[Any]:
    """All counts in one statement, so that they are of one snapshot."""
    conflict = dead_letters.c.cause == "conflict"
    stored = sa.select(sa.func.coalesce(sa.func.sum(sink_progress.c.stored), 0)).scalar_subquery()
    return sa.select(
        sa.cast(stored, sa.BigInteger).label("stored"),
        sa.select(sa.func.count()).select_from(duplicates).scalar_subquery().label("duplicates"),
        letters_where(conflict, persist_dead()).label("rejected"),
        letters_where(sa.not_(conflict), persist_dead()).label("dead"),
        letters_where(dead_letters.c.resolved_at.is_(None)).label("dead_open"),
        letters_where(conflict, dead_letters.c.resolved_at.is_(None)).label("conflicts_open"),
        unsynced.label("unsynced"),
        sa.select(sa.func.coalesce(sa.func.max(logs.c.earlier), 0)).scalar_subquery().label("earlier"),
    )


def _between(
    query: sa.Select[Any], last: sa.Column[Any], first: sa.Column[Any], since: int | None, until: int | None
) -> sa.Select[Any]:
    if since is not None:
        query = query.where(last >= since)
    return query if until is None else query.where(first < until)


def _paged(
    query: sa.Select[Any], keys: Sequence[Any], place: Sequence[Any] | None, ascending: bool, limit: int
) -> sa.Select[Any]:
    if place is not None:
        here, there = sa.tuple_(*keys), sa.tuple_(*place)
        query = query.where(here > there if ascending else here < there)
    return query.order_by(*(key.asc() if ascending else key.desc() for key in keys)).limit(limit + 1)


def _idle(before: int) -> sa.ColumnElement[bool]:
    return sa.and_(sessions.c.status == "active", sessions.c.last_event_at < sa.literal(before, Micros()))


def _status(idle_before: int | None) -> sa.ColumnElement[str]:
    if idle_before is None:
        return sessions.c.status
    return sa.case((_idle(idle_before), sa.literal("terminated")), else_=sessions.c.status)
