"""What walks to people who watch: an event with its place, marks to go on from, filters. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from schemas.errors import Refused
from schemas.event import HookEvent
from schemas.facts import project_of

#: Characters of a text that is searched for, and of a payload that is searched.
MAX_TEXT, SEARCHED = 200, 64 * 1024
_MARKS: Final = re.compile(r"\d{1,19}(\.\d{1,19}){0,1023}", re.ASCII)


class Marks(msgspec.Struct, frozen=True):
    """Where a reader stands: the next offset of `chronicle.events` in each partition, in order."""

    next: tuple[int, ...]

    def encode(self) -> str:
        """`17.0.5.301`: the id of an event in a live stream, and what to go on from."""
        return ".".join(map(str, self.next))

    @classmethod
    def decode(cls, text: str, partitions: int, pointer: str = "/after") -> Marks:
        """Raises `Refused` (422) for what is no marks of this installation."""
        found = tuple(map(int, text.split("."))) if _MARKS.fullmatch(text) else ()
        if len(found) != partitions or max(found) >= 1 << 63:
            detail = f"A place has {partitions} numbers with dots between, as the id of an event in a live stream."
            raise Refused(422, "bad_place", detail, pointer)
        return cls(found)

    def behind(self, other: Marks) -> bool:
        """Whether there is something between this and `other`."""
        return any(mine < theirs for mine, theirs in zip(self.next, other.next, strict=True))

    def after(self, partition: int, offset: int) -> Marks:
        """Where one stands who has read this record, too."""
        found = list(self.next)
        found[partition] = max(found[partition], offset + 1)
        return Marks(tuple(found))


class LiveFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are wanted; what is None or empty asks for nothing. `text` is found in any case of its letters."""

    session: str | None = None
    project: str | None = None
    agent: str | None = None
    types: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()
    text: str | None = None

    def matches(self, live: LiveEvent) -> bool:
        """Whether all that is asked for holds."""
        event = live.event
        return (
            (self.session is None or event.session_id == self.session)
            and (not self.types or event.event_type in self.types)
            and (not self.tools or event.tool_name in self.tools)
            and (self.agent is None or self.agent in (event.agent_id, event.agent_type))
            and (self.project is None or project_of(event.cwd) == self.project)
            and (self.text is None or self.text.lower() in live.searched)
        )


class LiveEvent:
    """An event on its way to people. `marks`: where one stands who has seen it. What many need is made once."""

    __slots__ = ("_json", "_searched", "_sse", "event", "marks", "offset", "partition")

    def __init__(self, event: HookEvent, partition: int, offset: int, marks: Marks) -> None:
        self.event, self.partition, self.offset, self.marks = event, partition, offset, marks
        self._json: bytes | None = None
        self._searched: str | None = None
        self._sse: bytes | None = None

    @property
    def json(self) -> bytes:
        """As the live streams send it: the event as `GET /events/{event_id}` shows it, as far as it is known yet."""
        if self._json is None:
            self._json = _encode(_shown(self.event))
        return self._json

    @property
    def sse(self) -> bytes:
        """The same as a Server-Sent Event. JSON may have line breaks between its tokens, a `data:` line may not."""
        if self._sse is None:
            data = self.json.replace(b"\r", b" ").replace(b"\n", b" ")
            self._sse = b"id: %s\ndata: %s\n\n" % (self.marks.encode().encode(), data)
        return self._sse

    @property
    def searched(self) -> str:
        """What a text is looked for in, in lower case."""
        if self._searched is None:
            event = self.event
            names = (event.session_id, event.event_type, event.tool_name or "", event.cwd or "")
            self._searched = "\n".join((*names, event.payload[:SEARCHED])).lower()
        return self._searched

    @property
    def size(self) -> int:
        """Bytes it weighs in a queue, about."""
        return 600 + len(self.event.payload)


_encode = msgspec.json.Encoder().encode


def _shown(event: HookEvent) -> Mapping[str, object]:
    return {
        "event_id": str(event.event_id),
        "session_id": event.session_id,
        "event_type": event.event_type,
        "hook_event_name": event.hook_event_name,
        "occurred_at": event.occurred_at // 1000,
        "received_at": event.received_at // 1000,
        "source": event.source,
        "project": project_of(event.cwd),
        "cwd": event.cwd,
        "tool_name": event.tool_name,
        "tool_use_id": event.tool_use_id,
        "agent_id": event.agent_id,
        "agent_type": event.agent_type,
        "prompt_id": event.prompt_id,
        "suspected_duplicate_of": None if event.suspected_duplicate_of is None else str(event.suspected_duplicate_of),
        "payload": msgspec.Raw(event.payload.encode()),
    }
