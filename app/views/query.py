"""Reading back: events, sessions, traces. Postgres answers; while it is away, SQLite does and says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiohttp.web import Request, Response

from app.views import respond, shapes
from app.views.params import CURSOR, LIMIT, SINCE, UNTIL, Query, path_text, path_uuid
from app.views.route import Param, Route
from connectors.ports import Reader
from connectors.readers.failover import Answer, FailoverReader
from schemas.errors import Refused, Unavailable
from schemas.query import EventFilter, SessionFilter
from schemas.topics import Topics

T = TypeVar("T")

STATUSES = ("active", "completed", "terminated", "error")
_ORDER = Param(
    name="order",
    schema={"type": "string", "enum": ["desc", "asc"], "default": "desc"},
    doc="`desc`: newest first; `asc`: oldest first. Keep it while paging.",
)
_TYPE = Param(name="event_type", doc="Exactly this type, such as `tool_pre_use`.")
_TOOL = Param(name="tool_name", doc="Exactly this tool, such as `Bash`.")
_EVENT_PARAMS = (Param(name="session_id", doc="Of this session."), _TYPE, _TOOL, SINCE, UNTIL, _ORDER, LIMIT, CURSOR)
_IN_SESSION = (_TYPE, _TOOL, SINCE, UNTIL, _ORDER, LIMIT, CURSOR)
_STATUS = Param(name="status", schema={"type": "string", "enum": list(STATUSES)}, doc="Only sessions in this state.")
_SESSION_PARAMS = (_STATUS, SINCE, UNTIL, LIMIT, CURSOR)
_EVENT_ID = Param(name="event_id", where="path", required=True, schema={"type": "string", "format": "uuid"})
_SESSION_ID = Param(name="session_id", where="path", required=True, schema={"type": "string", "maxLength": 255})

_AWAY: tuple[str, Any] = ("No database answers, or it is not in the local store while Postgres is away.", None)
_BAD: tuple[str, Any] = ("A parameter is wrong or unknown; `pointer` names it.", None)
_NONE: tuple[str, Any] = ("There is none with this id.", None)


class QueryViews:
    """The handlers. They never write."""

    def __init__(self, reader: FailoverReader, topics: Topics) -> None:
        self._reader = reader
        self._topics = topics

    async def events(self, request: Request) -> Response:
        query = Query(request, _EVENT_PARAMS)
        return await self._events(query, query.text("session_id"))

    async def session_events(self, request: Request) -> Response:
        session_id = path_text(request, "session_id")
        query = Query(request, _IN_SESSION)
        await self._found("session", lambda reader: reader.session(session_id), lenient=True)
        return await self._events(query, session_id)

    async def event(self, request: Request) -> Response:
        event_id = path_uuid(request, "event_id")
        Query(request)
        return respond.one(await self._found("event", lambda reader: reader.event(event_id)))

    async def sessions(self, request: Request) -> Response:
        query = Query(request, _SESSION_PARAMS)
        since, until = query.between()
        wanted = SessionFilter(
            status=query.choice("status", STATUSES),
            since=since,
            until=until,
            cursor=query.cursor(),
            limit=query.limit(),
        )
        return respond.page(await self._reader.ask(lambda reader: reader.sessions(wanted)))

    async def session(self, request: Request) -> Response:
        session_id = path_text(request, "session_id")
        Query(request)
        return respond.one(await self._found("session", lambda reader: reader.session(session_id)))

    async def trace(self, request: Request) -> Response:
        event_id = path_uuid(request, "event_id")
        Query(request)

        async def known(reader: Reader) -> dict[str, Any] | None:
            found = await reader.trace(event_id)
            return found if found["event"] or found["dead_letters"] else None

        answer = await self._found("event", known)
        shown = trace(str(event_id), answer.value, self._topics, source=answer.source, degraded=answer.degraded)
        return respond.json(shown, headers=respond.source(answer))

    async def _events(self, query: Query, session_id: str | None) -> Response:
        since, until = query.between()
        wanted = EventFilter(
            session_id=session_id,
            event_type=query.text("event_type"),
            tool_name=query.text("tool_name"),
            since=since,
            until=until,
            cursor=query.cursor(),
            limit=query.limit(),
            ascending=query.choice("order", ("desc", "asc")) == "asc",
        )
        return respond.page(await self._reader.ask(lambda reader: reader.events(wanted)))

    async def _found(
        self, what: str, question: Callable[[Reader], Awaitable[dict[str, Any] | None]], *, lenient: bool = False
    ) -> Answer[dict[str, Any]]:
        """One thing, or 404; while Postgres is away "not here" is not "does not exist": 503 (or, lenient, {})."""
        answer = await self._reader.find(question)
        if answer.value is None and answer.degraded and not lenient:
            raise Unavailable("postgres", f"Postgres is away and this {what} is not in the local store.", retry_after=2)
        if answer.value is None and not answer.degraded:
            detail = f"There is no {what} with this id. An event accepted a moment ago may still be on its way."
            raise Refused(404, "not_found", detail)
        return Answer(answer.value or {}, answer.source, answer.degraded)


def trace(event_id: str, found: dict[str, Any], topics: Topics, *, source: str, degraded: bool) -> dict[str, Any]:
    """The hops of an event in walking order. Records keep the time of receipt, so both logs show that one."""
    event, letters = found["event"], found["dead_letters"]
    hops = [] if event is None else _hops(event, found["events_offset"], topics, source)
    for letter in letters:
        place = {"topic": letter["topic"], "partition": letter["partition"], "offset": letter["offset"]}
        why = f"{letter['cause']} at {letter['stage']}: {letter['detail']}"
        hops.append({"hop": "dead_letter", "at": letter["failed_at"], **place, "detail": why})
    known = event or letters[0]
    return {
        "event_id": event_id,
        "session_id": known["session_id"],
        "event_type": event["event_type"] if event else None,
        "outcome": "stored" if event else "dead",
        "source": source,
        "degraded": degraded,
        "hops": hops,
        "suspected_duplicate_of": event["suspected_duplicate_of"] if event else None,
        **{name: found[name] for name in ("suspected_duplicates", "duplicates", "dead_letters")},
    }


def _hops(event: dict[str, Any], events_offset: int, topics: Topics, source: str) -> list[dict[str, Any]]:
    partition, received = event["position"]["partition"], event["received_at"]
    nowhere = {"topic": None, "partition": None, "offset": None}
    ingest = {"topic": topics.ingest.name, **event["position"]}
    public = {"topic": topics.events.name, "partition": partition, "offset": events_offset}
    origin = f"from {event['source']}, id {event['id_origin']}"
    return [
        {"hop": "received", "at": received, **nowhere, "detail": origin},
        {"hop": "ingest_log", "at": received, **ingest, "detail": "acked by the broker; record time"},
        {"hop": "public_log", "at": received, **public, "detail": "passed dedup; record time"},
        {"hop": "stored", "at": event["stored_at"], **nowhere, "detail": source},
    ]


def routes(reader: FailoverReader, topics: Topics) -> list[Route]:
    """Everything that reads events and sessions."""
    views = QueryViews(reader, topics)

    def get(path: str, handler: Any, summary: str, params: tuple[Param, ...], shape: Any, doc: str = "") -> Route:
        answers = {200: ("Found.", shape), 422: _BAD, 503: _AWAY}
        single = any(param.where == "path" for param in params)
        return Route(
            method="GET",
            path=path,
            handler=respond.guarded(handler),
            summary=summary,
            tag="query",
            doc=doc,
            params=params,
            responses=answers | ({404: _NONE} if single else {}),
        )

    one_id, in_session = (_EVENT_ID,), (_SESSION_ID, *_IN_SESSION)
    as_sent = "The payload is given back as it was sent (docs/delivery.md tells the rule)."
    return [
        get("/events", views.events, "List events", _EVENT_PARAMS, shapes.EventPage),
        get("/events/{event_id}", views.event, "Get an event", one_id, shapes.Event, as_sent),
        get("/events/{event_id}/trace", views.trace, "Trace an event", one_id, shapes.Trace, "Every hop of its way."),
        get("/sessions", views.sessions, "List sessions", _SESSION_PARAMS, shapes.SessionPage),
        get("/sessions/{session_id}", views.session, "Get a session", (_SESSION_ID,), shapes.Session),
        get(
            "/sessions/{session_id}/events",
            views.session_events,
            "List a session's events",
            in_session,
            shapes.EventPage,
        ),
    ]
