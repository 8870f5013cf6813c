"""aiohttp's server with what it lacks: a time limit for request headers, a bound on connections, and our error answers.

It parses requests before any handler or middleware of ours runs, so what never becomes a request is answered here.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from schemas.errors import Refused

#: The problem that answers an error, where no request is there to ask for its route or id.
Answer = Callable[[Exception], web.Response]
log = structlog.get_logger("chronicle.http")


@dataclass(frozen=True)
class Limits:
    """`header_seconds` from the first byte of a request to the end of its headers; `max_connections` at once."""

    header_seconds: float = 10.0
    max_connections: int = 2000


DEFAULT_LIMITS: Final = Limits()


class Connection(web.RequestHandler):
    """One client. A slow or one too many gets a problem and is hung up on; what is no HTTP gets a problem (400)."""

    __slots__ = ("_due", "_limited")

    def __init__(self, server: LimitedServer, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(server, loop=loop, **kwargs)
        self._limited = server
        self._due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the client, or tell it that there is no room."""
        if self._limited.has_room():
            super().connection_made(transport)
            return
        self.force_close()  # nothing is read of it
        _hang_up(cast(asyncio.Transport, transport), self._limited.answer(_no_room()))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the client."""
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The clock runs from the first byte of a request until all its headers are here."""
        super().data_received(data)
        if not self._waits_for_headers():
            self._in_time()
        elif self._due is None and data.strip(b"\r\n"):  # some clients send an empty line after a body
            self._due = self._loop.call_later(self._limited.limits.header_seconds, self._too_slow)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """aiohttp's own has text/plain, and a traceback in the log for each client that talks nonsense."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer has been sent, another one cannot follow")
        if isinstance(exc, ConnectionError):
            log.debug("the client hung up", error=str(exc))
        elif not isinstance(exc, HttpProcessingError):
            log.error("request failed outside of its handler", status=status, exc_info=exc)
        error = exc if isinstance(exc, Exception) else RuntimeError(message or "no answer in time")
        response = self._limited.answer(error)
        response.force_close()
        return response

    def _waits_for_headers(self) -> bool:
        """Whether all that came is less than one request's headers.

        `_waiter` is pending while the connection waits for a request, and is done as soon as its headers are parsed.
        It is None while one is handled, and for a moment at the start, before `_request_count` has left 0. Needed until
        aiohttp has a time limit for headers (3.14 has none).
        """
        waiter = self._waiter
        return self._request_count == 0 if waiter is None else not waiter.done()

    def _in_time(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _too_slow(self) -> None:
        self._due = None
        if self.transport is not None:
            _hang_up(self.transport, self._limited.answer(_too_slow(self._limited.limits)))
            self.force_close()


class LimitedServer(web.Server):
    """Makes a `Connection` for each client, and holds no more of them than half of the files it may open.

    `answer` says what a client gets that never came to a handler.
    """

    def __init__(self, *args: Any, limits: Limits, answer: Answer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits, self.answer = limits, answer
        self._most = min(limits.max_connections, _files() // 2)

    def has_room(self) -> bool:
        """Whether one more connection may be held."""
        return len(self.connections) < self._most

    def __call__(self) -> Connection:
        return Connection(self, self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """`web.AppRunner` over a `LimitedServer`."""

    __slots__ = ("_answer", "_limits")

    def __init__(self, app: web.Application, *, limits: Limits, answer: Answer, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._limits, self._answer = limits, answer

    async def _make_server(self) -> LimitedServer:
        """Until aiohttp lets an application choose the class of its connections: make its server anew as ours."""
        made = await super()._make_server()
        return LimitedServer(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            limits=self._limits,
            answer=self._answer,
            **made._kwargs,
        )


def _too_slow(limits: Limits) -> Refused:
    detail = f"The headers did not arrive within {limits.header_seconds:g} s; send them at once."
    return Refused(408, "header_timeout", detail)


def _no_room() -> Refused:
    detail = "The server holds as many connections as it may; come back, and use one connection for many requests."
    return Refused(503, "too_many_connections", detail)


def _hang_up(transport: asyncio.Transport, response: web.Response) -> None:
    """Send an answer to which there is no request, and close."""
    body = response.body
    assert isinstance(body, bytes)
    headers = {**response.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    transport.write("\r\n".join([*lines, "", ""]).encode() + body)
    transport.close()


def _files() -> int:
    """How many files (sockets are files) this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
