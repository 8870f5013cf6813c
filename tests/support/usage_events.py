"""Events as the aggregate tables are given them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from schemas.event import HookEvent, IdOrigin, LoggedEvent, Position

NOON = 1_763_726_400  # 2025-11-21T12:00:00Z, epoch seconds
SECOND = 1_000_000


def logged(offset: int, event_type: str = "user_prompt", at: float = NOON, **fields: Any) -> LoggedEvent:
    """An event of session `s` at this offset and time (epoch seconds)."""
    event = HookEvent(
        **{
            "event_id": UUID(int=offset),
            "fingerprint": b"f" * 16,
            "id_origin": IdOrigin.FRESH,
            "session_id": "s",
            "event_type": event_type,
            "occurred_at": int(at * SECOND),
            "received_at": int(at * SECOND),
            "source": "test",
            "payload": "{}",
            **fields,
        }
    )
    return LoggedEvent(event=event, ingest=Position(0, offset), events=Position(0, offset), value=b"")
