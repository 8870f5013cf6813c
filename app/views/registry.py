"""The schema registry, read-only, in the form Confluent's clients speak: what they need to decode the public topic.

Answers and errors have Confluent's shapes and content type, not ours: the readers are other people's clients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp.web import Request, Response, StreamResponse

from app.views.route import Handler, Param, Route
from schemas.registry import COMPATIBILITY, Registry, SchemaVersion

CONTENT_TYPE: Final = "application/vnd.schemaregistry.v1+json"
TAG: Final = "schema registry"

_ERROR: Final = {
    "type": "object",
    "properties": {"error_code": {"type": "integer"}, "message": {"type": "string"}},
    "required": ["error_code", "message"],
}

Answer = Callable[[Request], Any]


class RegistryError(Exception):
    """Confluent's error: the HTTP status is the first three digits of `code`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def routes(registry: Registry, settings: Mapping[str, Any] | None = None) -> list[Route]:
    """All endpoints of the registry. `settings` (fit to be shown) are told at /config too: both sides want that path.

    A registry client reads `compatibilityLevel` there and passes over what it does not know.
    """
    config = {"compatibilityLevel": COMPATIBILITY, "settings": settings or {}}
    reads: tuple[tuple[str, str, Answer], ...] = (
        ("/subjects", "Subjects", lambda _: list(registry.subjects())),
        ("/subjects/{subject}/versions", "Versions of a subject", lambda request: _numbers(registry, request)),
        ("/subjects/{subject}/versions/{version}", "One version", lambda request: _shown(registry, request)),
        (
            "/subjects/{subject}/versions/{version}/schema",
            "One version's schema alone",
            lambda request: _version(registry, request).parsed(),
        ),
        ("/schemas/types", "Kinds of schema", lambda _: ["AVRO"]),
        ("/schemas/ids/{id}", "A schema by its id", lambda request: {"schema": _by_id(registry, request).text}),
        ("/schemas/ids/{id}/schema", "The schema alone", lambda request: _by_id(registry, request).parsed()),
        ("/schemas/ids/{id}/versions", "Where an id is published", lambda request: _places(registry, request)),
        (
            "/schemas/ids/{id}/subjects",
            "Subjects of an id",
            lambda request: [place["subject"] for place in _places(registry, request)],
        ),
        (
            "/config",
            "The settings in force, and the compatibility rule",
            lambda _: config,
        ),
        ("/config/{subject}", "Compatibility rule of a subject", lambda request: _config(registry, request)),
        ("/mode", "Whether schemas can be registered: no", lambda _: {"mode": "READONLY"}),
    )
    return [
        *(_route("GET", path, summary, _handler(answer)) for path, summary, answer in reads),
        _route("POST", "/subjects/{subject}", "Look a schema up", _lookup(registry)),
        _route("POST", "/subjects/{subject}/versions", "Find a schema's id; registers nothing", _register(registry)),
    ]


def _route(method: Any, path: str, summary: str, handler: Handler) -> Route:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return Route(
        method=method,
        path=path,
        handler=handler,
        summary=summary,
        tag=TAG,
        params=tuple(Param(name=name, where="path", required=True) for name in names),
        body={"type": "object", "properties": {"schema": {"type": "string"}}} if method == "POST" else None,
        responses={
            200: ("In Confluent's form", {}),
            404: ("No such subject, version or schema", _ERROR),
            422: ("Not a version, or not a schema we have", _ERROR),
        },
        media_type=CONTENT_TYPE,
    )


def _handler(answer: Answer) -> Handler:
    async def handle(request: Request) -> StreamResponse:
        try:
            return _json(answer(request))
        except RegistryError as error:
            return _problem(error)

    return handle


def _lookup(registry: Registry) -> Handler:
    async def handle(request: Request) -> StreamResponse:
        try:
            found = await _same(registry, request)
        except RegistryError as error:
            return _problem(error)
        if found is None:
            return _problem(RegistryError(40403, "Schema not found"))
        return _json(_described(request.match_info["subject"], found))

    return handle


def _register(registry: Registry) -> Handler:
    """A schema we have gives its id, as a registering serializer expects; any other is refused."""

    async def handle(request: Request) -> StreamResponse:
        try:
            found = await _same(registry, request)
        except RegistryError as error:
            return _problem(error)
        if found is None:
            subject = request.match_info["subject"]
            return _problem(RegistryError(42205, f"Subject {subject} is in read-only mode"))
        return _json({"id": found.id})

    return handle


async def _same(registry: Registry, request: Request) -> SchemaVersion | None:
    """The version of the subject that is the schema in the body, if there is one."""
    versions = _versions(registry, request)
    try:
        asked = json.loads(msgspec.json.decode(await request.read(), type=dict[str, Any])["schema"])
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RegistryError(42201, "Invalid schema: the body has no Avro schema") from error
    return next((version for version in versions if version.parsed() == asked), None)


def _versions(registry: Registry, request: Request) -> tuple[SchemaVersion, ...]:
    subject = request.match_info["subject"]
    found = registry.subject(subject)
    if found is None:
        raise RegistryError(40401, f"Subject '{subject}' not found.")
    return tuple(found)


def _numbers(registry: Registry, request: Request) -> list[int]:
    return [version.version for version in _versions(registry, request)]


def _version(registry: Registry, request: Request) -> SchemaVersion:
    asked = request.match_info["version"]
    versions = _versions(registry, request)
    if asked in {"latest", "-1"}:
        return versions[-1]
    if not (asked.isascii() and asked.isdigit()) or not 0 < len(asked) < 10 or int(asked) == 0:
        raise RegistryError(42202, f"The specified version '{asked}' is not a valid version id.")
    if int(asked) > len(versions):
        raise RegistryError(40402, f"Version {asked} not found.")
    return versions[int(asked) - 1]


def _shown(registry: Registry, request: Request) -> dict[str, Any]:
    return _described(request.match_info["subject"], _version(registry, request))


def _described(subject: str, version: SchemaVersion) -> dict[str, Any]:
    return {"subject": subject, "id": version.id, "version": version.version, "schema": version.text}


def _by_id(registry: Registry, request: Request) -> SchemaVersion:
    asked = request.match_info["id"]
    known = asked.isascii() and asked.isdigit() and len(asked) < 11
    found = registry.by_id(int(asked)) if known else None
    if found is None:
        raise RegistryError(40403, f"Schema {asked} not found")
    return found


def _places(registry: Registry, request: Request) -> list[dict[str, Any]]:
    found = registry.subjects_of(_by_id(registry, request).id)
    return [{"subject": subject, "version": version} for subject, version in found]


def _config(registry: Registry, request: Request) -> dict[str, Any]:
    _versions(registry, request)
    return {"compatibilityLevel": COMPATIBILITY}


def _json(body: Any, status: int = 200) -> Response:
    return Response(body=msgspec.json.encode(body), status=status, headers={"Content-Type": CONTENT_TYPE})


def _problem(error: RegistryError) -> Response:
    return _json({"error_code": error.code, "message": error.message}, status=int(str(error.code)[:3]))
