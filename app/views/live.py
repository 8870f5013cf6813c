"""The stream as it flows: Server-Sent Events and a WebSocket, with filters, and without a gap after a lost connection.

The id of an event is where one stands who has seen it (`schemas.live.Marks`). Whoever comes back with it gets what came
meanwhile, from the ring of this process or from the log, and then what comes, in one stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Never, Protocol

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.web import Request, StreamResponse

from agents.broadcast import Hub, Missed, Watcher
from agents.live_tail import LiveTail
from app.views import respond
from app.views.live_faces import STUCK_S, Sse, Ws
from app.views.live_pump import STATS_S, Carried, Pump
from app.views.params import Query
from app.views.route import Param, Route
from connectors.ports import Codec
from schemas.errors import Poison, Refused
from schemas.live import MAX_TEXT, LiveEvent, LiveFilter, Marks
from schemas.metrics import Metrics

log = structlog.get_logger("chronicle.live")

#: Seconds without an event until the place is told again: proxies close what is silent for a minute.
HEARTBEAT_S: Final = 15.0
#: Seconds in which events gather after some were sent: a thousand who watch a busy stream would each be written to for
#: each event otherwise.
GATHER_S: Final = 0.05
#: Records read from the log at once for somebody who comes back.
PAGE: Final = 1_000
#: Names in one filter.
MAX_NAMES: Final = 50

_FILTER: Final = (
    Param(name="session", doc="Only of this session."),
    Param(name="project", doc="Only of this project (last part of the working directory)."),
    Param(name="agent", doc="Only of this sub-agent, by its id or its type."),
    Param(name="type", doc="Only of these event types, comma separated."),
    Param(name="tool", doc="Only of these tools, comma separated."),
    Param(name="text", doc=f"Only with this text (at most {MAX_TEXT} characters) in payload or names, in any case."),
)
_AFTER = Param(name="after", doc="Go on behind this place, the id of an event. `Last-Event-ID` says the same.")
#: The query parameters of both ways to watch.
PARAMS: Final = (*_FILTER, _AFTER)

Send = Callable[[LiveEvent | Missed], Awaitable[None]]


class Scan(Protocol):
    """Reads a stretch of the log (`connectors.scan.LogScan.read`); raises `Unavailable`."""

    async def read(self, topic: str, partition: int, start: int, end: int, most: int) -> Any: ...


class History:
    """What came between two places."""

    def __init__(self, scan: Scan, codec: Codec, topic: str) -> None:
        self._scan, self._codec, self._topic = scan, codec, topic

    async def between(self, hub: Hub, after: Marks, until: Marks, wanted: LiveFilter) -> AsyncIterator[LiveEvent]:
        """From the ring in the order of the stream; from the log partition by partition, each in its order."""
        if (ring := hub.since(after)) is not None:
            for live in ring:
                if live.offset < until.next[live.partition] and wanted.matches(live):
                    yield live
            return
        marks = after
        for partition, end in enumerate(until.next):
            at = after.next[partition]
            while at < end:
                stretch = await self._scan.read(self._topic, partition, at, end, PAGE)
                for offset, _, value, _ in stretch.records:
                    marks = marks.after(partition, offset)
                    found = self._live(value, partition, offset, marks)
                    if found is not None and wanted.matches(found):
                        yield found
                at = max(stretch.next, at + 1)
            marks = marks.after(partition, max(0, end - 1))

    def _live(self, value: bytes | None, partition: int, offset: int, marks: Marks) -> LiveEvent | None:
        try:
            return None if value is None else LiveEvent(self._codec.decode(value), partition, offset, marks)
        except Poison:
            return None


class LiveViews:
    """The handlers. `stats` gives what is pushed beside the events, at most once a second; None for nothing."""

    def __init__(
        self,
        tail: LiveTail,
        history: History,
        *,
        partitions: int,
        stats: Callable[[], Mapping[str, Any] | None] = lambda: None,
        metrics: Metrics,
        heartbeat_s: float = HEARTBEAT_S,
        gather_s: float = GATHER_S,
    ) -> None:
        self._tail, self._history, self._partitions, self._stats = tail, history, partitions, stats
        self._metrics, self._heartbeat_s, self._gather_s = metrics, heartbeat_s, gather_s
        self._figured: tuple[float, bytes | None] = (-STATS_S, None)
        self._pump = Pump(self._figures, gather_s=gather_s, heartbeat_s=heartbeat_s)

    async def sse(self, request: Request) -> StreamResponse:
        wanted, after = self._asked(request)
        async with self._tail.watching() as hub:
            response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
            response.content_type = "text/event-stream"
            await response.prepare(request)
            if request.method != "HEAD" and not await self._serve(hub, wanted, after, Sse(response, request.transport)):
                _abort(request)  # who reads nothing would not read the end of the answer either
        return response

    async def ws(self, request: Request) -> StreamResponse:
        wanted, after = self._asked(request)
        async with self._tail.watching() as hub:
            socket = web.WebSocketResponse(heartbeat=self._heartbeat_s, max_msg_size=16 * 1024)
            await socket.prepare(request)
            face = Ws(socket)
            serving = asyncio.create_task(self._serve(hub, wanted, after, face))
            listening = asyncio.create_task(self._listen(socket, face))
            try:
                await asyncio.wait((serving, listening), return_when=asyncio.FIRST_COMPLETED)
                if not listening.done():
                    await self._hang_up(request, socket, serving)
            finally:
                serving.cancel()
                listening.cancel()
                await asyncio.gather(serving, listening, return_exceptions=True)
        return socket

    async def _hang_up(self, request: Request, socket: web.WebSocketResponse, serving: asyncio.Task[bool]) -> None:
        """Nothing more will come: say why, or, to who reads nothing, nothing."""
        error = serving.exception()
        if error is None:
            _abort(request)
            return
        log.info("live.ended", error=repr(error))
        async with asyncio.timeout(STUCK_S):
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=str(error).encode()[:100])

    def _asked(self, request: Request) -> tuple[LiveFilter, Marks | None]:
        query = Query(request, PARAMS)
        place = request.headers.get("Last-Event-ID") or query.text("after")
        after = None if place is None else Marks.decode(place, self._partitions)
        return filter_of({param.name: query.text(param.name) for param in _FILTER}), after

    async def _serve(self, hub: Hub, wanted: LiveFilter, after: Marks | None, face: Sse | Ws) -> bool:
        """Until the client is gone (True), or reads nothing any more (False)."""
        face.filter = wanted
        with self._counted(face.name):
            return await self._go_on(hub, after, face)

    @contextlib.contextmanager
    def _counted(self, transport: str) -> Iterator[None]:
        self._metrics.inc("chronicle_live_clients", transport=transport)
        try:
            yield
        finally:
            self._metrics.inc("chronicle_live_clients", -1, transport=transport)

    async def _go_on(self, hub: Hub, after: Marks | None, face: Sse | Ws) -> bool:
        watcher = face.watcher = await self._caught_up(hub, after, face)
        watcher.filter = face.filter  # it may have been changed meanwhile
        try:
            await (self._carried(hub, face, watcher) if isinstance(face, Sse) else self._by_itself(face, watcher))
        except (ConnectionError, asyncio.CancelledError):
            return True
        except TimeoutError:
            return False
        finally:
            hub.leave(watcher)

    async def _carried(self, hub: Hub, face: Sse, watcher: Watcher) -> Never:
        """With all the others, but for the time in which it does not keep up."""
        one = Carried(face, watcher, asyncio.get_running_loop().time())
        while True:
            await self._pump.carry(hub, one)
            await self._send(face, watcher.take_now())
            await face.caught_up()

    async def _by_itself(self, face: Ws, watcher: Watcher) -> Never:
        told, figured = asyncio.get_running_loop().time(), float("-inf")
        figured = await self._pulse(face, figured)  # a page that was just opened shows them at once
        while True:
            if found := await watcher.take(STATS_S):
                await self._send(face, found)
            figured = await self._pulse(face, figured)
            now = asyncio.get_running_loop().time()
            if now - told >= self._heartbeat_s:
                told = now
                await face.place(watcher.marks)
            if found:
                await asyncio.sleep(self._gather_s)

    async def _send(self, face: Sse | Ws, found: Sequence[LiveEvent | Missed]) -> None:
        for one in found:
            if isinstance(one, Missed):
                self._metrics.inc("chronicle_live_missed_total", one.count)
        await face.send_all(found)

    async def _pulse(self, face: Ws, figured: float) -> float:
        """Figures, if it is time for them again; when they were told last."""
        now = asyncio.get_running_loop().time()
        if now - figured < STATS_S or (figures := self._figures(now)) is None:
            return figured
        await face.stats(figures)
        return now

    def _figures(self, now: float) -> bytes | None:
        """As JSON, once in STATS_S for all who watch: working them out is no small thing."""
        if now - self._figured[0] >= STATS_S:
            figures = self._stats()
            self._figured = (now, None if figures is None else msgspec.json.encode(figures))
        return self._figured[1]

    async def _caught_up(self, hub: Hub, after: Marks | None, face: Sse | Ws) -> Watcher:
        """Everything behind `after` sent, and a watcher that goes on from there."""
        watcher = hub.watch(face.filter)
        await face.hello(after or watcher.marks)
        try:
            while after is not None:
                async for live in self._history.between(hub, after, watcher.marks, face.filter):
                    await face.send(live)
                after = watcher.marks
                if not watcher.missed:
                    break
                hub.leave(watcher)  # more came meanwhile than its queue holds: once more, from where we are
                watcher = hub.watch(face.filter)
        except BaseException:
            hub.leave(watcher)
            raise
        return watcher

    async def _listen(self, socket: web.WebSocketResponse, face: Ws) -> None:
        """Changes of the filter, until the client closes."""
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            try:
                face.change(_told_filter(message.data))
                await face.put({"type": "filter", "filter": msgspec.to_builtins(face.filter)})
            except Refused as refused:
                told = {"code": refused.code, "detail": refused.detail, "pointer": refused.pointer}
                await face.put({"type": "error", **told})


def _abort(request: Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _told_filter(text: str) -> LiveFilter:
    try:
        told = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise Refused(422, "not_json", f"A message is a JSON object: {error}.") from error
    names = {param.name for param in _FILTER}
    if not isinstance(told, dict) or set(told) != {"filter"} or not isinstance(told["filter"], dict):
        raise Refused(422, "bad_message", 'A message is {"filter": {…}}.')
    for name, value in told["filter"].items():
        if name not in names:
            raise Refused(422, "unknown_parameter", f"A filter has {', '.join(sorted(names))}.", f"/filter/{name[:64]}")
        if value is not None and not (isinstance(value, str) and value):
            raise Refused(422, "bad_parameter", f"{name} is text, or null for everything.", f"/filter/{name}")
    return filter_of(told["filter"])


def filter_of(told: Mapping[str, str | None]) -> LiveFilter:
    """A filter out of its parameters. Raises `Refused`: too long a text, too many names."""
    text = told.get("text")
    if text is not None and len(text) > MAX_TEXT:
        raise Refused(422, "bad_parameter", f"text has at most {MAX_TEXT} characters.", "/text")
    return LiveFilter(
        session=told.get("session"),
        project=told.get("project"),
        agent=told.get("agent"),
        types=_names(told, "type"),
        tools=_names(told, "tool"),
        text=text,
    )


def _names(told: Mapping[str, str | None], name: str) -> frozenset[str]:
    found = frozenset(part.strip() for part in (told.get(name) or "").split(",") if part.strip())
    if len(found) > MAX_NAMES:
        raise Refused(422, "bad_parameter", f"{name} takes at most {MAX_NAMES} names.", f"/{name}")
    return found


def routes(views: LiveViews) -> list[Route]:
    """Both ways to watch."""
    answers: dict[int, tuple[str, Any]] = {
        422: ("A parameter is wrong or unknown; `pointer` names it.", None),
        503: ("The broker does not answer.", None),
    }
    return [
        Route(
            method="GET",
            path="/sse/events",
            handler=respond.guarded(views.sse),
            summary="Watch events (Server-Sent Events)",
            tag="live",
            doc="Each message is an event; `id` is its place. Others: `hello`, `missed`, `stats` (docs/live.md).",
            params=PARAMS,
            responses={200: ("A stream without end.", {"type": "string"}), **answers},
            media_type="text/event-stream",
        ),
        Route(
            method="GET",
            path="/ws/events",
            handler=respond.guarded(views.ws),
            summary="Watch events (WebSocket)",
            tag="live",
            doc='Send `{"filter": {…}}` to change what is watched. docs/live.md tells the messages.',
            params=PARAMS,
            responses={101: ("A WebSocket.", None), **answers},
        ),
    ]
