"""The way in: read and bound, cut into events, judge each, redact, encode, hand to the intake, answer.

2xx means: durable. The handlers do I/O; all rules are in `schemas.envelope` and `schemas.native`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from aiohttp.web import Request, Response

from app.problems import Problem, RefusedAll
from app.views.body import holds_lines, read_body
from app.views.route import Param, Route
from connectors.ports import Codec, Intake, Record
from schemas.clock import Clock
from schemas.envelope import Defaults, Envelope, IngestLimits, Item, Rejection, event_of, split
from schemas.errors import Refused
from schemas.event import Flag, HookEvent
from schemas.jsontext import plain_text
from schemas.metrics import Metrics
from schemas.native import MAX_COLUMN, Arrival, Redact, from_native
from schemas.times import micros_of_header

EVENT_ID: Final = "Chronicle-Event-Id"
OCCURRED_AT: Final = "Chronicle-Occurred-At"
SOURCE: Final = "Chronicle-Source"
MACHINE: Final = "Chronicle-Machine"
_SOURCE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: From this size on a body is judged in a thread: the loop that serves the others must not wait for it.
_THREAD_FROM: Final = 256 * 1024
_REDACTED: Final = Flag.REDACTED.value


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The receipt. `event_ids` are of the accepted events, in the order sent; `durability` is where they are safe."""

    accepted: int
    event_ids: list[UUID]
    rejected: list[Rejection]
    durability: Literal["log", "spool"]
    session_id: str | msgspec.UnsetType = msgspec.UNSET


class _Judged(msgspec.Struct):
    """What became of one request's events."""

    events: list[HookEvent]
    records: list[Record]
    faults: list[tuple[int, Refused]]


