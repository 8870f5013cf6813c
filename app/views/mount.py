"""Puts the route table on a Faust app's web server: our routes, and nothing Faust would add."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import faust
from aiohttp.web import Request, StreamResponse
from faust.web import View
from faust.web.base import BlueprintManager

from app.views.route import Handler, Route


class Mounted(View):
    """One path with its handlers by method. aiohttp answers 405 with `Allow` for the others."""

    handlers: ClassVar[Mapping[str, Handler]] = {}

    def get_methods(self) -> set[str]:
        """The methods we have; HEAD goes with GET. Faust alone would add HEAD to everything."""
        return set(self.handlers) | ({"HEAD"} if "GET" in self.handlers else set())

    async def dispatch(self, request: Request) -> StreamResponse:
        """Call the handler between Faust's two sensor calls."""
        sensors, app = self.app.sensors, self.app
        state = sensors.on_web_request_start(app, request, view=self)  # type: ignore[arg-type]
        response: StreamResponse | None = None
        try:
            response = await self.handlers["GET" if request.method == "HEAD" else request.method](request)
            return response
        finally:
            sensors.on_web_request_end(app, request, response, state, view=self)  # type: ignore[arg-type]


def mount(app: faust.App, routes: Iterable[Route]) -> None:
    """Add every route to `app.web`; call it once, before the app starts.

    Faust's own pages are taken out whatever the settings say: with all of them off it still serves an index at `/`.
    Raises ValueError when two routes have the same method and path.
    """
    app.web.blueprints = BlueprintManager([])
    for path, handlers in by_path(routes).items():
        view: Any = type("Mounted", (Mounted,), {"handlers": handlers, "view_path": path, "view_name": path})
        app.web.add_view(view)


def by_path(routes: Iterable[Route]) -> dict[str, dict[str, Handler]]:
    """Handlers by path and method."""
    table: dict[str, dict[str, Handler]] = {}
    for route in routes:
        handlers = table.setdefault(route.path, {})
        if route.method in handlers:
            raise ValueError(f"{route.method} {route.path} is there twice.")
        handlers[route.method] = route.handler
    return table
