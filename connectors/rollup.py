"""The session roll-up: what a set of events says about each session, in any order, each event once. Pure.

A delta is folded from the events that were *newly* stored, in the transaction that stored them, and merged into the
row. Merging is commutative and associative, so neither the order of arrival nor the cut of the batches matters:
counts add, first/last are min/max by event time, and every copied value carries the time it is true for.

Status: a session is over when its latest `session_end` is not older than its latest sign of life; a later sign of
life (it was resumed) makes it active again. Kinds that only close something are no sign of life, because they
may trail the end by milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from schemas.event import HookEvent, LoggedEvent, Position
from schemas.facts import machine_of, project_of

START: Final = "session_start"
END: Final = "session_end"
#: Events that may trail the end of their session.
CLOSING: Final = frozenset(
    {
        END,
        "session_stop",
        "stop_failure",
        "subagent_stop",
        "tool_post_use",
        "post_tool_use_failure",
        "post_tool_batch",
        "notification",
    }
)
STATUSES: Final = ("active", "completed", "terminated", "error")
#: Sorts before every event time; times before 1970 are negative.
_NEVER: Final = -(1 << 62)


#: Columns of `sessions` that a roll-up writes, with their Postgres types.
SESSION_TYPES: Final[dict[str, str]] = {
    "session_id": "text",
    "source": "text",
    "project": "text",
    "cwd": "text",
    "cwd_at": "timestamptz",
    "machine": "text",
    "machine_at": "timestamptz",
    "git_branch": "text",
    "git_commit": "text",
    "git_at": "timestamptz",
    "status": "text",
    "first_event_at": "timestamptz",
    "last_event_at": "timestamptz",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
    "last_active_at": "timestamptz",
    "last_end_at": "timestamptz",
    "last_end_status": "text",
    "event_count": "bigint",
    "last_partition": "integer",
    "last_offset": "bigint",
}


class Delta(msgspec.Struct, kw_only=True):
    """One session's row, or a part of it: a merge of deltas is a delta. Times are microseconds."""

    session_id: str
    source: str
    first_event_at: int
    last_event_at: int
    last: Position
    event_count: int = 1
    cwd: str | None = None
    cwd_at: int | None = None
    machine: str | None = None
    machine_at: int | None = None
    git_branch: str | None = None
    git_commit: str | None = None
    git_at: int | None = None
    started_at: int | None = None
    last_active_at: int | None = None
    last_end_at: int | None = None
    last_end_status: str | None = None

    @property
    def status(self) -> str:
        """active, completed, terminated or error."""
        over = self.last_end_at is not None and self.last_end_at >= _or_never(self.last_active_at)
        return (self.last_end_status or "completed") if over else "active"

    @property
    def ended_at(self) -> int | None:
        """The latest end; None while active."""
        return None if self.status == "active" else self.last_end_at

    @property
    def project(self) -> str | None:
        """The last part of the working directory."""
        return project_of(self.cwd)


def session_row(delta: Delta) -> tuple[Any, ...]:
    """In the order of `SESSION_TYPES`."""
    return (
        delta.session_id,
        delta.source,
        delta.project,
        delta.cwd,
        delta.cwd_at,
        delta.machine,
        delta.machine_at,
        delta.git_branch,
        delta.git_commit,
        delta.git_at,
        delta.status,
        delta.first_event_at,
        delta.last_event_at,
        delta.started_at,
        delta.ended_at,
        delta.last_active_at,
        delta.last_end_at,
        delta.last_end_status,
        delta.event_count,
        delta.last.partition,
        delta.last.offset,
    )


class _StartFacts(msgspec.Struct):
    git_branch: str | None = None
    git_commit: str | None = None


class _EndFacts(msgspec.Struct):
    status: str | None = None
    reason: str | None = None


_start_facts = msgspec.json.Decoder(_StartFacts)
_end_facts = msgspec.json.Decoder(_EndFacts)


def fold(events: Iterable[LoggedEvent]) -> list[Delta]:
    """One delta for each session in these events, sorted by session id (so that writers lock rows in one order)."""
    deltas: dict[str, Delta] = {}
    for logged in events:
        session_id = logged.event.session_id
        delta = deltas.get(session_id)
        if delta is None:
            deltas[session_id] = _first(logged)
        else:
            _add(delta, logged)
    return [deltas[session_id] for session_id in sorted(deltas)]


