"""Tool calls of a session in SQL, page by page: what a page costs does not grow with the calls before or behind it.

The view `tool_calls` groups a whole session, so asking it for each page would read the session once a page. Here
  1. the ends of calls are walked in order of time (`ix_events_session`), from the cursor on,
  2. the calls of these ends are put together by their ids (`ix_events_call`), without payloads; a call stands where it
     began (where that is not known: ended), so of its ends only the one at that place gives it out,
  3. what the payloads tell is read for the calls of the page alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from connectors.model import Id, Micros
from connectors.readers import paging, shape
from connectors.readers.dialect import bytewise
from schemas.query import CallFilter, Cursor, Page

Row = Mapping[str, Any]
#: Runs a query (`SqlReader.rows`).
Rows = Callable[[sa.Executable], Awaitable[Sequence[Row]]]
#: Ends that one step looks at, at least, and steps of a page: one that finds too little ends early, and goes on.
FEWEST, STEPS = 200, 20

#: The view `tool_events` (migration 0004): one row for each end of a call.
tool_events: Final = sa.table(
    "tool_events",
    sa.column("event_id", Id),
    sa.column("session_id", sa.Text),
    sa.column("agent_id", sa.Text),
    sa.column("agent_type", sa.Text),
    sa.column("tool_name", sa.Text),
    sa.column("tool_use_id", sa.Text),
    sa.column("phase", sa.Text),
    sa.column("success", sa.Boolean),
    sa.column("execution_time_ms", sa.BigInteger),
    sa.column("error_message", sa.Text),
    sa.column("created_at", Micros),
)
_T: Final = tool_events.c
#: Said with a value, not with a parameter: Postgres takes two parameters for two expressions, and groups by neither.
_AGENT: Final = sa.func.coalesce(_T.agent_id, sa.literal_column("''"))
_CALL: Final = sa.func.coalesce(_T.tool_use_id, sa.cast(_T.event_id, sa.Text))
_PRE: Final = _T.phase == "pre"
_FAILED: Final = sa.case((_PRE, sa.null()), (_T.success, 0), else_=1)


class _Place(NamedTuple):
    """Where a list of calls goes on."""

    at: int
    agent: str
    call: str


class _Found(NamedTuple):
    """Calls in the order they were met; `here`: where the next step begins, None when there is nothing more."""

    calls: list[dict[str, Any]]
    here: _Place | None


async def calls(rows: Rows, wanted: CallFilter) -> Page:
    """A page. Where a filter lets little through it may be short, or empty, and go on all the same."""
    cursor, up = wanted.cursor, paging.upwards(wanted.cursor, wanted.ascending)
    found = await _walk(rows, wanted, None if cursor is None else _place(cursor), up)
    await _tell(rows, wanted.session_id, found.calls[: wanted.limit])
    page = paging.page(found.calls, wanted.limit, shape.call, shape.call_cursor, cursor)
    if found.here is None or len(found.calls) > wanted.limit:
        return page
    return _goes_on(page, found.here, back=cursor is not None and cursor.back)


def call_key(cursor: Cursor) -> tuple[str, str]:
    """(agent_id, call_id) out of the cursor of a call. Raises `Refused`."""
    try:
        return msgspec.json.decode(cursor.id, type=tuple[str, str])
    except (msgspec.MsgspecError, ValueError):
        paging.refuse()


def _place(cursor: Cursor) -> _Place:
    return _Place(paging.instant(cursor), *call_key(cursor))


def _goes_on(page: Page, here: _Place, *, back: bool) -> Page:
    on = Cursor(here.at, msgspec.json.encode((here.agent, here.call)).decode(), back)
    return msgspec.structs.replace(page, **{"previous" if back else "next": on})


async def _walk(rows: Rows, wanted: CallFilter, here: _Place | None, up: bool) -> _Found:
    size, found = max(FEWEST, 2 * (wanted.limit + 1)), list[dict[str, Any]]()
    for _ in range(STEPS):
        ends = await rows(_ends(wanted.session_id, here, up, size))
        put_together = await _put_together(rows, wanted.session_id, ends)
        found += [call for call in put_together if _is_wanted(call, wanted)]
        if len(ends) < size:
            return _Found(found, None)
        here = _Place(ends[-1]["created_at"], ends[-1]["agent"], ends[-1]["call"])
        if len(found) > wanted.limit:
            break
    return _Found(found[: wanted.limit + 1], here)


def _is_wanted(call: Row, wanted: CallFilter) -> bool:
    named = not wanted.tool_name or call["tool_name"] in wanted.tool_name
    return named and (wanted.success is None or call["success"] is wanted.success)


async def _put_together(rows: Rows, session_id: str, ends: Sequence[Row]) -> list[dict[str, Any]]:
    """The calls that stand at the place of one of these ends, each once, in their order."""
    ids = list(dict.fromkeys(end["tool_use_id"] for end in ends if end["tool_use_id"] is not None))
    known = {(row["agent"], row["tool_use_id"]): row for row in await rows(_of_ids(session_id, ids))} if ids else {}
    found: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for end in ends:
        row = _alone(end) if end["tool_use_id"] is None else known.get((end["agent"], end["tool_use_id"]))
        if row is not None and shape.call_began(row) == end["created_at"]:
            key = (end["agent"], end["call"], end["tool_use_id"] is None)
            found.setdefault(key, _call(session_id, end, row))
    return list(found.values())


def _alone(end: Row) -> dict[str, Any]:
    """A call without an id is that one end."""
    began = end["phase"] == "pre"
    return {
        "agent_type": end["agent_type"],
        "tool_name": end["tool_name"],
        "started_at": end["created_at"] if began else None,
        "ended_at": None if began else end["created_at"],
        "failed": end["failed"],
    }


def _call(session_id: str, end: Row, row: Row) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "agent_id": end["agent"],
        "call_id": end["call"],
        "agent_type": row["agent_type"],
        "tool_name": row["tool_name"],
        "tool_use_id": end["tool_use_id"],
        "started_at": row["started_at"],
        "ended_at": row["ended_at"],
        "success": None if row["failed"] is None else not row["failed"],
        "event_id": end["event_id"],
    }


async def _tell(rows: Rows, session_id: str, found: Sequence[dict[str, Any]]) -> None:
    """Put what the payloads tell into the calls."""
    with_id = [call["tool_use_id"] for call in found if call["tool_use_id"] is not None]
    alone = [call["event_id"] for call in found if call["tool_use_id"] is None]
    told: dict[Any, Row] = {}
    for column, ids in ((_T.tool_use_id, with_id), (_T.event_id, alone)):
        for row in await rows(_told(session_id, column, ids)) if ids else ():
            told[row["agent"], row["id"]] = row
    for call in found:
        id = call["event_id"] if call["tool_use_id"] is None else call["tool_use_id"]
        row = told.get((call["agent_id"], id), {})
        call |= {name: row.get(name) for name in ("execution_time_ms", "error_message")}


# --- the statements --------------------------------------------------------------------------------------------------


def _ends(session_id: str, here: _Place | None, up: bool, size: int) -> sa.Select[Any]:
    """Ends of calls in order of time, behind `here`."""
    columns = (_T.event_id, _T.agent_type, _T.tool_name, _T.tool_use_id, _T.phase, _T.created_at)
    query = sa.select(*columns, _FAILED.label("failed"), _AGENT.label("agent"), _CALL.label("call"))
    keys = (_T.created_at, bytewise(_AGENT), bytewise(_CALL))
    query = query.where(_T.session_id == session_id)
    if here is not None:
        at, place = sa.literal(here.at, Micros()), sa.tuple_(*keys)
        there = sa.tuple_(at, sa.literal(here.agent, sa.Text()), sa.literal(here.call, sa.Text()))
        query = query.where(_T.created_at >= at if up else _T.created_at <= at, place > there if up else place < there)
    return query.order_by(*(key.asc() if up else key.desc() for key in keys)).limit(size)


def _of_ids(session_id: str, ids: Sequence[str]) -> sa.Select[Any]:
    """The calls with these ids, without what payloads tell."""
    columns = (
        _AGENT.label("agent"),
        _T.tool_use_id,
        sa.func.max(bytewise(_T.agent_type)).label("agent_type"),
        sa.func.max(bytewise(_T.tool_name)).label("tool_name"),
        sa.func.min(_T.created_at).filter(_PRE).label("started_at"),
        sa.func.max(_T.created_at).filter(sa.not_(_PRE)).label("ended_at"),
        sa.func.max(_FAILED).label("failed"),
    )
    query = sa.select(*columns).where(_T.session_id == session_id, _T.tool_use_id.in_(ids))
    return query.group_by(_AGENT, _T.tool_use_id)


def _told(session_id: str, column: Any, ids: Sequence[Any]) -> sa.Select[Any]:
    """What the payloads of these calls tell."""
    error = sa.func.max(bytewise(_T.error_message)).label("error_message")
    columns = (_AGENT.label("agent"), column.label("id"), sa.func.max(_T.execution_time_ms).label("execution_time_ms"))
    query = sa.select(*columns, error).where(_T.session_id == session_id, column.in_(ids))
    return query.group_by(_AGENT, column)
