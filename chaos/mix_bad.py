"""Bad requests: each must be answered with a 4xx, never with a 5xx, and nothing of it may ever be stored."""

from __future__ import annotations

import json
from typing import Any, Final

_EVENTS: Final = "/events"

#: What is wrong with an envelope: name -> (field, value); ... takes the field away.
_WRONG: Final[dict[str, tuple[str, Any]]] = {
    "no session": ("session_id", ...),
    "empty session": ("session_id", ""),
    "session is a number": ("session_id", 7),
    "payload is text": ("payload", "text"),
    "payload is a list": ("payload", [1, 2]),
    "no payload": ("payload", ...),
    "no type": ("event_type", ...),
    "no zone": ("timestamp", "2026-01-02T03:04:05"),
    "no time": ("timestamp", "yesterday"),
    "far future": ("timestamp", 10**17),
    "nil id": ("event_id", "00000000-0000-0000-0000-000000000000"),
    "id is no uuid": ("event_id", "not-a-uuid"),
    "metadata is a list": ("metadata", []),
}
#: What is wrong with the text: name -> what stands where the payload was.
_BROKEN: Final[dict[str, str]] = {
    "not a number": '{"x": NaN}',
    "beyond a double": '{"x": 1e999}',
    "too deep": '{"a":' * 100 + "1" + "}" * 100,
    "unclosed": '{"x": [1, 2',
    "bare word": "{x: 1}",
}
BAD: Final = (*_WRONG, *_BROKEN, "not utf-8", "empty")


def bad_body(what: str, envelope: dict[str, Any]) -> tuple[bytes, str]:
    """(body, path) of an envelope that was made bad in the way named."""
    if what == "empty":
        return b"", _EVENTS
    if what in _BROKEN:
        text = json.dumps({**envelope, "payload": "PAYLOAD"})
        return text.replace('"PAYLOAD"', _BROKEN[what]).encode(), _EVENTS
    if what == "not utf-8":
        return json.dumps({**envelope, "payload": {"x": "BYTES"}}).encode().replace(b"BYTES", b"\xff\xfe"), _EVENTS
    name, value = _WRONG[what]
    changed = {key: old for key, old in envelope.items() if key != name}
    if value is not ...:
        changed[name] = value
    return json.dumps(changed).encode(), _EVENTS
