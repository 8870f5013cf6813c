"""The page at /dashboard/: static files, nothing made on the server, a policy that lets nothing else run.

Whatever an event holds is text on the page; the policy (CSP) is the second lock behind that.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from aiohttp.web import Request, Response

from app.views.params import Query, path_text
from app.views.route import Param, Route
from schemas.errors import Refused

FILES: Final = Path(__file__).parent / "static"
TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
#: What the page keeps in its address.
_SHOWN: Final = tuple(
    Param(name=name, doc=doc)
    for name, doc in (
        ("session", "Filter of the feed."),
        ("project", "Filter of the feed and of the charts."),
        ("type", "Filter of the feed."),
        ("tool", "Filter of the feed."),
        ("text", "Filter of the feed."),
        ("range", "Time shown: `1 h`, `24 h`, `7 d`, `30 d`."),
        ("open", "The session that is open."),
        ("status", "State of the sessions that are listed."),
        ("find", "Words that are searched for."),
    )
)


class Page:
    """One file, read once."""

    def __init__(self, file: Path) -> None:
        self._body = file.read_bytes()
        self._type = TYPES[file.suffix]
        self._etag = f'"{hashlib.sha256(self._body).hexdigest()[:16]}"'

    def answer(self, request: Request) -> Response:
        """The file, or 304 for who has it."""
        headers = {**HEADERS, "ETag": self._etag}
        if request.headers.get("If-None-Match") == self._etag:
            return Response(status=304, headers=headers)
        return Response(body=self._body, content_type=self._type, charset="utf-8", headers=headers)


class DashboardViews:
    """The handlers."""

    def __init__(self, folder: Path = FILES) -> None:
        self._pages = {file.name: Page(file) for file in sorted(folder.iterdir()) if file.suffix in TYPES}

    async def page(self, request: Request) -> Response:
        Query(request, _SHOWN)
        return self._pages["index.html"].answer(request)

    async def there(self, request: Request) -> Response:
        """The relative addresses on the page need the slash; what was asked for goes along."""
        query = request.query_string
        return Response(status=308, headers={"Location": "/dashboard/" + (f"?{query}" if query else "")})

    async def file(self, request: Request) -> Response:
        found = self._pages.get(path_text(request, "file"))
        if found is None:
            raise Refused(404, "not_found", "There is no such file of the dashboard; it is at /dashboard/.")
        return found.answer(request)


def routes(views: DashboardViews) -> list[Route]:
    """`/dashboard/` and what it loads."""
    same: tuple[str, Any] = ("You have it.", None)
    file = Param(name="file", where="path", required=True)
    return [
        Route(
            method="GET",
            path="/dashboard",
            handler=views.there,
            summary="The dashboard is at /dashboard/",
            tag="dashboard",
            responses={308: ("It is at /dashboard/.", None)},
        ),
        Route(
            method="GET",
            path="/dashboard/",
            handler=views.page,
            summary="The dashboard",
            tag="dashboard",
            doc="The page reads these parameters itself.",
            params=_SHOWN,
            responses={200: ("The page.", {"type": "string"}), 304: same, 422: ("An unknown parameter.", None)},
            media_type="text/html",
        ),
        Route(
            method="GET",
            path="/dashboard/{file}",
            handler=views.file,
            summary="What the dashboard loads",
            tag="dashboard",
            params=(file,),
            responses={
                200: ("The file.", {"type": "string"}),
                304: same,
                404: ("There is none.", None),
                422: ("No name of a file.", None),
            },
            media_type="text/javascript",
        ),
    ]
