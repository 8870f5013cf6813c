"""The audit: the loss ledger, and what became of every single record of the ingest topic, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp.web import Request, Response

from app import audit, ledger
from app.audit import Fate, Look
from app.stats import LedgerReader, Local, Offsets, Reading
from app.views import ops, respond, shapes
from app.views.params import Query, path_number
from app.views.route import Param, Route
from connectors.ports import StatusBoard
from connectors.readers.failover import FailoverReader
from connectors.scan import Stretch, partition_of
from schemas.codec import AvroCodec
from schemas.errors import Refused
from schemas.query import Witnesses
from schemas.topics import Topics

#: Records of one page, and ids in one question to a database.
PAGE = 10_000
IDS = 1_000
#: Seconds until what seems to be missing is looked for once more: a dead letter is in its topic before its table.
PATIENCE_S = 1.0
_SESSION = Param(name="session_id", schema={"type": "string", "minLength": 1, "maxLength": 1024}, doc="Only this one.")
_PARTITION = Param(
    name="partition", where="path", required=True, schema={"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
)
_OFFSET = {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}
_START = Param(name="start", schema=_OFFSET, doc="From this offset on; 0 when absent.")
_END = Param(name="end", schema=_OFFSET, doc="Before this offset; the end of the partition when absent.")
_PARAMS = (_PARTITION, _START, _END, _SESSION)


class Scan(Protocol):
    """Reads a stretch of a topic. Raises `Unavailable`."""

    async def read(self, topic: str, partition: int, start: int, end: int, most: int) -> Stretch: ...


class Edges(Offsets, Protocol):
    """Where topics begin and end. Raises `Unavailable`."""

    async def begin_offsets(self, topic: str) -> Any: ...


class AuditViews:
    """The handlers. Naming what is missing needs the broker and Postgres; the sums need neither."""

    def __init__(
        self,
        *,
        ledger: LedgerReader,
        offsets: Edges,
        scan: Scan,
        status: StatusBoard,
        reader: FailoverReader,
        local: Local | None,
        topics: Topics,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger, self._offsets, self._scan, self._status = ledger, offsets, scan, status
        self._reader, self._local, self._topics, self._sleep = reader, local, topics, sleep
        self._peek = AvroCodec().peek

    async def sums(self, request: Request) -> Response:
        """The equation, and which stretches of the log the single records are in."""
        session_id = Query(request, (_SESSION,)).text("session_id")
        reading = await self._ledger.read()
        source = "sqlite" if reading.degraded else "postgres"
        told = ops.stats_body(reading, self._status.statuses(), source)
        kept = {name: told[name] for name in ("ledger", "parts", "source", "degraded", "stale", "at")}
        body = kept | {"session_id": session_id, "log": await self._log(session_id)}
        return respond.json(body, headers={respond.SOURCE_HEADER: source})

    async def _log(self, session_id: str | None) -> list[dict[str, int]]:
        topic = self._topics.ingest
        begins, ends = await self._offsets.begin_offsets(topic.name), await self._offsets.end_offsets(topic.name)
        wanted = sorted(ends)
        if session_id is not None and ends:
            wanted = [partition_of(session_id.encode("utf-8", "replace"), len(ends))]
        return [{"partition": p, "begin": begins.get(p, 0), "end": ends[p]} for p in wanted if p in ends]

    async def records(self, request: Request) -> Response:
        """One page of one partition."""
        partition = path_number(request, "partition", 2**31 - 1)
        query = Query(request, _PARAMS)
        session_id, start, end = query.text("session_id"), query.number("start"), query.number("end")
        ends = await self._offsets.end_offsets(self._topics.ingest.name)
        if partition not in ends:
            raise Refused(404, "not_found", f"There is no partition {partition}; there are {len(ends)}.")
        # The ledger is read first: what is not under way by now is in a database when that is asked below.
        reading = await self._ledger.read()
        pending_from = await self._pending_from(partition, reading)
        last = ends[partition] if end is None else min(end, ends[partition])
        first = start or 0
        stretch = Stretch([], max(first, last))
        if first < last:
            stretch = await self._scan.read(self._topics.ingest.name, partition, first, last, PAGE)
        key = None if session_id is None else session_id.encode("utf-8", "replace")
        looked = [
            audit.look(partition, offset, value, self._peek)
            for offset, found_key, value, _ in stretch.records
            if key is None or found_key == key
        ]
        found = await self._fates(partition, looked, pending_from)
        return respond.json(_page(partition, first, stretch, last, found))

    async def _pending_from(self, partition: int, reading: Reading) -> int:
        """The first ingest offset that may be on its way still; conservative while the public topic is behind."""
        inputs = reading.inputs
        seen = inputs.dedupe.get(partition)
        start = seen.next if seen else 0
        done = ledger.highest((inputs.postgres.next, inputs.sqlite.next, inputs.persist_next)).get(partition, 0)
        ends = await self._offsets.end_offsets(self._topics.events.name)
        end = max(ends.get(partition, 0), inputs.events_end.get(partition, 0))
        if done >= end:
            return start
        stretch = await self._scan.read(self._topics.events.name, partition, done, end, 1)
        places = [audit.position_of(headers) for *_, headers in stretch.records]
        return min([start, *(place for place in places if place is not None)])

    async def _fates(self, partition: int, looked: list[Look], pending_from: int) -> list[tuple[Look, Fate]]:
        found = await self._ask(partition, looked, pending_from)
        lost = [record for record, fate in found if fate == "missing"]
        if lost:
            await self._sleep(PATIENCE_S)
            again = dict(await self._ask(partition, lost, pending_from))
            found = [(record, again.get(record, fate)) for record, fate in found]
        return found

    async def _ask(self, partition: int, looked: list[Look], pending_from: int) -> list[tuple[Look, Fate]]:
        found: list[tuple[Look, Fate]] = []
        for start in range(0, len(looked), IDS):
            part = looked[start : start + IDS]
            found += audit.fates(part, await self._witnesses(partition, part), pending_from)
        return found

    async def _witnesses(self, partition: int, part: list[Look]) -> list[Witnesses]:
        """SQLite first: sync-back moves from there to Postgres, so that nothing is between the two questions."""
        ids = [record.id for record in part if record.id is not None]
        first, last = part[0].place.offset, part[-1].place.offset
        local = [await self._local.witnesses(partition, first, last, ids)] if self._local is not None else []
        return [
            await self._reader.ask_primary(lambda reader: reader.witnesses(partition, first, last, ids)),
            *local,
        ]


def _page(partition: int, first: int, stretch: Stretch, end: int, found: list[tuple[Look, Fate]]) -> dict[str, Any]:
    missing = [
        {"event_id": None if record.id is None else str(record.id), "partition": partition, "offset": at}
        for record, fate in found
        if fate == "missing" and (at := record.place.offset) >= 0
    ]
    return {
        "partition": partition,
        "start": first,
        "next": stretch.next if stretch.next < end else None,
        "end": end,
        "read": len(stretch.records),
        "records": audit.count(found),
        "missing": missing,
    }


def routes(views: AuditViews) -> list[Route]:
    """For processes with the role api."""
    away: tuple[str, Any] = ("The broker or Postgres is away: nothing can be said of single records.", None)
    long: tuple[str, Any] = ("The request line is longer than 8 KiB.", None)
    bad: tuple[str, Any] = ("A parameter is wrong or unknown; `pointer` names it.", None)
    return [
        Route(
            method="GET",
            path="/audit",
            handler=respond.guarded(views.sums),
            summary="The loss ledger, and where the records are",
            tag="ops",
            doc="`log` says which offsets of the ingest topic hold the records; ask for them page by page.",
            params=(_SESSION,),
            responses={200: ("The ledger.", shapes.Audit), 400: long, 422: bad, 503: away},
        ),
        Route(
            method="GET",
            path="/audit/{partition}",
            handler=respond.guarded(views.records),
            summary="What became of each record of a stretch of the ingest topic",
            tag="ops",
            doc="At most 10,000 records a page; go on at `next` until it is null. `missing` names what is nowhere.",
            params=_PARAMS,
            responses={
                200: ("The page.", shapes.AuditPage),
                400: long,
                404: ("There is no such partition.", None),
                422: bad,
                503: away,
            },
        ),
    ]
