"""Our errors as HTTP: RFC 9457 problem JSON, a request id, and the access metrics. No fault of input is ever a 500."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError, LineTooLong

from schemas.clock import Clock
from schemas.errors import Misconfigured, Poison, Refused, Unavailable
from schemas.metrics import Metrics

CONTENT_TYPE: Final = "application/problem+json"
REQUEST_ID: Final = "Chronicle-Request-Id"
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_TITLES: Final[Mapping[int, str]] = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Request took too long",
    409: "Conflict",
    413: "Too large",
    415: "Unsupported media type or encoding",
    422: "Cannot be accepted",
    429: "Too many requests",
    500: "Internal error",
    503: "Not available",
}
_CODES: Final[Mapping[int, str]] = {
    400: "bad_request",
    401: "not_authenticated",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}
#: What an answer of this code must have beside its body.
_HEADERS: Final[Mapping[str, Mapping[str, str]]] = {
    "unsupported_encoding": {"Accept-Encoding": "gzip, br"},
    "too_many_connections": {"Retry-After": "1"},
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Middleware = Callable[[web.Request, _Handler], Awaitable[web.StreamResponse]]


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every answer from 400 up. `code` is stable; `pointer` (RFC 6901) shows the fault in the body."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    pointer: str | None = None
    request_id: str | None = None
    rejected: list[Any] | None = None


class RefusedAll(Refused):
    """Not one event of a request could be accepted; `rejected` tells each fault."""

    def __init__(self, first: Refused, status: int, rejected: list[Any]) -> None:
        super().__init__(status, first.code, first.detail, first.pointer)
        self.rejected = rejected


def problem(
    status: int, code: str, detail: str, *, pointer: str | None = None, rejected: list[Any] | None = None
) -> Problem:
    """A problem with the title and type that belong to `status` and `code`."""
    title = _TITLES.get(status, "Error")
    kind = f"urn:chronicle:problem:{code}"
    return Problem(type=kind, title=title, status=status, code=code, detail=detail, pointer=pointer, rejected=rejected)


def problem_of(error: Exception) -> tuple[Problem, dict[str, str]]:
    """The problem that tells `error`, and the headers it needs. Unknown errors are told as a bare 500."""
    if isinstance(error, Refused):
        rejected = error.rejected if isinstance(error, RefusedAll) else None
        found = problem(error.status, error.code, error.detail, pointer=error.pointer, rejected=rejected)
        return found, dict(_HEADERS.get(error.code, {}))
    if isinstance(error, Unavailable):
        return _unavailable(error)
    if isinstance(error, web.HTTPException):
        return _of_aiohttp(error)
    if isinstance(error, (web.RequestPayloadError, ContentEncodingError)):
        detail = "The body cannot be read by its Content-Encoding; send it whole and encoded as the header says."
        return problem(400, "corrupt_body", detail), {}
    if isinstance(error, LineTooLong):
        return problem(400, "line_too_long", "The request line, or one header, is longer than 8 KiB; shorten it."), {}
    if isinstance(error, HttpProcessingError):
        return problem(400, "bad_request", "The request is not well-formed HTTP."), {}
    if isinstance(error, Misconfigured):
        return problem(500, "misconfigured", f"{error.detail} {error.remedy}"), {}
    if isinstance(error, Poison):
        return problem(500, error.cause, "A stored record cannot be read; see the server's log."), {}
    return problem(500, "internal_error", "Something went wrong here; the server's log tells it by the request id."), {}


def problems(clock: Clock, metrics: Metrics) -> _Middleware:
    """The outermost middleware: answers problems for errors, counts and times every request, never leaks a trace."""
    log = structlog.get_logger("chronicle.http")

    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        started = clock.monotonic()
        request_id = _request_id(request, clock)
        try:
            response = await handler(request)
        except ConnectionError:
            metrics.inc("chronicle_http_requests_total", route=route_of(request), method=_method(request), status="499")
            raise
        except (web.HTTPSuccessful, web.HTTPRedirection) as answer:  # aiohttp's way to raise what is no error
            _count(request, answer.status, clock.monotonic() - started, metrics)
            raise
        except Exception as error:
            response = _respond(error, request_id)
            if response.status >= 500 and not isinstance(error, (Unavailable, web.HTTPException)):
                log.error("request failed", route=route_of(request), request_id=request_id, exc_info=error)
        _count(request, response.status, clock.monotonic() - started, metrics)
        if not response.prepared:
            response.headers.setdefault(REQUEST_ID, request_id)
        return response

    return middleware


def outside(clock: Clock, metrics: Metrics) -> Callable[[Exception], web.Response]:
    """The answer to what never came to the middleware, because it is no request or not a whole one; counted too."""

    def answer(error: Exception) -> web.Response:
        request_id = str(clock.new_id())
        response = _respond(error, request_id)
        response.headers[REQUEST_ID] = request_id
        metrics.inc("chronicle_http_requests_total", route="unmatched", method="OTHER", status=str(response.status))
        return response

    return answer


def route_of(request: web.Request) -> str:
    """The route's template (`/events/{event_id}`), never the path itself: labels are a bounded set."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unmatched"


def _respond(error: Exception, request_id: str) -> web.Response:
    found, headers = problem_of(error)
    found = msgspec.structs.replace(found, request_id=request_id)
    response = web.Response(
        status=found.status, body=msgspec.json.encode(found), content_type=CONTENT_TYPE, headers=headers
    )
    if found.status in (408, 413):
        response.force_close()  # the rest of the body is not worth reading
    return response


def _unavailable(error: Unavailable) -> tuple[Problem, dict[str, str]]:
    detail = "Nothing was promised"
    if error.unknown:
        detail = "It is not known whether the events were taken"
    detail += "; send the same again with the same event ids: what arrives twice is stored once."
    code = "outcome_unknown" if error.unknown else "unavailable"
    return problem(503, code, f"{error.what} is away. {detail}"), {"Retry-After": str(max(1, round(error.retry_after)))}


def _of_aiohttp(error: web.HTTPException) -> tuple[Problem, dict[str, str]]:
    status = error.status
    headers = {
        name: value for name, value in error.headers.items() if name in ("Allow", "WWW-Authenticate", "Location")
    }
    details = {
        404: "There is nothing at this address; GET /openapi.json lists what there is.",
        405: f"This address takes {headers.get('Allow', 'other methods')}.",
        413: "The body is too large; send it in parts.",
    }
    return problem(status, _CODES.get(status, "http_error"), details.get(status, error.reason)), headers


def _request_id(request: web.Request, clock: Clock) -> str:
    sent = request.headers.get(REQUEST_ID) or request.headers.get("X-Request-Id") or ""
    return sent if _SANE_ID.fullmatch(sent) else str(clock.new_id())


def _method(request: web.Request) -> str:
    return request.method if request.method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS") else "OTHER"


def _count(request: web.Request, status: int, seconds: float, metrics: Metrics) -> None:
    route = route_of(request)
    metrics.inc("chronicle_http_requests_total", route=route, method=_method(request), status=str(status))
    metrics.observe("chronicle_http_request_seconds", seconds, route=route)