class Door:
    """Everything the handlers share. Make one for each server."""

    def __init__(
        self, intake: Intake, codec: Codec, clock: Clock, limits: IngestLimits, redact: Redact | None, metrics: Metrics
    ) -> None:
        self._intake = intake
        self._codec = codec
        self._clock = clock
        self._limits = limits
        self._redact = redact
        self._metrics = metrics

    async def events(self, request: Request) -> Response:
        """POST /events."""
        return await self._take_envelopes(request, Defaults())

    async def typed_events(self, request: Request) -> Response:
        """POST /events/{event_type}."""
        name = request.match_info["event_type"]
        if not name.strip() or len(name) > 100:
            raise self._refused(
                Refused(422, "bad_event_type", "The event type in the path is not 1 to 100 characters.")
            )
        return await self._take_envelopes(request, Defaults(event_type=name))

    async def session_start(self, request: Request) -> Response:
        """POST /sessions/start."""
        fresh = str(self._clock.new_id())
        return await self._take_session(
            request, Defaults(event_type="session_start", session_id=None, loose=True), fresh
        )

    async def session_end(self, request: Request) -> Response:
        """POST /sessions/{session_id}/end."""
        session_id = request.match_info["session_id"]
        return await self._take_session(
            request, Defaults(event_type="session_end", session_id=session_id, loose=True), session_id
        )

    async def hook(self, request: Request) -> Response:
        """POST /hooks/claude-code."""
        try:
            holds_lines(request)
            body = await read_body(request, self._limits)
            arrival = self._arrival(request, "claude-code")
            if len(body) < _THREAD_FROM:
                event, record = self._native(body, arrival)
            else:
                event, record = await asyncio.to_thread(self._native, body, arrival)
        except Refused as fault:
            raise self._refused(fault) from fault
        await self._take([event], [record])
        return Response(status=204, headers={EVENT_ID: str(event.event_id)})

    # --- one request ----------------------------------------------------------------------------------------------

    async def _take_session(self, request: Request, defaults: Defaults, session_id: str) -> Response:
        """One event; an empty body will do, and the session's id is in the answer."""
        try:
            body = await read_body(request, self._limits)
            holds_lines(request)
            items = split(body or b"{}", max_events=1)
            arrival = self._arrival(request, "api")
        except Refused as fault:
            raise self._refused(fault) from fault
        if defaults.session_id is None and _has_no_session(items[0]):
            defaults = msgspec.structs.replace(defaults, session_id=session_id)
        judged = self._judge(items, arrival, defaults)
        self._refuse_all_of(judged)
        return await self._answer(judged, session_id=judged.events[0].session_id)

    async def _take_envelopes(self, request: Request, defaults: Defaults) -> Response:
        try:
            lines = holds_lines(request)
            body = await read_body(request, self._limits)
            arrival = self._arrival(request, "api")
            if len(body) < _THREAD_FROM:
                judged = self._judge(self._split(body, lines, arrival), arrival, defaults)
            else:
                judged = await asyncio.to_thread(
                    lambda: self._judge(self._split(body, lines, arrival), arrival, defaults)
                )
        except Refused as fault:
            raise self._refused(fault) from fault
        self._refuse_all_of(judged)
        return await self._answer(judged)

    def _split(self, body: bytes, lines: bool, arrival: Arrival) -> Sequence[Item]:
        items = split(body, lines=lines, max_events=self._limits.max_events)
        if arrival.event_id is not None and len(items) > 1:
            detail = f"{EVENT_ID} names one event but the body has {len(items)}; put the ids into the events."
            raise Refused(422, "bad_event_id", detail)
        return items

    def _judge(self, items: Sequence[Item], arrival: Arrival, defaults: Defaults) -> _Judged:
        """Each event alone: one that cannot be accepted costs its neighbours nothing."""
        judged = _Judged([], [], [])
        for index, item in enumerate(items):
            try:
                event = event_of(item, arrival, defaults)
                judged.records.append(self._record(event))
                judged.events.append(event)
            except Refused as fault:
                judged.faults.append((index, fault))
        return judged

    def _native(self, body: bytes, arrival: Arrival) -> tuple[HookEvent, Record]:
        event = from_native(body, arrival)
        return event, self._record(event)

    def _record(self, event: HookEvent) -> Record:
        return Record(
            key=event.session_id.encode(),
            value=self._codec.encode(event),
            timestamp_ms=event.received_at // 1000,
        )

    def _arrival(self, request: Request, source: str) -> Arrival:
        named = request.headers.get(SOURCE, "")
        return Arrival(
            received_at=int(self._clock.now() * 1_000_000),
            new_id=self._clock.new_id,
            source=named if _SOURCE.fullmatch(named) else source,
            redact=self._redact,
            event_id=_stamped_id(request),
            occurred_at=_stamped_time(request),
            machine=plain_text(request.headers.get(MACHINE, "").strip())[:MAX_COLUMN] or None,
            max_event_bytes=self._limits.max_event_bytes,
        )

    async def _take(self, events: Sequence[HookEvent], records: Sequence[Record]) -> Literal["log", "spool"]:
        durable = await self._intake.take(records)
        self._metrics.inc("chronicle_ingest_accepted_total", len(events), durability=durable.durability)
        redacted = sum(1 for event in events if event.flags & _REDACTED)
        if redacted:
            self._metrics.inc("chronicle_ingest_redacted_total", redacted)
        return durable.durability

    async def _answer(self, judged: _Judged, session_id: str | msgspec.UnsetType = msgspec.UNSET) -> Response:
        durability = await self._take(judged.events, judged.records)
        receipt = Accepted(
            accepted=len(judged.events),
            event_ids=[event.event_id for event in judged.events],
            rejected=_rejections(judged.faults),
            durability=durability,
            session_id=session_id,
        )
        return Response(status=202, body=msgspec.json.encode(receipt), content_type="application/json")

    def _refuse_all_of(self, judged: _Judged) -> None:
        """Count the faults; raise `RefusedAll` when nothing is left to accept."""
        for _, fault in judged.faults:
            self._refused(fault)
        if not judged.events:
            statuses = {fault.status for _, fault in judged.faults}
            status = statuses.pop() if len(statuses) == 1 else 422
            raise RefusedAll(judged.faults[0][1], status, _rejections(judged.faults))

    def _refused(self, fault: Refused) -> Refused:
        self._metrics.inc("chronicle_ingest_rejected_total", code=fault.code)
        return fault


