"""/openapi.json tells every route, is valid, and the answers are as it says; /docs works without a network."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from all_routes import VERSION, all_routes
from app.openapi import document
from app.views import docs
from app.views.route import Param, Route
from reading import serving, uid


def operations(told: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in told["paths"].items() for method in methods}


def shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def test_the_document_is_valid_openapi_3_1() -> None:
    """By the validator of the specification."""
    told = json.loads(json.dumps(document(all_routes(), VERSION)))
    assert [error.message for error in OpenAPIV31SpecValidator(told).iter_errors()] == []
    assert told["openapi"].startswith("3.1")
    assert told["info"]["version"] == VERSION


def test_every_route_is_told_and_no_other() -> None:
    """Ours, the ingest's and the registry's."""
    table = all_routes()
    told = {(method, shape(path)) for method, path in operations(document(table, VERSION))}
    assert told == {(route.method, shape(route.path)) for route in table}
    assert len(told) == len(table)


def test_operation_ids_are_unique_and_parameters_complete() -> None:
    """Every `{name}` of a path is a required parameter."""
    told = document(all_routes(), VERSION)
    ids = [operation["operationId"] for methods in told["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))
    for path, methods in told["paths"].items():
        for operation in methods.values():
            required = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path" and p["required"]}
            assert required == set(re.findall(r"\{([^}]*)\}", path)), path


async def nothing(request: Any) -> Any:
    raise AssertionError(request)


def test_paths_that_differ_only_in_names_become_one() -> None:
    """OpenAPI takes them for identical; aiohttp does not care."""
    common: dict[str, Any] = {"handler": nothing, "summary": "x", "tag": "t"}
    first = Route(method="GET", path="/events/{event_id}", **common)
    named = Param(name="event_type", where="path", required=True, doc="The type.")
    second = Route(method="POST", path="/events/{event_type}", params=(named,), **common)
    told = document([first, second], VERSION)
    assert list(told["paths"]) == ["/events/{event_id}"]
    (param,) = told["paths"]["/events/{event_id}"]["post"]["parameters"]
    assert (param["name"], param["description"]) == ("event_id", "The type.")


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/events", "/events"),
        (f"/events/{uid(1)}", "/events/{event_id}"),
        (f"/events/{uid(1)}/trace", "/events/{event_id}/trace"),
        ("/sessions", "/sessions"),
        ("/sessions/s-1", "/sessions/{session_id}"),
        ("/sessions/s-1/events", "/sessions/{session_id}/events"),
        ("/dead-letters", "/dead-letters"),
        ("/dead-letters/t.events/0/3", "/dead-letters/{topic}/{partition}/{offset}"),
        ("/stats", "/stats"),
        ("/health", "/health"),
        ("/ready", "/ready"),
        ("/", "/"),
        ("/events?limit=0", "/events"),
        (f"/events/{uid(404)}", "/events/{event_id}"),
    ],
)
async def test_answers_are_as_the_document_says(path: str, template: str) -> None:
    """Each answer, good or bad, fits the schema told for its status, and has no field that is not told."""
    async with serving(all_routes()) as client:
        async with client.get("/openapi.json") as answer:
            told = await answer.json()
        async with client.get(path) as answer:
            status, kind, body = answer.status, answer.content_type, await answer.json()
    found = {shape(name): methods for name, methods in told["paths"].items()}[shape(template)]
    schema = found["get"]["responses"][str(status)]["content"][kind]["schema"]
    Draft202012Validator({"components": told["components"], **strict(schema, told)}).validate(body)


def strict(schema: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """The schema, with fields that are not told forbidden at the top."""
    named = told["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    return named | {"additionalProperties": False}


async def test_the_page_needs_no_network_and_no_inline_script() -> None:
    """A strict CSP; every script and style is a file of ours; the files are there."""
    async with serving(all_routes()) as client:
        async with client.get("/docs") as answer:
            page, policy = await answer.text(), answer.headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert re.findall(r"<script(?![^>]*src=)", page) == []
        assert "style=" not in page
        assert "<style" not in page
        used = re.findall(r'(?:src|href)="(/docs/[^"]+)"', page)
        assert len(used) == 3
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
        for path in used:
            async with client.get(path) as answer:
                assert answer.status == 200
                assert answer.content_type == ("text/css" if path.endswith("css") else "text/javascript")
                assert len(await answer.read()) > 100


async def test_only_the_files_of_the_page_are_served() -> None:
    """No other file of the package, none above it."""
    async with serving(all_routes()) as client:
        for name in ("redoc.js", "templates.py", "..%2f__init__.py", "%2e%2e%2f%2e%2e%2fetc%2fpasswd"):
            async with client.get(f"/docs/assets/{name}") as answer:
                assert answer.status == 404, name


def test_the_installed_page_can_show_openapi_3_1() -> None:
    """Swagger UI before 5 answers a 3.1 document with an error."""
    bundle = (docs.assets_folder() / docs.ASSETS["swagger-ui.js"]).read_text()
    assert re.search(r'PACKAGE_VERSION:"5\.', bundle)
