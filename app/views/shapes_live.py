"""The messages of the live feed's WebSocket as types: what /asyncapi.json tells (docs/live.md tells them in words)."""

from __future__ import annotations

from typing import Any

import msgspec

from app.views.shapes import Instant
from schemas.live import LiveFilter


class LiveEvent(msgspec.Struct):
    """An event as the feed shows it. `occurred_at` and `received_at` are milliseconds since the epoch."""

    event_id: str
    session_id: str
    event_type: str
    hook_event_name: str | None
    occurred_at: int
    received_at: int
    source: str
    project: str | None
    cwd: str | None
    tool_name: str | None
    tool_use_id: str | None
    agent_id: str | None
    agent_type: str | None
    prompt_id: str | None
    suspected_duplicate_of: str | None
    payload: dict[str, Any]


class LiveTotals(msgspec.Struct):
    """What a stretch of time saw. `sessions_at_least`: there were more than could be told apart."""

    events: int
    prompts: int
    sessions: int
    sessions_at_least: bool


class LiveHello(msgspec.Struct, tag_field="type", tag="hello"):
    """The first message. `id` is the place where the stream begins, `filter` what is watched."""

    id: str
    filter: LiveFilter


class LiveOne(msgspec.Struct, tag_field="type", tag="event"):
    """An event. `id` is where one stands who has seen it: it goes into `after` of the next connection."""

    id: str
    event: LiveEvent


class LiveMissed(msgspec.Struct, tag_field="type", tag="missed"):
    """You were too slow for `count` events of your filter; a connection with `after` gives them."""

    count: int
    after: str


class LiveStats(msgspec.Struct, tag_field="type", tag="stats"):
    """Figures, once a second at most: the whole minute before this one, this one so far, the last hour."""

    at: Instant
    last_minute: LiveTotals
    this_minute: LiveTotals
    last_hour: LiveTotals


class LivePlace(msgspec.Struct, tag_field="type", tag="place"):
    """Where you stand, though nothing of your filter came."""

    id: str


class LiveFiltered(msgspec.Struct, tag_field="type", tag="filter"):
    """What is watched from now on: the answer to a change."""

    filter: LiveFilter


class LiveError(msgspec.Struct, tag_field="type", tag="error"):
    """What was wrong with your message; the old filter stays. `pointer` names the fault in it."""

    code: str
    detail: str
    pointer: str


class LiveWanted(msgspec.Struct):
    """The whole filter; what is absent or null asks for nothing. `type` and `tool` take names with commas between."""

    session: str | None = None
    project: str | None = None
    agent: str | None = None
    type: str | None = None
    tool: str | None = None
    text: str | None = None


class LiveChange(msgspec.Struct):
    """What a client may send: watch something else from now on."""

    filter: LiveWanted


#: What Chronicle sends, and what it takes.
SENT = (LiveHello, LiveOne, LiveMissed, LiveStats, LivePlace, LiveFiltered, LiveError)
TAKEN = (LiveChange,)
