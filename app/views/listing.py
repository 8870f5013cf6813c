"""Lists as answers: a page as JSON (kept for a moment, with an ETag, packed), or all of it as lines, CSV or Parquet."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from aiohttp.web import ContentCoding, Request, Response, StreamResponse

from app.views import respond
from app.views.formats import FORMATS, Writer, chosen, columns_of, quality, weight, writer
from app.views.fresh import Fresh, Kept
from app.views.params import CURSOR, Query, refuse
from app.views.route import Param
from connectors.readers.failover import Answer
from schemas.errors import Unavailable
from schemas.query import MAX_LIMIT, Cursor, Held, Page

#: (cursor, limit, whether payload and metadata are wanted) -> a page.
Ask = Callable[[Cursor | None, int, bool], Awaitable[Answer[Page]]]
#: What is added to an item before it is shown.
Dress = Callable[[dict[str, Any]], dict[str, Any]]

#: Rows of one question of an export, and exports that run at once in a process.
STEP: Final = 1000
EXPORTS: Final = 4
#: Rows with large fields that are read at once, and bytes of them from which a page is long enough: one may be 900 KiB.
PIECE: Final = 100
PAGE_BYTES: Final = 16 << 20
#: Fields that may be that large.
LARGE: Final = frozenset({"payload", "metadata", "error_message"})
#: Seconds that one write of an export may take: who does not read for so long is hung up on.
STUCK_S: Final = 30.0
#: What an answer depends on besides its address.
VARY: Final = "Accept, Accept-Encoding"
#: Bytes from which an answer is packed, and from which that is done beside the event loop.
PACK, ASIDE = 1024, 32 << 10

LIMIT = Param(
    name="limit",
    schema={"type": "integer", "minimum": 1},
    doc=f"How many rows at most: 1 to {MAX_LIMIT} (100) for JSON, any number (all) for the other formats.",
)
FIELDS = Param(name="fields", doc="Only these fields, with commas between; without `payload` no payload is read.")
FORMAT = Param(
    name="format",
    schema={"type": "string", "enum": list(FORMATS)},
    doc="Beats the header `Accept`. All but `json` go on over all pages, from `cursor` to the end.",
)
#: Media types of the formats beside JSON.
MEDIA: Final = tuple(media for name, media in FORMATS.items() if name != "json")
PAGING = (LIMIT, CURSOR, FIELDS, FORMAT)


class Listing:
    """One kind of list. `shape` is the type of its items."""

    def __init__(
        self, name: str, shape: type[msgspec.Struct], fresh: Fresh, exports: asyncio.Semaphore | None = None
    ) -> None:
        """`exports` says how many run at once; lists that share one share the number."""
        self._name, self._columns, self._fresh = name, columns_of(shape), fresh
        self._exports = exports or asyncio.Semaphore(EXPORTS)

    async def answer(self, request: Request, query: Query, ask: Ask, dress: Dress | None = None) -> StreamResponse:
        """The page or the export that the request asks for. Raises `Refused`, `Unavailable`."""
        format = chosen(query.choice("format", tuple(FORMATS)), request.headers.get("Accept", ""))
        fields = query.names("fields", tuple(self._columns))
        bodies = fields is None or dress is not None or not LARGE.isdisjoint(fields)
        show, cursor = _shown(fields, dress), query.cursor()

        async def rows(after: Cursor | None, limit: int) -> Answer[Page]:
            found = await (_filled(ask, after, limit) if bodies else ask(after, limit, False))
            page = msgspec.structs.replace(found.value, items=[show(item) for item in found.value.items])
            return msgspec.structs.replace(found, value=page)

        if format != "json":
            if cursor is not None and cursor.back:
                refuse("cursor", "An export goes on to the end: give it the `next` of a page, not its `previous`.")
            columns = {name: self._columns[name] for name in fields} if fields else self._columns
            return await self._export(request, format, writer(format, columns), Export(rows, cursor, query.most()))
        limit = query.limit()

        async def make() -> Kept:
            return _kept(await rows(cursor, limit))

        return respond_kept(request, await self._fresh.get((request.path, *sorted(request.query.items())), make))

    async def _export(self, request: Request, format: str, out: Writer, export: Export) -> StreamResponse:
        if self._exports.locked():
            raise Unavailable("exports", f"{EXPORTS} exports are running already.", retry_after=5)
        async with self._exports:
            source = await export.begin()
            response = _begun(request, format, self._name, source)
            await response.prepare(request)
            if request.method != "HEAD":
                await _send(request, response, out, export)
            await response.write_eof()
            return response


class Export:
    """All pages from `cursor` on, at most `most` rows, all out of one database.

    What the local store takes home to Postgres it drops by and by. A page out of it that follows such a drop may lack
    rows, and nothing in it tells: then the export ends with an error, never as a shorter file.
    """

    def __init__(
        self, rows: Callable[[Cursor | None, int], Awaitable[Answer[Page]]], cursor: Cursor | None, most: int | None
    ) -> None:
        self._rows, self._cursor, self._left = rows, cursor, most
        self._answer: Answer[Page] | None = None
        self._held: Held | None = None

    async def begin(self) -> str:
        """Ask for the first page: what is wrong with the question shows before anything is sent. Names the database."""
        self._answer = await self._rows(self._cursor, self._step())
        self._check(self._answer, self._answer)
        return self._answer.source

    async def pages(self) -> AsyncIterator[list[dict[str, Any]]]:
        """The items of one page after the other. Raises `Unavailable`."""
        answer = self._answer
        while answer is not None:
            yield answer.value.items
            if self._left is not None:
                self._left -= len(answer.value.items)
            if answer.value.next is None or self._left == 0:
                return
            before, answer = answer, await self._rows(answer.value.next, self._step())
            self._check(before, answer)

    def _check(self, before: Answer[Page], now: Answer[Page]) -> None:
        if now.source != before.source:
            raise Unavailable(before.source, "the database changed in the middle of an export")
        if now.held is None:
            return
        if self._held is None or self._held.first == 0:
            self._held = now.held[0]
        if now.held[1].lacks(self._held):
            raise Unavailable(now.source, "events went back to Postgres in the middle of an export; ask again")

    def _step(self) -> int:
        return STEP if self._left is None else min(STEP, self._left)


async def _send(request: Request, response: StreamResponse, out: Writer, export: Export) -> None:
    """Each page is written before the next is asked for.

    What fails on the way cuts the connection: an answer that merely ended would look whole.
    """

    async def write(data: bytes) -> None:
        async with asyncio.timeout(STUCK_S):
            await response.write(data)

    try:
        await write(out.begin())
        async for items in export.pages():
            await write(await asyncio.to_thread(out.rows, items))
        await write(await asyncio.to_thread(out.end))
    except TimeoutError as error:
        _abort(request)
        raise ConnectionResetError("who asked for the export reads nothing") from error
    except Exception:
        _abort(request)
        raise


def _abort(request: Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _filled(ask: Ask, after: Cursor | None, limit: int) -> Answer[Page]:
    """A page with payloads: read a piece at a time, and shorter than asked for once it is PAGE_BYTES large.

    A piece that is not full although the list goes on has cost enough: the page ends with it.
    """
    back, asked = after is not None and after.back, min(limit, PIECE)
    answer = await ask(after, asked, True)
    page, size, full = answer.value, weight(answer.value.items), len(answer.value.items) == asked
    while full and len(page.items) < limit and size < PAGE_BYTES:
        on, asked = page.previous if back else page.next, min(limit - len(page.items), PIECE)
        if on is None:
            break
        more = await ask(on, asked, True)
        if more.source != answer.source:  # the page ends here; the next one says where it comes from
            break
        size, full = size + weight(more.value.items), len(more.value.items) == asked
        page = _joined(more.value, page) if back else _joined(page, more.value)
        answer = msgspec.structs.replace(answer, held=_during(answer, more))
    return msgspec.structs.replace(answer, value=page)


def _joined(first: Page, second: Page) -> Page:
    return Page(items=[*first.items, *second.items], next=second.next, previous=first.previous)


def _during(first: Answer[Page], last: Answer[Page]) -> tuple[Held, Held] | None:
    return None if first.held is None or last.held is None else (first.held[0], last.held[1])


def respond_kept(request: Request, kept: Kept) -> Response:
    """A kept answer, or 304 for who has it already."""
    headers = {**dict(kept.headers), "Vary": VARY}
    known = {tag.strip() for tag in request.headers.get("If-None-Match", "").split(",")}
    if not known.isdisjoint({headers["ETag"], "*"}):
        return Response(status=304, headers=headers)
    response = Response(body=kept.body, content_type="application/json", headers=headers, zlib_executor_size=ASIDE)
    packed(request, response, len(kept.body))
    return response


def packed(request: Request, response: StreamResponse, size: int | None = None) -> None:
    """Send it with gzip to whom takes that; `size` None: it is a long one."""
    response.headers["Vary"] = VARY
    if (size is None or size >= PACK) and quality("gzip", request.headers.get("Accept-Encoding", "")) > 0:
        response.enable_compression(ContentCoding.gzip)


def _kept(answer: Answer[Page]) -> Kept:
    body = respond.encode(respond.page_body(answer))
    headers = {
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "ETag": f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"',
        **respond.source(answer),
    }
    return Kept(body, tuple(headers.items()), lasting=answer.held is None)


def _begun(request: Request, format: str, name: str, source: str) -> StreamResponse:
    response = StreamResponse(
        headers={
            "Content-Type": FORMATS[format] + ("; charset=utf-8" if format == "csv" else ""),
            "Content-Disposition": f'attachment; filename="chronicle-{name}.{format}"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            respond.SOURCE_HEADER: source,
        }
    )
    if format != "parquet":  # packed inside
        packed(request, response)
    return response


def _shown(fields: Sequence[str] | None, dress: Dress | None) -> Dress:
    def show(item: dict[str, Any]) -> dict[str, Any]:
        whole: Mapping[str, Any] = item if dress is None else dress(item)
        return dict(whole) if fields is None else {name: whole[name] for name in fields}

    return show