def merge(old: Delta, new: Delta) -> Delta:
    """Both together; what the upserts of the two databases say in SQL."""
    first = min((old.first_event_at, old.source), (new.first_event_at, new.source))
    cwd_at, cwd = min(_cwd(old), _cwd(new))
    machine_at, machine = min(_machine(old), _machine(new))
    git_at, branch, commit = max(_git(old), _git(new))
    end_at, end_status = max(_end(old), _end(new))
    return Delta(
        session_id=old.session_id,
        source=first[1],
        first_event_at=first[0],
        last_event_at=max(old.last_event_at, new.last_event_at),
        last=max(old.last, new.last),
        event_count=old.event_count + new.event_count,
        cwd=cwd or None,
        cwd_at=int(cwd_at) if cwd else None,
        machine=machine or None,
        machine_at=int(machine_at) if machine else None,
        git_branch=branch or None,
        git_commit=commit or None,
        git_at=git_at if git_at > _NEVER else None,
        started_at=_least(old.started_at, new.started_at),
        last_active_at=_most(old.last_active_at, new.last_active_at),
        last_end_at=end_at if end_at > _NEVER else None,
        last_end_status=end_status or None,
    )


def _cwd(delta: Delta) -> tuple[float, str]:
    return (float("inf") if delta.cwd_at is None else delta.cwd_at, delta.cwd or "")


def _machine(delta: Delta) -> tuple[float, str]:
    return (float("inf") if delta.machine_at is None else delta.machine_at, delta.machine or "")


def _git(delta: Delta) -> tuple[int, str, str]:
    return (_or_never(delta.git_at), delta.git_branch or "", delta.git_commit or "")


def _end(delta: Delta) -> tuple[int, str]:
    return (_or_never(delta.last_end_at), delta.last_end_status or "")


def _or_never(at: int | None) -> int:
    return _NEVER if at is None else at


def _most(old: int | None, new: int | None) -> int | None:
    return new if old is None else old if new is None else max(old, new)


def _least(old: int | None, new: int | None) -> int | None:
    return new if old is None else old if new is None else min(old, new)


def _first(logged: LoggedEvent) -> Delta:
    event, at = logged.event, logged.event.occurred_at
    delta = Delta(
        session_id=event.session_id,
        source=event.source,
        first_event_at=at,
        last_event_at=at,
        last=logged.ingest,
        cwd=event.cwd or None,
        cwd_at=at if event.cwd else None,
        last_active_at=None if event.event_type in CLOSING else at,
    )
    _machine_told(delta, logged.event)
    _mark(delta, logged)
    return delta


def _add(delta: Delta, logged: LoggedEvent) -> None:
    event, at = logged.event, logged.event.occurred_at
    delta.event_count += 1
    if at < delta.first_event_at or (at == delta.first_event_at and event.source < delta.source):
        delta.first_event_at, delta.source = at, event.source
    delta.last_event_at = max(delta.last_event_at, at)
    delta.last = max(delta.last, logged.ingest)
    if event.cwd and (delta.cwd_at is None or (at, event.cwd) < (delta.cwd_at, delta.cwd or "")):
        delta.cwd, delta.cwd_at = event.cwd, at
    if event.event_type not in CLOSING:
        delta.last_active_at = _most(delta.last_active_at, at)
    _machine_told(delta, event)
    _mark(delta, logged)


def _machine_told(delta: Delta, event: HookEvent) -> None:
    machine, at = machine_of(event), event.occurred_at
    if machine and (delta.machine_at is None or (at, machine) < (delta.machine_at, delta.machine or "")):
        delta.machine, delta.machine_at = machine, at


def _mark(delta: Delta, logged: LoggedEvent) -> None:
    """What only a start or an end tells."""
    event, at = logged.event, logged.event.occurred_at
    if event.event_type == START:
        delta.started_at = at if delta.started_at is None else min(at, delta.started_at)
        branch, commit = _git_facts(event.payload)
        if (branch or commit) and (at, branch or "", commit or "") > _git(delta):
            delta.git_at, delta.git_branch, delta.git_commit = at, branch, commit
    elif event.event_type == END:
        status = _end_status(event.payload)
        if (at, status) > _end(delta):
            delta.last_end_at, delta.last_end_status = at, status


def _git_facts(payload: str) -> tuple[str | None, str | None]:
    try:
        facts = _start_facts.decode(payload)
    except (msgspec.MsgspecError, ValueError):
        return None, None
    return _plain(facts.git_branch), _plain(facts.git_commit)


def _plain(text: str | None) -> str | None:
    return (text or "").replace("\0", "") or None  # a text column refuses U+0000


def _end_status(payload: str) -> str:
    """`status` where it is one of ours; a `reason` of error or terminated; else completed."""
    try:
        facts = _end_facts.decode(payload)
    except (msgspec.MsgspecError, ValueError):
        return "completed"
    for word in (facts.status, facts.reason):
        if word in STATUSES[1:]:
            return str(word)
    return "completed"
