"""What can be asked: filters, cursors and pages as values."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from schemas.errors import Refused
from schemas.event import Position

MAX_LIMIT = 1000


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """A place in a list ordered by (time, id): keyset paging never counts rows."""

    at: int
    id: str

    def encode(self) -> str:
        """Opaque text for the URL."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises `Refused` (422) when the text is not one of ours."""
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=cls)
        except (ValueError, msgspec.MsgspecError) as error:
            raise Refused(
                422, "bad_cursor", "The cursor is not one this API gave out; start without it.", "/cursor"
            ) from error


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events, newest first unless `ascending`. Times are microseconds; `until` is exclusive."""

    session_id: str | None = None
    event_type: str | None = None
    tool_name: str | None = None
    since: int | None = None
    until: int | None = None
    cursor: Cursor | None = None
    limit: int = 100
    ascending: bool = False
    ids: tuple[UUID, ...] = ()


class SessionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions, latest activity first."""

    status: str | None = None
    since: int | None = None
    until: int | None = None
    cursor: Cursor | None = None
    limit: int = 100


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of rows; `next` is None on the last one."""

    items: list[dict[str, Any]]
    next: Cursor | None = None


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
