"""The mix of the load: what a producer sends, request by request, from a seed.

It shares no code with Chronicle: routes, headers and the way natural ids are derived are written here again, as any
client's author would from the documentation.
"""

from __future__ import annotations

import random
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from chaos.ledger_sum import FRESH
from chaos.mix_bad import BAD, bad_body
from chaos.mix_payloads import Payloads, sha256

HOOKS, EVENTS = "/hooks/claude-code", "/events"
#: Ids that a server derives from a tool call and the like are uuid5 in this namespace, for ever.
NATURAL: Final = uuid.UUID("6f0c3f0e-5d0a-5c52-9d57-3d5f6d1c7a11")
_TYPES: Final = ("tool_pre_use", "tool_post_use", "user_prompt", "notification", "compact_pre", "error", "build_note")
_FRESH_HOOKS: Final = ("UserPromptSubmit", "Notification", "Stop", "PermissionRequest", "SessionStart", "CwdChanged")
_NATURAL_HOOKS: Final = ("PreToolUse", "PostToolUse", "PostToolUseFailure", "MessageDisplay", "TaskCreated")
_TOOLS: Final = ("Bash", "Read", "Edit", "Write", "Grep", "mcp__db__query")
#: Out of 100 requests. What is left over is bulks.
_REPEATS, _BAD, _NATURAL, _FRESH, _STAMPED, _SINGLE = 5, 2, 34, 12, 5, 27
SESSION_EVENTS: Final = (150, 500)
#: Of a bulky mix: the share of bulks, and events in one.
BULKY_SHARE, BULKY_EVENTS = 0.5, (50, 150)


@dataclass(frozen=True)
class Item:
    """One event of a request. `sha256` is of the payload that must be stored; `kind` as in `chaos.model.Sent`."""

    event_id: str
    session: str
    seq: int
    sha256: str
    kind: str
    repeat: bool = False


@dataclass(frozen=True)
class Request:
    """One POST. `safe` says that it may be sent again when nothing is known of it: every event has an id of its own."""

    path: str
    body: bytes
    items: tuple[Item, ...]
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    safe: bool = True


@dataclass
class _Session:
    id: str
    left: int
    begun: bool = False


