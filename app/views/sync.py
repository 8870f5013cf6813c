"""Conflicts: two events that claim one id. The first stays until somebody decides otherwise; nothing is thrown away.

Words from where Postgres stands: `remote` is what Postgres has (the first), `local` is what came to it later, from
SQLite after an outage or from a sender that reused an id. A decision changes the payload of the stored event only; the
payload before is kept in `conflict_resolutions`, the other's bytes stay in `dead_letters`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
from aiohttp.web import Request, Response

from app.views import respond, shapes
from app.views.params import CURSOR, LIMIT, Query, path_uuid
from app.views.route import Param, Route
from connectors.ports import Codec
from connectors.readers.failover import FailoverReader
from schemas.clock import Clock
from schemas.errors import Poison, Refused, Unavailable
from schemas.event import HookEvent
from schemas.jsontext import Checked, check
from schemas.metrics import Metrics
from schemas.query import Resolution

Redact = Callable[[bytes], bytes]
_EVENT_ID = Param(name="event_id", where="path", required=True, schema={"type": "string", "format": "uuid"})
_OPEN = Param(name="open", schema={"type": "boolean", "default": False}, doc="Only those nobody has decided.")


# --- rules -----------------------------------------------------------------------------------------------------------


def chosen(conflicts: list[dict[str, Any]], wish: shapes.Resolve) -> list[dict[str, Any]]:
    """The conflicts a decision is about. Raises `Refused`: 404 when there is none, 409 when it is not clear which."""
    if not conflicts:
        raise Refused(404, "not_found", "There is no conflict about this id.")
    still_open = [one for one in conflicts if one["resolved_at"] is None]
    if wish.letter is not None:
        found = [one for one in conflicts if one["letter"] == wish.letter]
        if not found:
            raise Refused(404, "not_found", "There is no such letter among the conflicts of this id.", "/letter")
        still_open = [one for one in found if one["resolved_at"] is None]
    if not still_open:
        raise Refused(409, "already_resolved", f"This was resolved at {conflicts[0]['resolved_at']}.")
    if len(still_open) > 1 and wish.strategy in ("local", "merge"):
        letters = ", ".join(one["letter"] for one in still_open)
        raise Refused(409, "which_letter", f"Several events claim this id; name one in `letter`: {letters}.", "/letter")
    return still_open


def merged(first: Any, other: Any) -> Any:
    """Both objects in one: where both have a key the first wins, objects below it are merged the same way."""
    if not (isinstance(first, dict) and isinstance(other, dict)):
        return first
    return other | {key: merged(value, other[key]) if key in other else value for key, value in first.items()}


def new_payload(wish: shapes.Resolve, first: Any, other: HookEvent | None) -> str | None:
    """The text that replaces the stored payload; None leaves it. Raises `Refused` when there is nothing to take."""
    if wish.strategy == "remote":
        return None
    if wish.strategy == "manual":
        if wish.payload is None:
            raise Refused(422, "bad_body", "With `manual`, give the `payload`.", "/payload")
        return msgspec.json.encode(wish.payload).decode()
    if other is None:
        raise Refused(409, "unreadable", "The bytes of the other event cannot be read; give the payload by `manual`.")
    if wish.strategy == "local":
        return other.payload
    return msgspec.json.encode(merged(first, msgspec.json.decode(other.payload))).decode()


# --- shell -----------------------------------------------------------------------------------------------------------


class ConflictViews:
    """The handlers. Deciding needs Postgres, and both sides there unless the first stays."""

    def __init__(
        self, *, reader: FailoverReader, codec: Codec, clock: Clock, metrics: Metrics, redact: Redact | None = None
    ) -> None:
        self._reader, self._codec, self._clock, self._metrics = reader, codec, clock, metrics
        self._redact = redact

    async def listed(self, request: Request) -> Response:
        query = Query(request, (_OPEN, LIMIT, CURSOR))
        still_open, limit, cursor = query.flag("open"), query.limit(), query.cursor()
        after = cursor.encode() if cursor else None
        answer = await self._reader.ask(
            lambda reader: reader.conflicts(limit=limit, after=after, still_open=still_open)
        )
        return respond.page(answer)

    async def show(self, request: Request) -> Response:
        event_id = path_uuid(request, "event_id")
        Query(request)
        answer = await self._reader.ask(lambda reader: reader.conflicts_of(event_id))
        if not answer.value and answer.degraded:
            raise Unavailable("postgres", "Postgres is away; the local store knows no conflict of this id.")
        if not answer.value:
            raise Refused(404, "not_found", "There is no conflict about this id.")
        first = await self._reader.ask(lambda reader: reader.event(event_id))
        body = {"event_id": str(event_id), "first": first.value, "others": [self._side(one) for one in answer.value]}
        return respond.json(body, headers=respond.source(answer))

    async def resolve(self, request: Request) -> Response:
        event_id = path_uuid(request, "event_id")
        Query(request)
        wish = await _wish(request)
        decided = chosen(await self._reader.ask_primary(lambda reader: reader.conflicts_of(event_id)), wish)
        first = await self._reader.ask_primary(lambda reader: reader.event(event_id))
        if first is None and wish.strategy != "remote":
            raise Refused(409, "not_stored", "The first event is not in Postgres (yet); only `remote` is possible.")
        stored = None if first is None else bytes(first["payload"])
        text = new_payload(wish, stored and msgspec.json.decode(stored), self._decoded(decided[0]["value"]))
        checked = None if text is None else self._checked(text)
        letters = [one["letter"] for one in decided]
        if not wish.dry_run:
            await self._do(event_id, wish.strategy, letters, checked)
        raw = stored if checked is None else checked.text.encode()
        body = {
            "event_id": str(event_id),
            "strategy": wish.strategy,
            "letters": letters,
            "payload": None if raw is None else msgspec.Raw(raw),
            "changed": checked is not None,
            "resolved": not wish.dry_run,
        }
        return respond.json(body)

    async def _do(self, event_id: UUID, strategy: str, letters: list[str], checked: Checked | None) -> None:
        wanted = Resolution(
            event_id=event_id,
            letters=letters,
            strategy=strategy,
            at=int(self._clock.now() * 1_000_000),
            payload=None if checked is None else checked.text,
            flags=0 if checked is None else checked.flags,
        )
        closed = await self._reader.ask_primary(lambda reader: reader.resolve_conflicts(wanted))
        if not closed:
            raise Refused(409, "already_resolved", "Somebody else has resolved it meanwhile.")
        self._metrics.inc("chronicle_conflicts_resolved_total", closed, strategy=strategy)

    def _checked(self, text: str) -> Checked:
        data = text.encode()
        return check(data if self._redact is None else self._redact(data), pointer="/payload")

    def _side(self, one: dict[str, Any]) -> dict[str, Any]:
        event = self._decoded(one["value"])
        shown = {name: value for name, value in one.items() if name != "value"}
        return shown | {"event": None if event is None else _shown(event)}

    def _decoded(self, value: str | None) -> HookEvent | None:
        try:
            return self._codec.decode(base64.b64decode(value or ""))
        except Poison:
            return None


def _shown(event: HookEvent) -> dict[str, Any]:
    """The later event, as far as its record tells it."""
    names = ("session_id", "event_type", "source", "tool_name", "tool_use_id")
    return {name: getattr(event, name) for name in names} | {
        "fingerprint": event.fingerprint.hex(),
        "payload": msgspec.Raw(event.payload.encode()),
    }


async def _wish(request: Request) -> shapes.Resolve:
    """The body. JSON must be said: a page of another site may post a form here, but not JSON."""
    if request.content_type != "application/json":
        raise Refused(415, "unsupported_media_type", "Send Content-Type: application/json.")
    try:
        return msgspec.json.decode(await request.read(), type=_Strict)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(422, "bad_body", f"The body is not a resolution: {error}") from error


class _Strict(shapes.Resolve, forbid_unknown_fields=True, kw_only=True):
    """The body, nothing else in it."""


def routes(views: ConflictViews) -> list[Route]:
    """Listing, showing and resolving conflicts."""
    away: tuple[str, Any] = ("No database answers, or Postgres is needed and away.", None)
    bad: tuple[str, Any] = ("A parameter or the body is wrong; `pointer` names it.", None)
    none: tuple[str, Any] = ("There is no conflict about this id.", None)
    return [
        Route(
            method="GET",
            path="/conflicts",
            handler=respond.guarded(views.listed),
            summary="List events that claim the id of another",
            tag="conflicts",
            params=(_OPEN, LIMIT, CURSOR),
            responses={200: ("Latest first.", shapes.ConflictPage), 422: bad, 503: away},
        ),
        Route(
            method="GET",
            path="/conflicts/{event_id}",
            handler=respond.guarded(views.show),
            summary="Get both sides of a conflict",
            tag="conflicts",
            params=(_EVENT_ID,),
            responses={200: ("Found.", shapes.Sides), 404: none, 422: bad, 503: away},
        ),
        Route(
            method="POST",
            path="/conflicts/{event_id}/resolve",
            handler=respond.guarded(views.resolve),
            summary="Decide a conflict",
            tag="conflicts",
            doc="`remote`: the stored one stays; `local`: the other's payload; `merge`: both, the stored one first; "
            "`manual`: the given payload.",
            params=(_EVENT_ID,),
            body=shapes.Resolve,
            responses={
                200: ("Decided (or what a dry run would do).", shapes.Resolved),
                400: ("The payload is no JSON that can be kept.", None),
                404: none,
                409: ("It cannot be decided like that; `detail` says why.", None),
                415: ("The body must be JSON.", None),
                422: bad,
                503: away,
            },
        ),
    ]
