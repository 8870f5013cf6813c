"""Answers: JSON by msgspec, with the headers every answer of the reading side carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp.web import Request, Response, StreamResponse

from app.problems import CONTENT_TYPE, problem
from app.views.route import Handler
from connectors.readers.errors import TooSlow
from connectors.readers.failover import Answer
from schemas.errors import Unavailable
from schemas.query import Page

#: Says which database answered: postgres or sqlite.
SOURCE_HEADER = "Chronicle-Source"
NOTE = (
    "Postgres is away: this is what the local SQLite store holds, the events written since it went away. "
    "Older events are in Postgres and come back with it."
)
_encoder = msgspec.json.Encoder()
encode = _encoder.encode


def json(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer that is neither cached nor guessed at."""
    fixed = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    data = _encoder.encode(body)
    return Response(body=data, status=status, content_type="application/json", headers=fixed | dict(headers or {}))


def page(answer: Answer[Page]) -> Response:
    """`{items, next, previous, source}`; from SQLite also `degraded` and a note that says what is missing."""
    return json(page_body(answer), headers=source(answer))


def page_body(answer: Answer[Page]) -> dict[str, Any]:
    """The same as a value."""
    found = answer.value
    body: dict[str, Any] = {
        "items": found.items,
        "next": found.next.encode() if found.next else None,
        "previous": found.previous.encode() if found.previous else None,
        "source": answer.source,
        "degraded": answer.degraded,
    }
    return body | {"note": NOTE} if answer.degraded else body


def one(answer: Answer[dict[str, Any]]) -> Response:
    """One object as it is; which database gave it is in the header."""
    return json(answer.value, headers=source(answer))


def source(answer: Answer[Any]) -> dict[str, str]:
    """The header that names the database."""
    return {SOURCE_HEADER: answer.source}


def guarded(handler: Handler) -> Handler:
    """The handler with outages told in the reader's words: what is away, and what that means for the question.

    The general text of `app.problems` is for senders of events ("nothing was promised, send it again").
    """

    async def answer(request: Request) -> StreamResponse:
        try:
            return await handler(request)
        except Unavailable as error:
            return unavailable(error, request)

    return answer


def unavailable(error: Unavailable, request: Request) -> Response:
    """503 with Retry-After."""
    code = "too_slow" if isinstance(error, TooSlow) else "outcome_unknown" if error.unknown else "unavailable"
    told = msgspec.structs.replace(problem(503, code, str(error)), request_id=request.get("request_id"))
    headers = {"Retry-After": str(max(1, round(error.retry_after))), "Cache-Control": "no-store"}
    return Response(body=_encoder.encode(told), status=503, content_type=CONTENT_TYPE, headers=headers)
