"""Dead letters: list, show, replay. A replay is sent first and marked afterwards, so a crash between repeats it.

Which way a letter goes back decides whether it can arrive. One that dedup set aside goes in again at the front. One
that passed dedup and failed later has its id in the dedup table, which would drop it as a duplicate: it is put back
into the public topic at its own ingest position, so that persist stores it as if it had never failed. A conflict has
another event's id; it can only come in as a new event, under an id made from the letter's place, the same for every
try.
"""

from __future__ import annotations

import base64
import struct
from typing import Any
from uuid import UUID, uuid5

import msgspec
from aiohttp.web import Request, Response

from app.views import respond, shapes
from app.views.params import CURSOR, LIMIT, Query, path_number, path_text
from app.views.route import Param, Route
from connectors.ports import Codec, EventLog, Intake, Record
from connectors.readers.failover import FailoverReader
from schemas.clock import Clock
from schemas.errors import Poison, Refused, Unavailable
from schemas.event import HookEvent, IdOrigin
from schemas.topics import CAUSES, POSITION_HEADER, Topics

_CAUSE = Param(name="cause", schema={"type": "string", "enum": list(CAUSES)}, doc="Only letters with this cause.")
_PLACE = (
    Param(name="topic", where="path", required=True, doc="The topic it was read from."),
    Param(name="partition", where="path", required=True, schema={"type": "integer", "minimum": 0}),
    Param(name="offset", where="path", required=True, schema={"type": "integer", "minimum": 0}),
)
#: Seconds for the one record of a replay; nothing waits behind it.
SEND_S = 5.0
_NO_INGEST = "This worker takes no events in, so this letter cannot go back here; ask a worker with the role ingest."
_position = struct.Struct(">iq")


# --- rules -----------------------------------------------------------------------------------------------------------


class Plan(msgspec.Struct, frozen=True):
    """What a replay would send and where. `in_place` goes to the public topic, anything else through the intake."""

    record: Record
    in_place: bool
    event_id: UUID | None


def plan(letter: dict[str, Any], event: HookEvent | None, wish: shapes.Replay, topics: Topics, codec: Codec) -> Plan:
    """How this letter goes back. `event` is its decoded value, None when it cannot be decoded.

    Raises `Refused` (409) when it cannot go back like that, and says what can.
    """
    if letter["resolved_at"] is not None:
        raise Refused(409, "already_resolved", f"This letter was dealt with at {letter['resolved_at']}.")
    value = _bytes(letter["value"])
    if value is None:
        raise Refused(409, "not_replayable", "This letter has no bytes to send.")
    key, event_id = _bytes(letter["key"]), event.event_id if event is not None else None
    if wish.as_new_id:
        return _as_new(letter, event, codec)
    if letter["cause"] == "conflict":
        raise Refused(409, "needs_new_id", "Another event is stored under this id; replay with as_new_id.")
    if letter["topic"] == topics.ingest.name:
        stamp = event.received_at // 1000 if event is not None else 0
        return Plan(Record(key=key, value=value, timestamp_ms=stamp), False, event_id)
    at = letter["position"]
    if letter["topic"] != topics.events.name or at is None:
        raise Refused(409, "not_replayable", "This record did not come through the ingest topic.")
    headers = ((POSITION_HEADER, _position.pack(at["partition"], at["offset"])),)
    stamp = event.received_at // 1000 if event is not None else 0
    record = Record(key=key, value=value, headers=headers, partition=letter["partition"], timestamp_ms=stamp)
    return Plan(record, True, event_id)


