"""A route as data: what is mounted is also what OpenAPI tells and what the docs test checks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
from aiohttp.web import Request, StreamResponse

Handler = Callable[[Request], Awaitable[StreamResponse]]


class Param(msgspec.Struct, frozen=True, kw_only=True):
    """One path, query or header parameter; `schema` is JSON Schema."""

    name: str
    where: Literal["path", "query", "header"] = "query"
    schema: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "string"})
    doc: str = ""
    required: bool = False


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """`path` is in aiohttp's form (`/events/{event_id}`). `body` and `responses` hold msgspec types or JSON Schema.

    `responses` maps a status to (description, type or None). `tag` groups the page at /docs. `media_type` is that of
    answers with a type.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    handler: Handler
    summary: str
    tag: str
    doc: str = ""
    params: tuple[Param, ...] = ()
    body: Any = None
    responses: dict[int, tuple[str, Any]] = msgspec.field(default_factory=dict)
    media_type: str = "application/json"
    #: Media types in which a 200 can be had besides, by `Accept`.
    other_media: tuple[str, ...] = ()
