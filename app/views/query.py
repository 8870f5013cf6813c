"""Reading back: events, sessions, tool calls, traces. Postgres answers; while it is away, SQLite does and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from aiohttp.web import Request, Response, StreamResponse

from app.views import respond, shapes
from app.views.fresh import Fresh
from app.views.listing import EXPORTS, MEDIA, PAGING, Listing
from app.views.params import SINCE, UNTIL, Query, path_text, path_uuid, refuse
from app.views.route import Param, Route
from connectors.ports import Reader
from connectors.readers.failover import Answer, FailoverReader
from connectors.readers.search import text_of
from schemas import words
from schemas.clock import Clock
from schemas.errors import Refused, Unavailable
from schemas.jsontext import jsonb_text
from schemas.query import CallFilter, Cursor, EventFilter, Page, SessionFilter
from schemas.topics import Topics

T = TypeVar("T")

STATUSES = ("active", "completed", "terminated", "error")
SORTS = ("last_event_at", "first_event_at", "event_count")
HOUR = 3600 * 1_000_000


def _order(default: str) -> Param:
    return Param(
        name="order",
        schema={"type": "string", "enum": ["desc", "asc"], "default": default},
        doc="`desc`: newest (largest) first; `asc`: oldest (smallest) first. Keep it while paging.",
    )


_ORDER = _order("desc")
_TYPE = Param(name="event_type", doc="One of these types, with commas between, such as `tool_pre_use,user_prompt`.")
_TOOL = Param(name="tool_name", doc="One of these tools, with commas between, such as `Bash,Edit`.")
_PROJECT = Param(name="project", doc="Of sessions of this project.")
_MACHINE = Param(name="machine", doc="Of sessions on this machine.")
_SOURCE = Param(name="source", doc="From this client, such as `claude-code`.")
_EQUAL = (
    Param(name="agent_id", doc="Of this sub-agent."),
    Param(name="agent_type", doc="Of this kind of sub-agent."),
    Param(name="prompt_id", doc="Of this prompt."),
    Param(name="tool_use_id", doc="Of this tool call."),
    Param(name="cwd", doc="In exactly this working directory."),
    _SOURCE,
)
_IN_SESSION = (_TYPE, _TOOL, *_EQUAL, SINCE, UNTIL, _ORDER, *PAGING)
_SESSION = Param(name="session_id", doc="Of this session.")
_EVENT_PARAMS = (_SESSION, _PROJECT, _MACHINE, *_IN_SESSION)
_Q = Param(name="q", required=True, doc="Words; each must begin a word of the prompt, error or notification.")
_SEARCH = (_Q, *_EVENT_PARAMS)
_STATUS = Param(name="status", schema={"type": "string", "enum": list(STATUSES)}, doc="Only sessions in this state.")
_SORT = Param(name="sort", schema={"type": "string", "enum": list(SORTS), "default": SORTS[0]}, doc="By what.")
_SESSION_PARAMS = (_STATUS, _PROJECT, _MACHINE, _SOURCE, SINCE, UNTIL, _SORT, _ORDER, *PAGING)
_OUTCOME = Param(name="success", schema={"type": "boolean"}, doc="Only calls that ended like this.")
_CALLS = (_TOOL, _OUTCOME, _order("asc"), *PAGING)
_EVENT_ID = Param(name="event_id", where="path", required=True, schema={"type": "string", "format": "uuid"})
_SESSION_ID = Param(name="session_id", where="path", required=True, schema={"type": "string", "maxLength": 255})

_AWAY: tuple[str, Any] = ("No database answers, or it is not in the local store while Postgres is away.", None)
_BAD: tuple[str, Any] = ("A parameter is wrong or unknown; `pointer` names it.", None)
_NONE: tuple[str, Any] = ("There is none with this id.", None)
_NOT_SO: tuple[str, Any] = ("It cannot be had in the format asked for.", None)


class QueryViews:
    """The handlers. They never write. A session without events for `idle_hours` has ended; 0: it never does."""

    def __init__(self, reader: FailoverReader, topics: Topics, fresh: Fresh, clock: Clock, idle_hours: float) -> None:
        self._reader, self._topics = reader, topics
        self._clock, self._idle = clock, idle_hours
        exports = asyncio.Semaphore(EXPORTS)
        self._of_events = Listing("events", shapes.Event, fresh, exports)
        self._of_hits = Listing("search", shapes.Hit, fresh, exports)
        self._of_sessions = Listing("sessions", shapes.Session, fresh, exports)
        self._of_calls = Listing("tool-calls", shapes.ToolCall, fresh, exports)

    async def events(self, request: Request) -> StreamResponse:
        query = Query(request, _EVENT_PARAMS)
        wanted = _events(query, query.text("session_id"), _PROJECT.name, _MACHINE.name)
        return await self._of_events.answer(request, query, self._asked(wanted))

    async def search(self, request: Request) -> StreamResponse:
        query = Query(request, _SEARCH)
        asked = words.question(query.text("q") or refuse("q", "Say in q what is looked for."))
        wanted = _events(query, query.text("session_id"), _PROJECT.name, _MACHINE.name)
        wanted = msgspec.structs.replace(wanted, words=asked)

        def dress(item: dict[str, Any]) -> dict[str, Any]:
            told = text_of(msgspec.json.decode(jsonb_text(bytes(item["payload"]).decode())))
            return item | {"snippet": words.snippet(told, asked)}

        return await self._of_hits.answer(request, query, self._asked(wanted), dress)

    async def session_events(self, request: Request) -> StreamResponse:
        session_id = path_text(request, "session_id")
        query = Query(request, _IN_SESSION)
        wanted = _events(query, session_id)
        found = await self._found("session", lambda reader: reader.session(session_id), lenient=True)
        return await self._of_events.answer(request, query, self._asked(wanted, found))

    async def session_tools(self, request: Request) -> StreamResponse:
        session_id = path_text(request, "session_id")
        query = Query(request, _CALLS)
        outcome = query.choice("success", ("true", "false"))
        wanted = CallFilter(
            session_id=session_id,
            tool_name=query.several("tool_name"),
            success=None if outcome is None else outcome == "true",
            ascending=query.choice("order", ("desc", "asc")) != "desc",
        )
        found = await self._found("session", lambda reader: reader.session(session_id), lenient=True)

        async def ask(cursor: Cursor | None, limit: int, _: bool) -> Answer[Page]:
            one = msgspec.structs.replace(wanted, cursor=cursor, limit=limit)
            return await self._reader.ask(lambda reader: reader.calls(one), of=found)

        return await self._of_calls.answer(request, query, ask)

    async def event(self, request: Request) -> Response:
        event_id = path_uuid(request, "event_id")
        Query(request)
        return respond.one(await self._found("event", lambda reader: reader.event(event_id)))

    async def sessions(self, request: Request) -> StreamResponse:
        query = Query(request, _SESSION_PARAMS)
        since, until = query.between()
        wanted = SessionFilter(
            status=query.choice("status", STATUSES),
            project=query.text("project"),
            machine=query.text("machine"),
            source=query.text("source"),
            since=since,
            until=until,
            sort=query.choice("sort", SORTS) or SORTS[0],  # type: ignore[arg-type]
            ascending=query.choice("order", ("desc", "asc")) == "asc",
            idle_before=self._idle_before(),
        )

        async def ask(cursor: Cursor | None, limit: int, _: bool) -> Answer[Page]:
            one = msgspec.structs.replace(wanted, cursor=cursor, limit=limit)
            return await self._reader.ask(lambda reader: reader.sessions(one))

        return await self._of_sessions.answer(request, query, ask)

    async def session(self, request: Request) -> Response:
        session_id = path_text(request, "session_id")
        Query(request)
        idle = self._idle_before()
        return respond.one(await self._found("session", lambda reader: reader.session(session_id, idle_before=idle)))

    async def trace(self, request: Request) -> Response:
        event_id = path_uuid(request, "event_id")
        Query(request)

        async def known(reader: Reader) -> dict[str, Any] | None:
            found = await reader.trace(event_id)
            return found if found["event"] or found["dead_letters"] else None

        answer = await self._found("event", known)
        shown = trace(str(event_id), answer.value, self._topics, source=answer.source, degraded=answer.degraded)
        return respond.json(shown, headers=respond.source(answer))

    def _asked(
        self, wanted: EventFilter, of: Answer[Any] | None = None
    ) -> Callable[[Cursor | None, int, bool], Awaitable[Answer[Page]]]:
        async def ask(cursor: Cursor | None, limit: int, bodies: bool) -> Answer[Page]:
            one = msgspec.structs.replace(wanted, cursor=cursor, limit=limit, bodies=bodies)
            return await self._reader.ask(lambda reader: reader.events(one), of=of)

        return ask

    def _idle_before(self) -> int | None:
        return None if not self._idle else int(self._clock.now() * 1_000_000 - self._idle * HOUR)

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
        return Answer(answer.value or {}, answer.source, answer.degraded, answer.held)


def _events(query: Query, session_id: str | None, *more: str) -> EventFilter:
    """`more`: names of the parameters that ask for what the sessions are."""
    since, until = query.between()
    equal: dict[str, Any] = {name: query.text(name) for name in (*(param.name for param in _EQUAL), *more)}
    rare = next((param.name for param in _EQUAL if equal[param.name] is not None), None)
    if rare is not None and session_id is None and since is None:
        refuse(rare, f"With {rare} say the session, or since when: else all events would be looked through.")
    return EventFilter(
        session_id=session_id,
        event_type=query.several("event_type"),
        tool_name=query.several("tool_name"),
        since=since,
        until=until,
        ascending=query.choice("order", ("desc", "asc")) == "asc",
        **equal,
    )


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


def routes(reader: FailoverReader, topics: Topics, fresh: Fresh, clock: Clock, idle_hours: float = 24.0) -> list[Route]:
    """Everything that reads events, sessions and tool calls."""
    views = QueryViews(reader, topics, fresh, clock, idle_hours)

    def get(path: str, handler: Any, summary: str, params: tuple[Param, ...], shape: Any, doc: str = "") -> Route:
        answers = {200: ("Found.", shape), 422: _BAD, 503: _AWAY}
        single = any(param.where == "path" for param in params)
        listed = any(param.name == "format" for param in params)
        return Route(
            method="GET",
            path=path,
            handler=respond.guarded(handler),
            summary=summary,
            tag="query",
            doc=doc,
            params=params,
            responses=answers | ({404: _NONE} if single else {}) | ({406: _NOT_SO} if listed else {}),
            other_media=MEDIA if listed else (),
        )

    one_id, of_session = (_EVENT_ID,), (_SESSION_ID,)
    as_sent = "The payload is given back as it was sent (docs/delivery.md tells the rule)."
    in_session = (*of_session, *_IN_SESSION)
    tools = (*of_session, *_CALLS)
    return [
        get("/events", views.events, "List events", _EVENT_PARAMS, shapes.EventPage),
        get("/events/{event_id}", views.event, "Get an event", one_id, shapes.Event, as_sent),
        get("/events/{event_id}/trace", views.trace, "Trace an event", one_id, shapes.Trace, "Every hop of its way."),
        get("/search", views.search, "Search prompts, errors, notifications", _SEARCH, shapes.HitPage),
        get("/sessions", views.sessions, "List sessions", _SESSION_PARAMS, shapes.SessionPage),
        get("/sessions/{session_id}", views.session, "Get a session", of_session, shapes.Session),
        get("/sessions/{session_id}/events", views.session_events, "A session's events", in_session, shapes.EventPage),
        get("/sessions/{session_id}/tools", views.session_tools, "A session's tool calls", tools, shapes.ToolCallPage),
    ]
