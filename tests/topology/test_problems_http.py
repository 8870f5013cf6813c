"""Every error becomes a problem; nothing leaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from app.problems import problems
from schemas.clock import SystemClock
from schemas.errors import Misconfigured, Poison, Refused, Unavailable
from schemas.metrics import NullMetrics

ERRORS: dict[str, tuple[Exception, int, str]] = {
    "refused": (Refused(422, "some_code", "Some detail.", "/a/b"), 422, "some_code"),
    "away": (Unavailable("the database", "gone", retry_after=0.2), 503, "unavailable"),
    "setup": (Misconfigured("X is wrong.", "Set Y."), 500, "misconfigured"),
    "poison": (Poison("undecodable", "bytes"), 500, "undecodable"),
    "bug": (RuntimeError("the secret text of a bug"), 500, "internal_error"),
    "large": (web.HTTPRequestEntityTooLarge(1), 413, "too_large"),
    "teapot": (web.HTTPForbidden(), 403, "not_allowed"),
}


@pytest.fixture
async def client() -> AsyncIterator[TestClient[web.Request, web.Application]]:
    async def fail(request: web.Request) -> web.Response:
        raise ERRORS[request.match_info["name"]][0]

    async def move(_: web.Request) -> web.Response:
        raise web.HTTPFound("/there")

    app = web.Application(middlewares=[problems(SystemClock(), NullMetrics())])
    app.router.add_get("/fail/{name}", fail)
    app.router.add_get("/move", move)
    async with TestClient(TestServer(app)) as opened:
        yield opened


@pytest.mark.parametrize("name", ERRORS)
async def test_each_error_has_its_problem(client: Any, name: str) -> None:
    """Status, code, type and request id; no text of a bug."""
    answer = await client.get(f"/fail/{name}", headers={"Chronicle-Request-Id": "abc-1"})
    body = await answer.json(content_type="application/problem+json")
    _, status, code = ERRORS[name]
    assert (answer.status, body["status"], body["code"]) == (status, status, code)
    assert body["request_id"] == answer.headers["Chronicle-Request-Id"] == "abc-1"
    assert "secret text" not in await answer.text()


async def test_refusals_point_to_the_fault(client: Any) -> None:
    """Detail and pointer are those of the error."""
    body = await (await client.get("/fail/refused")).json(content_type=None)
    assert (body["detail"], body["pointer"]) == ("Some detail.", "/a/b")


async def test_outages_say_when_to_come_back(client: Any) -> None:
    """Retry-After is at least a second."""
    assert (await client.get("/fail/away")).headers["Retry-After"] == "1"


async def test_unknown_addresses_and_methods_are_problems(client: Any) -> None:
    """404 and 405 of the router, with Allow."""
    missing = await client.get("/nowhere")
    assert (missing.status, (await missing.json(content_type=None))["code"]) == (404, "not_found")
    wrong = await client.post("/move")
    assert (wrong.status, (await wrong.json(content_type=None))["code"]) == (405, "method_not_allowed")
    assert wrong.headers["Allow"] == "GET,HEAD"


async def test_redirects_are_no_problems(client: Any) -> None:
    """What aiohttp raises to redirect goes through."""
    answer = await client.get("/move", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (302, "/there")


async def test_a_strange_request_id_is_replaced(client: Any) -> None:
    """Only short plain ids are taken over into answers and logs."""
    answer = await client.get("/nowhere", headers={"Chronicle-Request-Id": "x y" * 50})
    assert " " not in answer.headers["Chronicle-Request-Id"]
