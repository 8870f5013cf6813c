"""What can be asked: filters, cursors and pages as values."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

import msgspec

from schemas.errors import Refused
from schemas.event import Position

MAX_LIMIT = 1000


class Cursor(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A place in a list ordered by (number, id), mostly a time: keyset paging never counts rows.

    `back`: what is wanted lies before it, in the order of the list, and not behind.
    """

    at: int
    id: str
    back: bool = False

    def encode(self) -> str:
        """Opaque text for the URL."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises `Refused` (422) when the text is not one of ours."""
        try:
            found = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=cls)
            if "\0" in found.id or "\\u0000" in found.id:  # no database takes it, and none gave it out
                raise ValueError("NUL")
            return found
        except (ValueError, msgspec.MsgspecError) as error:
            raise Refused(
                422, "bad_cursor", "The cursor is not one this API gave out; start without it.", "/cursor"
            ) from error


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events, newest first unless `ascending`. Times are microseconds; `until` is exclusive.

    Of `event_type` and `tool_name` one must be equal, where any are named. `project` and `machine` are those of the
    session. `words`: `schemas.words`, in prompts, notifications and errors only. Without `bodies` payload and metadata
    are not read; the rows have empty ones.
    """

    session_id: str | None = None
    event_type: tuple[str, ...] = ()
    tool_name: tuple[str, ...] = ()
    source: str | None = None
    project: str | None = None
    machine: str | None = None
    cwd: str | None = None
    agent_id: str | None = None
    agent_type: str | None = None
    prompt_id: str | None = None
    tool_use_id: str | None = None
    words: tuple[str, ...] = ()
    bodies: bool = True
    since: int | None = None
    until: int | None = None
    cursor: Cursor | None = None
    limit: int = 100
    ascending: bool = False
    ids: tuple[UUID, ...] = ()


#: What sessions can be sorted by.
SessionSort = Literal["last_event_at", "first_event_at", "event_count"]


class SessionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions, latest activity first unless told otherwise.

    `idle_before`: a session that never ended, and had its last event before this instant, counts as terminated then.
    """

    status: str | None = None
    project: str | None = None
    machine: str | None = None
    source: str | None = None
    sort: SessionSort = "last_event_at"
    ascending: bool = False
    idle_before: int | None = None
    since: int | None = None
    until: int | None = None
    cursor: Cursor | None = None
    limit: int = 100


class CallFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tool calls of a session, in the order they began (one whose beginning is not known: ended)."""

    session_id: str
    tool_name: tuple[str, ...] = ()
    success: bool | None = None
    cursor: Cursor | None = None
    limit: int = 100
    ascending: bool = True


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of rows; `next` is None on the last one, `previous` where no way back is known."""

    items: list[dict[str, Any]]
    next: Cursor | None = None
    previous: Cursor | None = None


class Held(msgspec.Struct, frozen=True):
    """What a local store holds: which file it is, and its oldest event (a number that grows; 0: it has none)."""

    store: str
    first: int

    def lacks(self, before: Held) -> bool:
        """Whether something that was there `before` is gone: synced back and dropped, or set aside with its file."""
        return before.first != 0 and (self.store, self.first) != (before.store, before.first)


class Witnesses(msgspec.Struct, frozen=True):
    """What a database knows of some ingest records: (place, fingerprint) by id; letters as (id, place, cause)."""

    stored: Mapping[UUID, tuple[Position, bytes]]
    letters: Sequence[tuple[UUID | None, Position | None, str]]


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """A decision about conflicts: `letters` (ids) are closed; `payload` (JSON text) replaces that of the stored event.

    `payload` None leaves it as it is; `flags` are those of the new text. `at` is microseconds.
    """

    event_id: UUID
    letters: Sequence[str]
    strategy: str
    at: int
    payload: str | None = None
    flags: int = 0