class Mix:
    """An endless row of requests. The same seed and producer give the same row, but for the wall clock in it.

    `bulky`: about fifty events a request instead of five, and small ones, for a load of thousands a second.
    """

    def __init__(self, seed: int, producer: str, *, bulky: bool = False) -> None:
        self._bulky = bulky
        self._chance = random.Random(f"{seed}/{producer}")
        self._name = f"{seed}-{producer}"
        self._payloads = Payloads(self._chance, self._name, small=bulky)
        self._seq = 0
        self._sessions = [self._new_session(), self._new_session()]
        self._landed: deque[Request] = deque(maxlen=50)

    def next(self, now: float) -> Request:
        """The next request; `now` is epoch seconds."""
        if self._bulky and self._chance.random() < BULKY_SHARE:
            return self._bulk(now)
        lot = self._chance.randrange(100)
        if lot < _REPEATS and self._landed:
            return self._repeat()
        for share, make in self._shares():
            lot -= share
            if lot < 0:
                return make(now)
        return self._bulk(now)

    def landed(self, request: Request) -> None:
        """Tell that all of it was accepted: from now on it may be sent again on purpose."""
        if request.safe and len(request.items) == 1 and not request.items[0].repeat:
            self._landed.append(request)

    def _shares(self) -> tuple[tuple[int, Callable[[float], Request]], ...]:
        return (
            (_REPEATS + _NATURAL, self._natural),
            (_BAD, self._bad),
            (_FRESH, self._fresh),
            (_STAMPED, self._stamped),
            (_SINGLE, self._single),
        )

    # --- kinds of requests -------------------------------------------------------------------------------------------

    def _repeat(self) -> Request:
        request = self._chance.choice(self._landed)
        return replace(request, items=tuple(replace(item, repeat=True) for item in request.items))

    def _natural(self, now: float) -> Request:
        """A hook that names something that happens once; the server derives its id."""
        session, seq = self._session(), self._take_seq()
        name = self._chance.choice(_NATURAL_HOOKS)
        agent = f"agent-{self._chance.randrange(99)}" if self._chance.random() < 0.2 else ""
        named, key = self._natural_key(name)
        body = self._hook(session.id, name, seq, named | ({"agent_id": agent} if agent else {}))
        derived = uuid.uuid5(
            NATURAL, "\0".join((session.id, agent, name, "+".join(key), *(str(named[k]) for k in key)))
        )
        return self._posted_hook(body, Item(str(derived), session.id, seq, sha256(body), "native"))

    def _natural_key(self, name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        unique = f"{self._chance.getrandbits(96):024x}"
        if name == "MessageDisplay":
            index = self._chance.randrange(5)
            return {"message_id": f"msg_{unique}", "index": index, "final": True}, ("message_id", "index")
        if name == "TaskCreated":
            return {"task_id": f"task-{unique}"}, ("task_id",)
        return {"tool_use_id": f"toolu_{unique}", "tool_name": self._chance.choice(_TOOLS)}, ("tool_use_id",)

    def _fresh(self, now: float) -> Request:
        """A hook that names nothing: sent twice it would be two events, so it is never sent again."""
        session, seq = self._session(), self._take_seq()
        body = self._hook(session.id, self._chance.choice(_FRESH_HOOKS), seq, {})
        item = Item(f"{FRESH}{self._name}:{seq}", session.id, seq, sha256(body), "native")
        return replace(self._posted_hook(body, item), safe=False)

    def _stamped(self, now: float) -> Request:
        """A hook body with the id and the time that a client put into the headers."""
        session, seq, event_id = self._session(), self._take_seq(), self._id()
        body = self._hook(session.id, self._chance.choice(_FRESH_HOOKS), seq, {})
        request = self._posted_hook(body, Item(event_id, session.id, seq, sha256(body), "native"))
        stamps = {"Chronicle-Event-Id": event_id, "Chronicle-Occurred-At": str(int(self._when(now) * 1000))}
        return replace(request, headers={**request.headers, **stamps})

    def _single(self, now: float) -> Request:
        envelope, item = self._envelope(now, "envelope")
        return Request(EVENTS, _utf8(self._payloads.spell(envelope)), (item,))

    def _bulk(self, now: float) -> Request:
        """2 to 100 envelopes (bulky: 50 to 150), an array or lines; now and then one of them twice, or a bad one."""
        texts, items = [], []
        few = min(100, 2 + int(self._chance.expovariate(1 / 14)))
        for _ in range(self._chance.randint(*BULKY_EVENTS) if self._bulky else few):
            envelope, item = self._envelope(now, "bulk")
            texts.append(self._payloads.spell(envelope))
            items.append(item)
        if self._chance.random() < 0.1:
            texts.append(texts[0])
            items.append(replace(items[0], repeat=True))
        if self._chance.random() < 0.05:
            envelope, item = self._envelope(now, "bad")
            texts.append(self._payloads.spell({**envelope, "payload": "no object"}))
            items.append(item)
        if self._chance.random() < 0.5:
            lines = {"Content-Type": "application/x-ndjson"}
            return Request(EVENTS, _utf8("\n".join(texts) + "\n"), tuple(items), lines)
        return Request(EVENTS, _utf8(f"[{','.join(texts)}]"), tuple(items))

    def _bad(self, now: float) -> Request:
        envelope, item = self._envelope(now, "bad")
        body, path = bad_body(self._chance.choice(BAD), envelope)
        return Request(path, body, (item,))

    # --- parts -------------------------------------------------------------------------------------------------------

    def _envelope(self, now: float, kind: str) -> tuple[dict[str, Any], Item]:
        session, seq, event_id = self._session(), self._take_seq(), self._id()
        event_type = self._type(session)
        payload = self._payloads.marked(seq, self._payloads.tool_input(self._payloads.size()))
        if event_type.startswith("tool_"):
            payload["tool_name"] = self._chance.choice(_TOOLS)
        envelope = {
            "event_id": event_id,
            "session_id": session.id,
            "event_type": event_type,
            "timestamp": self._timestamp(now),
            "payload": payload,
            "metadata": {"hook_version": "1.0.0", "retry_count": 0},
        }
        return envelope, Item(event_id, session.id, seq, sha256(payload), kind)

    def _hook(self, session: str, name: str, seq: int, more: dict[str, Any]) -> dict[str, Any]:
        fields = {
            "session_id": session,
            "transcript_path": f"/srv/transcripts/{session}.jsonl",
            "cwd": "/srv/shop",
            "hook_event_name": name,
            **more,
            "tool_input": self._payloads.tool_input(self._payloads.size()),
        }
        return self._payloads.marked(seq, fields)

    def _posted_hook(self, body: dict[str, Any], item: Item) -> Request:
        return Request(HOOKS, _utf8(self._payloads.spell(body)), (item,))

    def _session(self) -> _Session:
        at = self._chance.randrange(len(self._sessions))
        if self._sessions[at].left <= 0:
            self._sessions[at] = self._new_session()
        self._sessions[at].left -= 1
        return self._sessions[at]

    def _new_session(self) -> _Session:
        return _Session(f"load-{self._id()}", self._chance.randint(*SESSION_EVENTS))

    def _type(self, session: _Session) -> str:
        if not session.begun:
            session.begun = True
            return "session_start"
        return "session_end" if session.left <= 1 else self._chance.choice(_TYPES)

    def _take_seq(self) -> int:
        self._seq += 1
        return self._seq - 1

    def _id(self) -> str:
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))

    def _when(self, now: float) -> float:
        """Mostly now; some late by up to 7 days, few a day ahead, some out of order by a minute."""
        lot = self._chance.random()
        if lot < 0.03:
            return now - self._chance.uniform(60, 7 * 86_400)
        if lot < 0.04:
            return now + 86_400
        return now + self._chance.uniform(-60, 0) if lot < 0.1 else now

    def _timestamp(self, now: float) -> str | int:
        when = self._when(now)
        if self._chance.random() < 0.2:
            return int(when * 1000)
        stamp = datetime.fromtimestamp(when, UTC)
        return stamp.isoformat().replace("+00:00", "Z" if self._chance.random() < 0.8 else "+00:00")


def _utf8(text: str) -> bytes:
    return text.encode()