def _as_new(letter: dict[str, Any], event: HookEvent | None, codec: Codec) -> Plan:
    if event is None:
        raise Refused(409, "not_replayable", "The bytes cannot be decoded, so they cannot get a new id.")
    new_id = uuid5(event.event_id, letter["id"])
    renamed = msgspec.structs.replace(event, event_id=new_id, id_origin=IdOrigin.FRESH)
    record = Record(key=event.session_id.encode(), value=codec.encode(renamed), timestamp_ms=event.received_at // 1000)
    return Plan(record, False, new_id)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


# --- shell -----------------------------------------------------------------------------------------------------------


class DeadLetterViews:
    """The handlers. Replaying needs Postgres (to mark the letter) and, for the public topic, the broker.

    `intake` is None in a worker without the role ingest: it cannot replay what has to come in at the front again.
    """

    def __init__(
        self,
        *,
        reader: FailoverReader,
        intake: Intake | None,
        log: EventLog,
        codec: Codec,
        topics: Topics,
        clock: Clock,
    ) -> None:
        self._reader, self._intake, self._log = reader, intake, log
        self._codec, self._topics, self._clock = codec, topics, clock

    async def list(self, request: Request) -> Response:
        query = Query(request, (_CAUSE, LIMIT, CURSOR))
        cause, limit, cursor = query.choice("cause", CAUSES), query.limit(), query.cursor()
        after = cursor.encode() if cursor else None
        found = await self._reader.ask(lambda reader: reader.dead_letters(limit=limit, after=after, cause=cause))
        return respond.page(found)

    async def show(self, request: Request) -> Response:
        id = letter_id(request)
        Query(request)
        answer = await self._reader.ask(lambda reader: reader.dead_letter(id))
        if answer.value is None and answer.degraded:
            raise Unavailable("postgres", "Postgres is away and this letter is not in the local store.", retry_after=2)
        if answer.value is None:
            raise _absent()
        return respond.json(answer.value, headers=respond.source(answer))

    async def replay(self, request: Request) -> Response:
        id = letter_id(request)
        Query(request)
        wish = await _wish(request)
        letter = await self._reader.ask_primary(lambda reader: reader.dead_letter(id))
        if letter is None:
            raise _absent()
        planned = plan(letter, self._decoded(letter), wish, self._topics, self._codec)
        if self._intake is None and not planned.in_place:
            raise Refused(503, "no_ingest_role", _NO_INGEST)
        if not wish.dry_run:
            await self._send(planned)
            await self._mark(id, planned)
        via = self._topics.events if planned.in_place else self._topics.ingest
        event_id = str(planned.event_id) if planned.event_id else None
        done = not wish.dry_run
        return respond.json(
            {"id": id, "via": via.name, "event_id": event_id, "resolved": done, "dry_run": wish.dry_run},
            status=202 if done else 200,
        )

    def _decoded(self, letter: dict[str, Any]) -> HookEvent | None:
        try:
            return self._codec.decode(_bytes(letter["value"]) or b"")
        except Poison:
            return None

    async def _send(self, planned: Plan) -> None:
        if planned.in_place:
            await self._log.send(self._topics.events.name, [planned.record], timeout=SEND_S)
        elif self._intake is not None:
            await self._intake.take([planned.record])

    async def _mark(self, id: str, planned: Plan) -> None:
        at = int(self._clock.now() * 1_000_000)
        try:
            await self._reader.ask_primary(
                lambda reader: reader.resolve_dead_letter(id, replayed_as=planned.event_id, at=at)
            )
        except Unavailable as error:
            detail = "the letter was sent but could not be marked; replay it again, which is harmless"
            raise Unavailable("postgres", detail, retry_after=2, unknown=True) from error


def letter_id(request: Request) -> str:
    """`topic/partition/offset` from the path."""
    topic = path_text(request, "topic")
    return f"{topic}/{path_number(request, 'partition', 2**31)}/{path_number(request, 'offset', 2**63)}"


async def _wish(request: Request) -> shapes.Replay:
    """The body. JSON must be said: a page of another site may post a form here, but not JSON."""
    if request.content_type != "application/json":
        raise Refused(415, "unsupported_media_type", "Send Content-Type: application/json.")
    body = await request.read()
    try:
        return msgspec.json.decode(body, type=_Strict) if body else shapes.Replay()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(422, "bad_body", f"The body is not a replay: {error}") from error


class _Strict(shapes.Replay, forbid_unknown_fields=True, kw_only=True):
    """The body, nothing else in it."""


def _absent() -> Refused:
    return Refused(404, "not_found", "There is no dead letter with this id.")


def routes(views: DeadLetterViews) -> list[Route]:
    """Listing, showing and replaying dead letters."""
    away: tuple[str, Any] = ("No database answers, or Postgres is needed and away.", None)
    bad: tuple[str, Any] = ("A parameter is wrong or unknown; `pointer` names it.", None)
    none: tuple[str, Any] = ("There is no such dead letter.", None)
    place = "/dead-letters/{topic}/{partition}/{offset}"
    return [
        Route(
            method="GET",
            path="/dead-letters",
            handler=respond.guarded(views.list),
            summary="List dead letters",
            tag="dead letters",
            params=(_CAUSE, LIMIT, CURSOR),
            responses={200: ("Latest first.", shapes.DeadLetterPage), 422: bad, 503: away},
        ),
        Route(
            method="GET",
            path=place,
            handler=respond.guarded(views.show),
            summary="Get a dead letter with its bytes",
            tag="dead letters",
            params=_PLACE,
            responses={200: ("Found.", shapes.DeadLetterBytes), 404: none, 422: bad, 503: away},
        ),
        Route(
            method="POST",
            path=f"{place}/replay",
            handler=respond.guarded(views.replay),
            summary="Send a dead letter again",
            tag="dead letters",
            params=_PLACE,
            body=shapes.Replay,
            responses={
                200: ("What a replay would do (dry run).", shapes.Replayed),
                202: ("Sent and marked.", shapes.Replayed),
                404: none,
                409: ("It cannot go back like that; `detail` says what can.", None),
                415: ("The body must be JSON.", None),
                422: bad,
                503: away,
            },
        ),
    ]
