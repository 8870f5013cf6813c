"""Cut an oversize native hook body to size: the longest strings first, with a visible mark at each cut.

A hook body is never refused for its size, as nobody would send it again; most of it is one or two tool outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from schemas.jsontext import dump

#: A string is never cut below this many bytes of JSON, so that what is left of it can still be read.
FLOOR: Final = 1024
#: Room for the marks themselves.
SLACK: Final = 256
#: Kept whole to the last: without these an event cannot be placed.
KEPT: Final = (
    "session_id",
    "hook_event_name",
    "tool_name",
    "tool_use_id",
    "agent_id",
    "agent_type",
    "prompt_id",
    "cwd",
)
_KEPT_CHARS: Final = 4096

_Slot = tuple[int, str, Callable[[str], None]]


def shorten(body: dict[str, Any], limit: int) -> bytes:
    """Compact JSON of `body` in at most `limit` bytes; the same body always gives the same text.

    Longest strings are cut first; if they do not make enough room, whole top-level fields are replaced by a mark,
    the largest first; in the end only the identifying fields are left.
    """
    text = dump(body)
    for size, value, put in sorted(_strings(body), key=lambda slot: -slot[0]):
        if len(text) <= limit or size <= FLOOR:
            break
        put(cut(value, size, max(FLOOR, size - (len(text) - limit) - SLACK)))
        text = dump(body)
    if len(text) > limit:
        text = _drop_fields(body, limit)
    return text


def cut(value: str, size: int, keep: int) -> str:
    """`value`, whose JSON has `size` bytes, shortened to about `keep` bytes of JSON, with the mark at its end."""
    chars = len(value) * keep // size
    while chars and (now := len(dump(value[:chars]))) > keep:
        chars = min(chars - 1, chars * keep // now)
    head = value[:chars]
    if head and "\ud800" <= head[-1] <= "\udbff":
        head = head[:-1]
    return f"{head}…[truncated by chronicle: {len(value) - len(head)} of {len(value)} characters]"


def _strings(body: dict[str, Any]) -> list[_Slot]:
    """Every long string with the size of its JSON and a way to replace it, in document order."""
    slots: list[_Slot] = []
    stack: list[Any] = [body]
    while stack:
        parent = stack.pop()
        items = parent.items() if isinstance(parent, dict) else enumerate(parent)
        for key, value in list(items):
            if isinstance(value, (dict, list)):
                stack.append(value)
            elif isinstance(value, str) and len(value) > FLOOR // 6:
                slots.append((len(dump(value)), value, _setter(parent, key)))
    return slots


def _setter(parent: Any, key: Any) -> Callable[[str], None]:
    return lambda value: parent.__setitem__(key, value)


def _drop_fields(body: dict[str, Any], limit: int) -> bytes:
    """Replace the largest top-level fields by a mark until the rest fits."""
    sizes = sorted(((len(dump(value)), key) for key, value in body.items() if key not in KEPT), reverse=True)
    left = len(dump(body)) - limit
    for size, key in sizes:
        if left <= 0:
            break
        mark = f"[truncated by chronicle: {size} bytes of JSON]"
        body[key] = mark
        left -= size - len(mark) - 2
    text = dump(body)
    if len(text) <= limit:
        return text
    kept = {key: body[key][:_KEPT_CHARS] for key in KEPT if isinstance(body.get(key), str)}
    return dump({**kept, "chronicle_truncated": "[truncated by chronicle: all other fields]"})
