"""A `Reader` over lists of rows, for tests and examples: the same answers as the databases give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from connectors.readers import conflicts, paging, shape
from connectors.readers.calls import calls_of
from connectors.readers.calls_sql import call_key
from connectors.readers.queries import EQUAL, OF_SESSION
from connectors.readers.search import TYPES, text_of
from connectors.readers.sql import LEDGER_FIELDS
from schemas.errors import Unavailable
from schemas.event import Position
from schemas.query import CallFilter, Cursor, EventFilter, Held, Page, Resolution, SessionFilter, Witnesses
from schemas.words import matches

MutableRow = dict[str, Any]


class MemoryReader:
    """Rows are dicts with the columns of `connectors.model`, put into the lists by hand. Set `away` for an outage."""

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.away: str | None = None
        self.event_rows: list[MutableRow] = []
        self.session_rows: list[MutableRow] = []
        self.letter_rows: list[MutableRow] = []
        self.duplicate_rows: list[MutableRow] = []
        self.next_offsets: dict[int, int] = {}
        self.stored: int | None = None
        #: As `SqliteReader.held` tells it.
        self.holds = Held("memory", 1)

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def probe(self) -> None:
        self._here()

    async def events(self, filter: EventFilter) -> Page:
        self._here()
        found = [_shown(row, filter) for row in self.event_rows if self._wanted(row, filter)]
        place = None if filter.cursor is None else (paging.instant(filter.cursor), paging.uuid(filter.cursor))
        keyed = [((row["occurred_at"], row["event_id"]), row) for row in found]
        return _page(keyed, place, filter, shape.event, shape.event_cursor)

    async def event(self, event_id: UUID) -> dict[str, Any] | None:
        self._here()
        return next((shape.event(row) for row in self.event_rows if row["event_id"] == event_id), None)

    async def sessions(self, filter: SessionFilter) -> Page:
        self._here()
        rows = [_aged(row, filter.idle_before) for row in self.session_rows]
        equal = {
            name: value
            for name in ("status", "project", "machine", "source")
            if (value := getattr(filter, name)) is not None
        }
        found = [
            row
            for row in rows
            if all(row[name] == value for name, value in equal.items())
            and (filter.since is None or row["last_event_at"] >= filter.since)
            and (filter.until is None or row["first_event_at"] < filter.until)
        ]
        place = None if filter.cursor is None else (paging.instant(filter.cursor), filter.cursor.id)
        keyed = [((row[filter.sort], row["session_id"]), row) for row in found]
        return _page(keyed, place, filter, shape.session, shape.session_cursor(filter.sort))

    async def session(self, session_id: str, *, idle_before: int | None = None) -> dict[str, Any] | None:
        self._here()
        found = (_aged(row, idle_before) for row in self.session_rows if row["session_id"] == session_id)
        return next((shape.session(row) for row in found), None)

    async def calls(self, filter: CallFilter) -> Page:
        self._here()
        found = [
            row
            for row in calls_of(row for row in self.event_rows if row["session_id"] == filter.session_id)
            if (not filter.tool_name or row["tool_name"] in filter.tool_name)
            and (filter.success is None or row["success"] is filter.success)
        ]
        cursor = filter.cursor
        place = None if cursor is None else (paging.instant(cursor), *call_key(cursor))
        keyed = [((shape.call_began(row), row["agent_id"], row["call_id"]), row) for row in found]
        return _page(keyed, place, filter, shape.call, shape.call_cursor)

    async def trace(self, event_id: UUID) -> dict[str, Any]:
        letters = [row for row in self.letter_rows if row["event_id"] == event_id]
        places = [row["events_offset"] for row in self.event_rows if row["event_id"] == event_id]
        marked = [str(row["event_id"]) for row in self.event_rows if row["suspected_duplicate_of"] == event_id]
        return {
            "event": await self.event(event_id),
            "events_offset": places[0] if places else None,
            "duplicates": [shape.duplicate(row) for row in self.duplicate_rows if row["event_id"] == event_id],
            "dead_letters": [shape.dead_letter(row) for row in letters],
            "suspected_duplicates": marked,
        }

    async def ledger(self) -> Mapping[str, int]:
        self._here()
        dead = [row for row in self.letter_rows if row["stage"] == "persist" and row["ingest_partition"] is not None]
        counted = [row for row in dead if row["cause"] == "conflict" or row["resolved_at"] is None]
        rejected = sum(row["cause"] == "conflict" for row in counted)
        still_open = sum(row["resolved_at"] is None for row in self.letter_rows)
        stored = len(self.event_rows) if self.stored is None else self.stored
        disputed = sum(row["cause"] == "conflict" and row["resolved_at"] is None for row in self.letter_rows)
        values = (stored, len(self.duplicate_rows), rejected, len(counted) - rejected, still_open, disputed, 0, 0)
        return dict(zip(LEDGER_FIELDS, values, strict=True))

    async def backlog(self) -> Mapping[str, int]:
        self._here()
        ledger = await self.ledger()
        return {name: ledger[name] for name in ("stored", "rejected", "dead")}

    async def held(self) -> Held:
        self._here()
        return self.holds

    async def progress(self) -> Mapping[int, int]:
        self._here()
        return dict(self.next_offsets)

    async def dead_letters(self, *, limit: int, after: str | None = None, cause: str | None = None) -> Page:
        self._here()
        found = [row for row in self.letter_rows if cause is None or row["cause"] == cause]
        keyed = [((row["failed_at"], row["topic"], row["partition"], row["offset"]), row) for row in found]
        place = None if after is None else paging.letter(after)
        return _page(keyed, place, EventFilter(limit=limit), shape.dead_letter, shape.letter_cursor)

    async def dead_letter(self, id: str) -> dict[str, Any] | None:
        self._here()
        found = (row for row in self.letter_rows if shape.letter_id(row) == id)
        return next((shape.dead_letter(row, with_bytes=True) for row in found), None)

    async def resolve_dead_letter(self, id: str, *, replayed_as: UUID | None, at: int) -> None:
        self._here()
        for row in self.letter_rows:
            if shape.letter_id(row) == id:
                row.update(resolved_at=at, replayed_as=replayed_as)

    async def conflicts(self, *, limit: int, after: str | None = None, still_open: bool = False) -> Page:
        self._here()
        found = [row for row in self._conflict_rows() if not (still_open and row["resolved_at"])]
        keyed = [((row["failed_at"], row["topic"], row["partition"], row["offset"]), row) for row in found]
        place = None if after is None else paging.letter(after)
        return _page(keyed, place, EventFilter(limit=limit), conflicts.conflict, shape.letter_cursor)

    async def conflicts_of(self, event_id: UUID) -> list[dict[str, Any]]:
        self._here()
        found = sorted(self._conflict_rows(), key=lambda row: -row["failed_at"])
        shown = ((row, conflicts.conflict(row)) for row in found if row["event_id"] == event_id)
        return [one | {"value": shape.base64_of(row["value"])} for row, one in shown]

    async def resolve_conflicts(self, wanted: Resolution) -> int:
        self._here()
        closed = 0
        for row in self.letter_rows:
            if shape.letter_id(row) in wanted.letters and row["resolved_at"] is None:
                row.update(resolved_at=wanted.at, strategy=wanted.strategy)
                closed += 1
        for event in self.event_rows if closed and wanted.payload is not None else ():
            if event["event_id"] == wanted.event_id:
                event.update(payload=wanted.payload, payload_raw=None)
        return closed

    async def witnesses(self, partition: int, first: int, last: int, ids: Sequence[UUID]) -> Witnesses:
        self._here()
        stored = {
            row["event_id"]: (Position(row["ingest_partition"], row["ingest_offset"]), row["fingerprint"])
            for row in self.event_rows
            if row["event_id"] in ids
        }
        letters = [
            (row["event_id"], place, row["cause"])
            for row in self.letter_rows
            if (place := _place(row)) is None
            or row["event_id"] in ids
            or (place.partition == partition and first <= place.offset <= last)
        ]
        return Witnesses(stored, letters)

    def _conflict_rows(self) -> list[MutableRow]:
        firsts = {row["event_id"]: row for row in self.event_rows}
        none = {"ingest_partition": None, "ingest_offset": None}
        return [
            {"strategy": None}
            | row
            | {f"first_{name}": firsts.get(row["event_id"], none)[f"ingest_{name}"] for name in ("partition", "offset")}
            for row in self.letter_rows
            if row["cause"] == "conflict"
        ]

    def _wanted(self, row: MutableRow, filter: EventFilter) -> bool:
        equal = {name: value for name in EQUAL if (value := getattr(filter, name)) is not None}
        sessions = {session["session_id"]: session for session in self.session_rows}
        of_session = {name: value for name in OF_SESSION if (value := getattr(filter, name)) is not None}
        return (
            all(row[name] == value for name, value in equal.items())
            and (not filter.event_type or row["event_type"] in filter.event_type)
            and (not filter.tool_name or row["tool_name"] in filter.tool_name)
            and (filter.since is None or row["occurred_at"] >= filter.since)
            and (filter.until is None or row["occurred_at"] < filter.until)
            and (not filter.ids or row["event_id"] in filter.ids)
            and all(sessions.get(row["session_id"], {}).get(name) == value for name, value in of_session.items())
            and (not filter.words or (row["event_type"] in TYPES and matches(_text(row), filter.words)))
        )

    def _here(self) -> None:
        if self.away is not None:
            raise Unavailable(self.name, self.away)


def _place(row: MutableRow) -> Position | None:
    return None if row["ingest_partition"] is None else Position(row["ingest_partition"], row["ingest_offset"])


def _page(
    keyed: list[tuple[Any, MutableRow]],
    place: tuple[Any, ...] | None,
    wanted: EventFilter | SessionFilter | CallFilter,
    show: Callable[[Mapping[str, Any]], dict[str, Any]],
    cursor: Callable[[Mapping[str, Any]], Cursor],
) -> Page:
    up = paging.upwards(wanted.cursor, wanted.ascending)
    ordered = sorted(keyed, key=lambda pair: pair[0], reverse=not up)
    rows = [row for key, row in ordered if place is None or (key > place if up else key < place)]
    return paging.page(rows[: wanted.limit + 1], wanted.limit, show, cursor, wanted.cursor)


def _aged(row: MutableRow, idle_before: int | None) -> MutableRow:
    if idle_before is None or row["status"] != "active" or row["last_event_at"] >= idle_before:
        return row
    return row | {"status": "terminated", "ended_at": row["last_event_at"]}


def _shown(row: MutableRow, filter: EventFilter) -> MutableRow:
    return row if filter.bodies else row | {"payload": "{}", "payload_raw": None, "metadata": "{}"}


def _text(row: MutableRow) -> str:
    return text_of(msgspec.json.decode(row["payload"]))
