"""An OpenAPI 3.1 document from the route table: what is mounted is what is told. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from app.problems import CONTENT_TYPE, Problem
from app.views.route import Param, Route

_PART = re.compile(r"\{([^}:]+)(?::[^}]*)?\}")
JSON_TYPE = "application/json"


def document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """The whole document. Two paths that differ only in the names of their parameters become one, as the rules ask."""
    table = list(routes)
    schemas, components = _schemas(table)
    paths: dict[str, dict[str, Any]] = {}
    named: dict[str, str] = {}
    for route in table:
        plain = _PART.sub(r"{\1}", route.path)
        path = named.setdefault(_PART.sub("{}", route.path), plain)
        renamed = dict(zip(_PART.findall(plain), _PART.findall(path), strict=True))
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schemas, renamed)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Chronicle",
            "version": version,
            "summary": "Hook events in, once each; and back out.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in table)],
        "paths": paths,
        "components": {"schemas": components},
    }


def encode(document: Mapping[str, Any]) -> bytes:
    """The document as JSON text."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def _schemas(routes: list[Route]) -> tuple[dict[int, Any], dict[str, Any]]:
    """The schema of each type by the id of the type, and the named ones."""
    types: dict[int, Any] = {id(Problem): Problem}
    for route in routes:
        for shape in [route.body, *(shape for _, shape in route.responses.values())]:
            if shape is not None and not isinstance(shape, str | dict):
                types[id(shape)] = shape
    plain = [_plain(shape) for shape in types.values()]
    found, components = msgspec.json.schema_components(plain, ref_template="#/components/schemas/{name}")
    return dict(zip(types, found, strict=True)), dict(components)


def _plain(shape: Any) -> Any:
    """A struct whose `Raw` fields (JSON kept as text) are told as objects: msgspec cannot write down a Raw default."""
    if not (isinstance(shape, type) and issubclass(shape, msgspec.Struct)):
        return shape
    fields = msgspec.structs.fields(shape)
    if not any(field.type is msgspec.Raw for field in fields):
        return shape
    doc = {"__doc__": shape.__doc__}
    strict = shape.__struct_config__.forbid_unknown_fields
    told = [_plain_field(field) for field in fields]
    return msgspec.defstruct(shape.__name__, told, namespace=doc, kw_only=True, forbid_unknown_fields=strict)


def _plain_field(field: msgspec.structs.FieldInfo) -> Any:
    kind = dict[str, Any] if field.type is msgspec.Raw else field.type
    if field.required:
        return (field.encode_name, kind)
    if field.default_factory is not msgspec.NODEFAULT:
        return (field.encode_name, kind, msgspec.field(default_factory=field.default_factory))
    return (field.encode_name, kind, {} if field.type is msgspec.Raw else field.default)


def _operation(route: Route, schemas: Mapping[int, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "responses": {
            str(status): _response(status, *told, schemas, route.media_type) for status, told in _answers(route).items()
        },
    }
    for media in route.other_media:
        operation["responses"]["200"]["content"][media] = {"schema": {"type": "string"}}
    if route.doc:
        operation["description"] = route.doc
    if params := _params(route, renamed):
        operation["parameters"] = params
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON_TYPE: {"schema": _schema(route.body, schemas)}}}
    return operation


def _answers(route: Route) -> Mapping[int, tuple[str, Any]]:
    return dict(sorted(route.responses.items())) or {200: ("Done.", None)}


def _response(status: int, description: str, shape: Any, schemas: Mapping[int, Any], media_type: str) -> dict[str, Any]:
    response: dict[str, Any] = {"description": description}
    if isinstance(shape, str):  # a media type: the answer is not JSON
        response["content"] = {shape: {"schema": {"type": "string"}}}
    elif shape is not None and shape is not Problem:
        response["content"] = {media_type: {"schema": _schema(shape, schemas)}}
    elif status >= 400:
        response["content"] = {CONTENT_TYPE: {"schema": schemas[id(Problem)]}}
    return response


def _schema(shape: Any, schemas: Mapping[int, Any]) -> Any:
    return shape if isinstance(shape, dict) else schemas[id(shape)]


def _params(route: Route, renamed: Mapping[str, str]) -> list[dict[str, Any]]:
    told = {param.name: param for param in route.params if param.where == "path"}
    path = [told.get(name, Param(name=name, where="path")) for name in renamed]
    rest = [param for param in route.params if param.where != "path"]
    return [_param(param, renamed.get(param.name, param.name)) for param in path] + [
        _param(param, param.name) for param in rest
    ]


def _param(param: Param, name: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": name, "in": param.where, "schema": param.schema}
    if param.required or param.where == "path":
        shown["required"] = True
    return shown | ({"description": param.doc} if param.doc else {})


def _operation_id(route: Route) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", "_", route.path).strip("_").lower()
    if words and route.path.endswith("/"):
        words += "_index"
    return f"{route.method.lower()}_{words or 'index'}"
