"""Our routes on a real Faust app, and nothing Faust would add."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import faust
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from all_routes import all_routes
from app.problems import problems
from app.views.mount import mount
from app.views.route import Route
from reading import ManualClock, uid
from schemas.metrics import NullMetrics


def an_app() -> faust.App:
    """With Faust's own pages on, as they are by default: mounting must take them out all the same."""
    middlewares = [problems(ManualClock(), NullMetrics())]
    return faust.App(
        "mount-test",
        broker="kafka://127.0.0.1:9",
        store="memory://",
        web_tables_enabled=True,
        web_router_enabled=True,
        web_application_options={"middlewares": middlewares},
        debug=True,
    )


def server_of(app: faust.App) -> web.Application:
    app.web.init_server()
    application: web.Application = app.web.web_app
    return application


@pytest.fixture
async def client() -> AsyncIterator[TestClient[Any, Any]]:
    """A Faust web server with the whole route table."""
    app = an_app()
    mount(app, all_routes())
    async with TestClient(TestServer(server_of(app))) as made:
        yield made


def test_only_our_routes_are_on_the_server() -> None:
    """A walk over aiohttp's own table: Faust's /table, /router, /graph and / are not in it."""
    table = all_routes()
    app = an_app()
    mount(app, table)
    served = {(route.method, route.resource.canonical) for route in server_of(app).router.routes() if route.resource}
    ours = {(route.method, route.path) for route in table}
    heads = {("HEAD", path) for method, path in ours if method == "GET"}
    assert served == ours | heads


async def test_the_walk_would_see_what_faust_serves() -> None:
    """Without our mount its pages are there: the test above can fail."""
    paths = {route.resource.canonical for route in server_of(an_app()).router.routes() if route.resource}
    assert any(path.startswith("/table") for path in paths)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/events", {"GET", "HEAD", "POST"}),
        ("PUT", "/health", {"GET", "HEAD"}),
        ("HEAD", "/events/batch/none", None),
        ("OPTIONS", "/stats", {"GET", "HEAD"}),
        ("GET", "/hooks/claude-code", {"POST"}),
        ("HEAD", "/hooks/claude-code", {"POST"}),
        ("PATCH", f"/events/{uid(1)}", {"GET", "HEAD", "POST"}),
    ],
)
async def test_a_wrong_method_is_405_with_allow(
    client: TestClient[Any, Any], method: str, path: str, allowed: set[str] | None
) -> None:
    """The header names the methods of all routes at that address; an address nobody has is 404."""
    async with client.request(method, path) as answer:
        if allowed is None:
            assert answer.status == 404
        else:
            assert answer.status == 405
            assert {name.strip() for name in answer.headers["Allow"].split(",")} == allowed


async def test_head_goes_with_get_and_has_no_body(client: TestClient[Any, Any]) -> None:
    """Balancers ask like this."""
    async with client.head("/health") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_handlers_answer_through_faust(client: TestClient[Any, Any]) -> None:
    """Path parameters, errors as problems, and POST beside GET on one path."""
    async with client.get(f"/events/{uid(1)}") as answer:
        assert (await answer.json())["event_id"] == str(uid(1))
    async with client.get("/events?limit=0") as answer:
        assert (answer.status, answer.content_type) == (422, "application/problem+json")
    async with client.post("/events", data=b"not json") as answer:
        assert answer.status in {400, 415}


def test_two_handlers_for_one_route_are_a_mistake() -> None:
    """The second would never be called."""
    table = all_routes()
    with pytest.raises(ValueError):
        mount(an_app(), [*table, Route(method="GET", path="/events", handler=table[0].handler, summary="x", tag="t")])