def routes(
    intake: Intake, codec: Codec, clock: Clock, limits: IngestLimits, redact: Redact | None, metrics: Metrics
) -> list[Route]:
    """All routes that take events in. Mount `/sessions/start` before `/sessions/{session_id}`."""
    door = Door(intake, codec, clock, limits, redact, metrics)
    return [
        Route(
            method="POST",
            path="/events",
            handler=door.events,
            summary="Send events",
            tag="ingest",
            doc='One envelope, an array, {"events": [...]}, or one envelope a line (application/x-ndjson).',
            params=_HEADERS,
            body=Envelope,
            responses=_RECEIPT,
        ),
        Route(
            method="POST",
            path="/events/{event_type}",
            handler=door.typed_events,
            summary="Send events of one type",
            tag="ingest",
            doc="As POST /events; the events need no event_type of their own.",
            params=(Param(name="event_type", where="path", required=True), *_HEADERS),
            body=Envelope,
            responses=_RECEIPT,
        ),
        Route(
            method="POST",
            path="/sessions/start",
            handler=door.session_start,
            summary="Say that a session starts",
            tag="ingest",
            doc="An envelope of type session_start. Without payload all other fields are the payload; without "
            "session_id the server makes one and tells it in the answer.",
            params=_HEADERS,
            body=_ANY_OBJECT,
            responses=_RECEIPT,
        ),
        Route(
            method="POST",
            path="/sessions/{session_id}/end",
            handler=door.session_end,
            summary="Say that a session ends",
            tag="ingest",
            doc="An envelope of type session_end, or nothing at all. Events may come afterwards all the same.",
            params=(Param(name="session_id", where="path", required=True), *_HEADERS),
            body=_ANY_OBJECT,
            responses=_RECEIPT,
        ),
        Route(
            method="POST",
            path="/hooks/claude-code",
            handler=door.hook,
            summary="Send a Claude Code hook body",
            tag="ingest",
            doc=f"The hook's own JSON, unchanged. The answer is empty; the id is in {EVENT_ID}.",
            params=_HEADERS,
            body=_ANY_OBJECT,
            responses={204: ("Durable.", None), **_PROBLEMS},
        ),
    ]


_ANY_OBJECT: Final[dict[str, Any]] = {"type": "object", "additionalProperties": True}
_HEADERS: Final = (
    Param(name=EVENT_ID, where="header", doc="The event's UUID, made by the client (one event a request)."),
    Param(name=OCCURRED_AT, where="header", doc="When it happened: ISO 8601 with zone, or epoch milliseconds."),
    Param(name=SOURCE, where="header", doc="Who sends: 1 to 64 letters, digits, dots, dashes."),
    Param(name=MACHINE, where="header", doc="The sender's machine, for `metadata.machine`; cut at 255 characters."),
)
_PROBLEMS: Final[dict[int, tuple[str, Any]]] = {
    400: ("Not JSON, not UTF-8, or a body that does not unpack.", Problem),
    408: ("The body did not arrive in time.", Problem),
    413: ("Too large, too many, or an event that is too large.", Problem),
    415: ("A media type or Content-Encoding that is not taken.", Problem),
    422: ("Nothing in the body could be accepted.", Problem),
    503: ("Nothing was promised; send the same again later.", Problem),
}
_RECEIPT: Final[dict[int, tuple[str, Any]]] = {202: ("Durable.", Accepted), **_PROBLEMS}


def _rejections(faults: Sequence[tuple[int, Refused]]) -> list[Rejection]:
    return [
        Rejection(index=index, code=fault.code, pointer=fault.pointer, detail=fault.detail) for index, fault in faults
    ]


def _stamped_id(request: Request) -> UUID | None:
    sent = request.headers.get(EVENT_ID)
    if sent is None:
        return None
    try:
        found = msgspec.convert(sent.strip(), UUID)
    except ValueError as error:
        raise Refused(422, "bad_event_id", f"{EVENT_ID} must be a UUID; leave it out to get one.") from error
    if not found.int:
        raise Refused(422, "bad_event_id", f"{EVENT_ID} must not be the nil UUID.")
    return found


def _stamped_time(request: Request) -> int | None:
    sent = request.headers.get(OCCURRED_AT)
    return None if sent is None else micros_of_header(sent.strip())


def _has_no_session(item: Item) -> bool:
    """Whether an event leaves its session's id to the server."""
    if isinstance(item, Envelope):
        return False
    try:
        return msgspec.json.decode(item, type=_Session).session_id is None
    except ValueError:
        return False


class _Session(msgspec.Struct):
    session_id: Any = None
