"""Claude Code's own hook bodies: names, columns and ids. Its events are told in `docs/events.md`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import msgspec

from schemas.errors import Refused
from schemas.event import Flag, HookEvent, IdOrigin
from schemas.facts import MACHINE
from schemas.identity import fingerprint, natural_id
from schemas.jsontext import check, dump, plain_text
from schemas.truncate import shorten

#: Native names that the first Chronicle already had words for. All others become snake case.
SEED_TYPES: Final[Mapping[str, str]] = {
    "PreToolUse": "tool_pre_use",
    "PostToolUse": "tool_post_use",
    "UserPromptSubmit": "user_prompt",
    "Notification": "notification",
    "SessionStart": "session_start",
    "Stop": "session_stop",
    "PreCompact": "compact_pre",
}
MAX_SESSION_ID: Final = 255
MAX_EVENT_TYPE: Final = 100
#: Columns hold at most this many characters (their index must fit a page); the payload keeps the whole.
MAX_COLUMN: Final = 255
MAX_CWD: Final = 4096
_SANITIZED: Final = Flag.SANITIZED.value  # the enum's own arithmetic costs more than the whole check
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_WORD: Final = re.compile(r"[^a-z0-9]+")

Redact = Callable[[bytes], bytes]


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """What the server knows of a request beside its body.

    `received_at` is microseconds since the epoch. `event_id` and `occurred_at` are what our own client stamped in
    headers (one event a request); `machine` is the name of the sender's machine, from a header as well. `redact`
    returns the very same bytes when there is nothing to blank.
    """

    received_at: int
    new_id: Callable[[], UUID]
    source: str
    redact: Redact | None = None
    event_id: UUID | None = None
    occurred_at: int | None = None
    machine: str | None = None
    max_event_bytes: int = 900 * 1024


@lru_cache(maxsize=1024)
def event_type_of(name: str) -> tuple[str, str | None]:
    """(event type, native name or None) of what a client calls its event.

    `PreToolUse` is (`tool_pre_use`, `PreToolUse`), an unknown `FooBar` is (`foo_bar`, `FooBar`). A name without
    capital letters is a type already and is kept as sent.
    """
    if name.lower() == name:
        return plain_text(name)[:MAX_EVENT_TYPE], None
    snake = SEED_TYPES.get(name) or _NOT_WORD.sub("_", _HUMP.sub("_", name).lower()).strip("_")
    native = plain_text(name)[:MAX_COLUMN]
    return (snake or native)[:MAX_EVENT_TYPE], native


def column(body: Mapping[str, Any], name: str, limit: int = MAX_COLUMN) -> str | None:
    """A payload field as a column: non-empty strings only, cut to `limit` characters."""
    value = body.get(name)
    return value[:limit] if isinstance(value, str) and value else None


def from_native(raw: bytes, arrival: Arrival) -> HookEvent:
    """The event of one native hook body, unchanged but for redaction and, when it is too large, cuts.

    Raises `Refused`: not JSON, not an object, no usable `session_id` or `hook_event_name`.
    """
    text = arrival.redact(raw) if arrival.redact else raw
    flags = Flag.REDACTED.value if text is not raw else 0
    checked = check(text)
    body = checked.value
    if not isinstance(body, dict):
        raise Refused(422, "not_an_object", "A hook body is one JSON object; send it as Claude Code made it.")
    session_id = session_id_of(_session_as_sent(raw) if flags else body.get("session_id"))
    name = body.get("hook_event_name")
    if not isinstance(name, str) or not name.strip():
        detail = "A hook body needs hook_event_name, a text such as PreToolUse."
        raise Refused(422, "missing_field", detail, "/hook_event_name")
    event_type, native = event_type_of(name)
    if len(text) > arrival.max_event_bytes:
        flags |= checked.flags & _SANITIZED
        checked = check(shorten(body, arrival.max_event_bytes))
        flags |= Flag.TRUNCATED.value
    event_id, origin = _identify(session_id, native or event_type, body, arrival)
    return build(
        checked_text=checked.text,
        canonical=checked.canonical,
        body=body,
        flags=flags | checked.flags,
        session_id=session_id,
        event_type=event_type,
        hook_event_name=native or event_type,
        event_id=event_id,
        id_origin=origin,
        occurred_at=arrival.received_at if arrival.occurred_at is None else arrival.occurred_at,
        arrival=arrival,
        metadata="{}" if arrival.machine is None else dump({MACHINE: arrival.machine}).decode(),
    )


def build(
    *,
    checked_text: str,
    canonical: bytes,
    body: Mapping[str, Any],
    flags: int,
    session_id: str,
    event_type: str,
    hook_event_name: str | None,
    event_id: UUID,
    id_origin: IdOrigin,
    occurred_at: int,
    arrival: Arrival,
    metadata: str = "{}",
) -> HookEvent:
    """Fill in the columns and the fingerprint; both ways in end here."""
    agent_id = column(body, "agent_id")
    event = HookEvent(
        event_id=event_id,
        fingerprint=fingerprint(session_id, agent_id, event_type, canonical),
        id_origin=id_origin,
        session_id=session_id,
        event_type=event_type,
        hook_event_name=hook_event_name,
        occurred_at=occurred_at,
        received_at=arrival.received_at,
        source=arrival.source,
        payload=checked_text,
        metadata=metadata,
        flags=flags,
        tool_name=column(body, "tool_name"),
        tool_use_id=column(body, "tool_use_id"),
        agent_id=agent_id,
        agent_type=column(body, "agent_type"),
        prompt_id=column(body, "prompt_id"),
        cwd=column(body, "cwd", MAX_CWD),
    )
    return _with_clean_columns(event) if flags & _SANITIZED else event


def _with_clean_columns(event: HookEvent) -> HookEvent:
    names = ("tool_name", "tool_use_id", "agent_id", "agent_type", "prompt_id", "cwd")
    values = {name: getattr(event, name) for name in names}
    return msgspec.structs.replace(event, **{name: value and plain_text(value) for name, value in values.items()})


def session_id_of(value: object, pointer: str = "/session_id") -> str:
    """`value` as a session id. Raises `Refused`: opaque text of 1 to 255 characters that a text column can hold."""
    if value is None:
        raise Refused(422, "missing_field", "session_id is missing; send the session's id as text.", pointer)
    if not isinstance(value, str):
        raise Refused(422, "wrong_type", "session_id must be text; put it in quotes.", pointer)
    if not 1 <= len(value) <= MAX_SESSION_ID:
        raise Refused(422, "bad_session_id", f"session_id must have 1 to {MAX_SESSION_ID} characters.", pointer)
    if "\0" in value or not (value.isascii() or plain_text(value) == value):
        detail = "session_id must not hold U+0000 or a lone surrogate; send well-formed text."
        raise Refused(422, "bad_session_id", detail, pointer)
    return value


def _session_as_sent(raw: bytes) -> object:
    """The one field that redaction must not change: two sessions would become one mark."""
    return check(raw).value.get("session_id")


def _identify(session_id: str, name: str, body: Mapping[str, Any], arrival: Arrival) -> tuple[UUID, IdOrigin]:
    if arrival.event_id is not None:
        return arrival.event_id, IdOrigin.CLIENT
    agent = body.get("agent_id")
    derived = natural_id(session_id, agent if isinstance(agent, str) else None, name, body)
    return (derived, IdOrigin.NATURAL) if derived else (arrival.new_id(), IdOrigin.FRESH)
