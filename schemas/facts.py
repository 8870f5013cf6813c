"""What an event tells beyond its columns: project, machine, file. Read out of payload and metadata, never raised.

Payloads are the clients' own: a field that has another type than expected tells nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec

from schemas.event import HookEvent

#: Characters of a fact that becomes part of a key.
MAX_NAME: Final = 255
MAX_PATH: Final = 512
#: Where metadata names the machine of the sender; MACHINE before the others.
MACHINE: Final = "machine"
MACHINE_KEYS: Final = frozenset({MACHINE, "hostname", "host"})
#: Event types that end a tool call, and whether it succeeded.
CALL_ENDS: Final = {"tool_post_use": True, "post_tool_use_failure": False}
CALL_BEGINS: Final = "tool_pre_use"
PROMPT: Final = "user_prompt"
#: Tools whose call changes a file.
WRITING_TOOLS: Final = frozenset({"Edit", "MultiEdit", "Write", "NotebookEdit"})


class _ToolInput(msgspec.Struct):
    file_path: Any = None
    notebook_path: Any = None


class _Payload(msgspec.Struct):
    tool_input: Any = None


class _Metadata(msgspec.Struct):
    machine: Any = None
    hostname: Any = None
    host: Any = None


_payload = msgspec.json.Decoder(_Payload)
_metadata = msgspec.json.Decoder(_Metadata)


def project_of(cwd: str | None) -> str | None:
    """`/home/ann/shop/` -> `shop`; also of a Windows path."""
    return (cwd or "").replace("\\", "/").rstrip("/").rpartition("/")[2][:MAX_NAME] or None


def machine_of(event: HookEvent) -> str | None:
    """The name of the machine, where the metadata tells it (`MACHINE_KEYS`)."""
    metadata = event.metadata
    if metadata == "{}":
        return None
    return _known_machine(metadata) if len(metadata) <= _SMALL else _machine_in(metadata)


def _machine_in(metadata: str) -> str | None:
    try:
        found = _metadata.decode(metadata)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return next((name for name in map(_text, (found.machine, found.hostname, found.host)) if name), None)


#: A client's metadata is mostly the same few bytes with every event.
_SMALL: Final = 256
_known_machine: Final = lru_cache(maxsize=1024)(_machine_in)


def file_of(event: HookEvent) -> str | None:
    """The file that a tool call names, for tools that write."""
    if event.tool_name not in WRITING_TOOLS:
        return None
    try:
        found = _payload.decode(event.payload).tool_input
        named = msgspec.convert(found, _ToolInput) if isinstance(found, dict) else _ToolInput()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return _text(named.file_path, MAX_PATH) or _text(named.notebook_path, MAX_PATH)


def _text(value: object, limit: int = MAX_NAME) -> str | None:
    """`value` if it is text that a text column can hold (no U+0000), cut to `limit`."""
    return value.replace("\0", "")[:limit] or None if isinstance(value, str) else None
