"""Tool calls out of the rows of `events`: the rule of the view `tool_calls`, for the reader in memory. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from schemas.facts import CALL_BEGINS, CALL_ENDS

Row = Mapping[str, Any]
#: As the views have it (migration 0004).
MOST_MS: Final = 10**15


def calls_of(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One row a call, in no order. Both ends go together by session, sub-agent and `tool_use_id`."""
    ends: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["event_type"] == CALL_BEGINS or row["event_type"] in CALL_ENDS:
            call_id = row["tool_use_id"] or str(row["event_id"])
            ends[row["session_id"], row["agent_id"] or "", call_id].append(row)
    return [_call(*key, found) for key, found in ends.items()]


def _call(session_id: str, agent_id: str, call_id: str, rows: list[Row]) -> dict[str, Any]:
    payloads = [msgspec.json.decode(row["payload"]) for row in rows]
    began = [row["occurred_at"] for row in rows if row["event_type"] == CALL_BEGINS]
    ended = [row["occurred_at"] for row in rows if row["event_type"] in CALL_ENDS]
    outcomes = [CALL_ENDS[row["event_type"]] for row in rows if row["event_type"] in CALL_ENDS]
    failures = [told for row, told in zip(rows, payloads, strict=True) if CALL_ENDS.get(row["event_type"]) is False]
    return {
        "session_id": session_id,
        "agent_id": agent_id,
        "call_id": call_id,
        "agent_type": _most(row["agent_type"] for row in rows),
        "tool_name": _most(row["tool_name"] for row in rows) or "",
        "tool_use_id": rows[0]["tool_use_id"],
        "started_at": min(began, default=None),
        "ended_at": max(ended, default=None),
        "execution_time_ms": _most(_number(told.get("duration_ms")) for told in payloads),
        "success": all(outcomes) if outcomes else None,
        "error_message": _most(_string(told.get("error")) for told in failures),
    }


def _most(values: Iterable[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)


def _number(value: object) -> int | None:
    """Rounded half away from zero; none from `MOST_MS` on, which is no time that a call takes."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MOST_MS < value < MOST_MS:
        return None
    return int(value + math.copysign(0.5, value)) if isinstance(value, float) else value


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None
