"""The aggregate tables themselves, row by row, as they stand in this process. No database is asked."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

import msgspec
from aiohttp.web import Request, Response

from app.views import respond
from app.views import shapes_analytics as shapes
from app.views.analytics import DIMENSIONS, INTERVAL, Span, tool_told, totals_told
from app.views.params import CURSOR, LIMIT, SINCE, UNTIL, Query, path_text
from app.views.route import Param, Route
from connectors.readers.shape import iso
from schemas.clock import Clock
from schemas.errors import Refused, Unavailable
from schemas.query import Cursor
from tables.usage import SECOND, SessionUse
from tables.usage_view import Figures, Point, ToolRow

#: Name -> what a row is.
TABLES: Final = {
    "usage": "events, prompts and sessions of a bucket, by dimension and value",
    "tools": "finished calls of a tool in a bucket, by dimension and value",
    "sessions": "everything of a session so far",
}
_NAME = Param(name="name", where="path", required=True, schema={"type": "string", "enum": list(TABLES)})
_DIMENSION = Param(
    name="dimension", schema={"type": "string", "enum": ["all", *DIMENSIONS]}, doc="Only this dimension."
)
_PARAMS = (INTERVAL, _DIMENSION, SINCE, UNTIL, LIMIT, CURSOR)

#: (number, text) it is ordered by, the largest first; and the row as it is shown.
Keyed = tuple[int, str, Callable[[], dict[str, Any]]]


class TableViews:
    """The handlers. `ready` says whether all that was in the topic has been read."""

    def __init__(self, figures: Figures, ready: Callable[[], bool], clock: Clock) -> None:
        self._figures, self._ready, self._clock = figures, ready, clock

    async def tables(self, request: Request) -> Response:
        Query(request)
        counts = self._current().counts()
        items = [{"name": name, "about": about, "keys": counts[name]} for name, about in TABLES.items()]
        return respond.json({"items": items}, headers={respond.SOURCE_HEADER: "stream"})

    async def table(self, request: Request) -> Response:
        name = path_text(request, "name")
        if name not in TABLES:
            raise Refused(404, "not_found", f"There is no table of this name; there are {', '.join(TABLES)}.")
        query = Query(request, _PARAMS)
        span = Span(query, self._clock.now(), "hour")
        rows = ROWS[name](self._current(), span, query.choice("dimension", ("all", *DIMENSIONS)))
        items, following = await asyncio.to_thread(page, rows, query.limit(), query.cursor())
        body = {"table": name, **span.told(), "items": items, "next": following and following.encode()}
        return respond.json(body, headers={respond.SOURCE_HEADER: "stream"})

    def _current(self) -> Figures:
        if not self._ready():
            raise Unavailable("aggregates", "The aggregate tables are still being read from the log.", retry_after=1)
        return self._figures


def page(rows: Iterable[Keyed], limit: int, after: Cursor | None) -> tuple[list[dict[str, Any]], Cursor | None]:
    """The first `limit` rows behind `after`, and where the list goes on; no more than a page is held."""
    behind = (row for row in rows if after is None or (row[0], row[1]) < (after.at, after.id))
    found = heapq.nlargest(limit + 1, behind, key=lambda row: row[:2])
    more = len(found) > limit
    return [shown() for _, _, shown in found[:limit]], Cursor(*found[limit - 1][:2]) if more else None


def _usage(figures: Figures, span: Span, wanted: str | None) -> Iterator[Keyed]:
    for bucket, dimension, value, point in figures.usage_rows(*span.asked):
        if wanted in (None, dimension):
            yield bucket, _key(dimension, value), partial(_usage_told, dimension, value, point)


def _tools(figures: Figures, span: Span, wanted: str | None) -> Iterator[Keyed]:
    for bucket, dimension, value, row in figures.tool_rows(*span.asked):
        if wanted in (None, dimension):
            yield bucket, _key(dimension, value, row.tool), partial(_tool_told, bucket, dimension, value, row)


def _sessions(figures: Figures, span: Span, _: str | None) -> Iterator[Keyed]:
    for last, session_id in figures.active(span.since * SECOND, span.until * SECOND):
        yield last, session_id, partial(session_told, figures, session_id)


ROWS: Final[dict[str, Callable[[Figures, Span, str | None], Iterator[Keyed]]]] = {
    "usage": _usage,
    "tools": _tools,
    "sessions": _sessions,
}


def _usage_told(dimension: str, value: str, point: Point) -> dict[str, Any]:
    place = {"bucket": _instant(point.bucket), "dimension": dimension, "value": value}
    return {**place, **totals_told(point), "types": point.events}


def _tool_told(bucket: int, dimension: str, value: str, row: ToolRow) -> dict[str, Any]:
    return {"bucket": _instant(bucket), "dimension": dimension, "value": value, **tool_told(row)}


def session_told(figures: Figures, session_id: str) -> dict[str, Any]:
    """A session's row; `open` are the calls that have begun and not ended."""
    use = figures.session(session_id) or SessionUse()
    tools = [{"name": name, "calls": calls, "failures": failures} for name, (calls, failures) in use.tools.items()]
    return {
        "session_id": session_id,
        "first_event_at": iso(use.first),
        "last_event_at": iso(use.last),
        "events": sum(use.events.values()),
        "types": use.events,
        "prompts": use.prompts,
        "tools": sorted(tools, key=lambda tool: (-tool["calls"], tool["name"])),
        "agents": len(use.agents),
        "files": sorted(use.files),
        "open": len(use.open),
    }


def _key(*parts: str) -> str:
    return msgspec.json.encode(parts).decode()


def _instant(seconds: int) -> str:
    return str(iso(seconds * SECOND))


def routes(views: TableViews) -> list[Route]:
    """The tables."""
    answers: dict[int, tuple[str, Any]] = {
        422: ("A parameter is wrong or unknown; `pointer` names it.", None),
        503: ("The aggregate tables are still being read.", None),
    }
    none = {404: ("There is none of this name.", None)}
    return [
        Route(
            method="GET",
            path="/tables",
            handler=respond.guarded(views.tables),
            summary="List the aggregate tables",
            tag="analytics",
            responses={200: ("Found.", shapes.Tables), **answers},
        ),
        Route(
            method="GET",
            path="/tables/{name}",
            handler=respond.guarded(views.table),
            summary="Rows of an aggregate table",
            tag="analytics",
            params=(_NAME, *_PARAMS),
            responses={200: ("Found.", shapes.TableRows), **answers, **none},
        ),
    ]
