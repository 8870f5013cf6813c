"""/openapi.json, /asyncapi.json and the page at /docs.

The page is Swagger UI from an installed package: no CDN, no inline script, a strict CSP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from aiohttp.web import FileResponse, Request, Response, StreamResponse

from app.views.route import Param, Route
from schemas.errors import Misconfigured, Refused

#: Our name -> the file in the package `offapi`. It ships Swagger UI 5; with 4 an OpenAPI 3.1 document is not shown.
ASSETS: Mapping[str, str] = {"swagger-ui.js": "swagger_bundle.js", "swagger-ui.css": "swagger_style.css"}
_TYPES = {".js": "text/javascript", ".css": "text/css"}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Chronicle API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript; the same is at <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/docs/assets/swagger-ui.js"></script>
<script src="/docs/assets/start.js"></script>
</body>
</html>
"""
#: validatorUrl null: Swagger UI would otherwise send the document's address to a site of its makers.
START = """window.onload = () => SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout"
});
"""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_GUARD = {"Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def assets_folder() -> Path:
    """Where the installed package keeps its files. Raises `Misconfigured` when it is not installed."""
    spec = find_spec("offapi")
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured("The package offapi, which holds the page at /docs, is not installed.", "Install it.")
    return Path(next(iter(spec.submodule_search_locations)))


class DocsViews:
    """The handlers. Both documents come encoded; each is made once, at the first request: all routes are known then."""

    def __init__(self, document: Callable[[], bytes], topics: Callable[[], bytes], assets: Path) -> None:
        self._document, self._topics = cache(document), cache(topics)
        self._assets = assets

    async def openapi(self, request: Request) -> StreamResponse:
        return _json(self._document())

    async def asyncapi(self, request: Request) -> StreamResponse:
        return _json(self._topics())

    async def page(self, request: Request) -> StreamResponse:
        return Response(text=PAGE, content_type="text/html", headers=_GUARD)

    async def asset(self, request: Request) -> StreamResponse:
        name = request.match_info["name"]
        if name == "start.js":
            return Response(text=START, content_type="text/javascript", headers=_GUARD)
        if name not in ASSETS:
            raise Refused(404, "not_found", "There is no such file.")
        headers = _GUARD | {"Content-Type": _TYPES[Path(name).suffix], "Cache-Control": "public, max-age=3600"}
        return FileResponse(self._assets / ASSETS[name], headers=headers)


def _json(document: bytes) -> Response:
    return Response(body=document, content_type="application/json", headers={"Cache-Control": "no-cache"})


def routes(document: Callable[[], bytes], topics: Callable[[], bytes], assets: Path) -> list[Route]:
    """`document` is called at the first request, so it may tell these routes too; `topics` is the AsyncAPI document."""
    views = DocsViews(document, topics, assets)
    name = Param(name="name", where="path", required=True, doc="A file of the page.")
    return [
        Route(
            method="GET",
            path="/openapi.json",
            handler=views.openapi,
            summary="This API as an OpenAPI 3.1 document",
            tag="docs",
            responses={200: ("The document.", {"type": "object"})},
        ),
        Route(
            method="GET",
            path="/asyncapi.json",
            handler=views.asyncapi,
            summary="The public topics and the live feed as an AsyncAPI 3.0 document",
            tag="docs",
            responses={200: ("The document.", {"type": "object"})},
        ),
        Route(
            method="GET",
            path="/docs",
            handler=views.page,
            summary="This API as a page",
            tag="docs",
            responses={200: ("The page.", "text/html")},
        ),
        Route(
            method="GET",
            path="/docs/assets/{name}",
            handler=views.asset,
            summary="A file of the page",
            tag="docs",
            params=(name,),
            responses={200: ("The file.", "text/javascript"), 404: ("There is no such file.", None)},
        ),
    ]
