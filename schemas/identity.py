"""What makes an event itself: its natural id and its fingerprint.

A hook body has no id. Where it names something that happens once (a tool call, a displayed message, a task), the id is
derived from that and a second delivery has the same id. Where it names nothing, equal bodies are different events and
the id is fresh; the fingerprint then only marks a suspicion.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha1, sha256
from typing import Any, Final
from uuid import UUID

#: Never changes: ids derived from it are in topics and databases.
NAMESPACE: Final = UUID("6f0c3f0e-5d0a-5c52-9d57-3d5f6d1c7a11")
_NAMESPACE_BYTES: Final = NAMESPACE.bytes

#: The fields that name something unique within (session, agent, event), in order of preference.
NATURAL_KEYS: Final[tuple[tuple[str, ...], ...]] = (
    ("tool_use_id",),
    ("message_id", "index"),
    ("task_id",),
    ("elicitation_id",),
)


def fingerprint(session_id: str, agent_id: str | None, event_type: str, canonical: bytes) -> bytes:
    """16 bytes of SHA-256 over session, agent, event and canonical payload (after redaction), NUL between them."""
    head = f"{session_id}\0{agent_id or ''}\0{event_type}\0".encode("utf-8", "surrogatepass")
    return sha256(head + canonical).digest()[:16]


def natural_id(session_id: str, agent_id: str | None, event: str, body: Mapping[str, Any]) -> UUID | None:
    """uuid5 of (session, agent, event, natural key), or None when the body names nothing unique."""
    for names in NATURAL_KEYS:
        values = [_key_part(body.get(name)) for name in names]
        if all(values):
            return _uuid5("\0".join((session_id, agent_id or "", event, "+".join(names), *values)))
    return None


def _key_part(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _uuid5(name: str) -> UUID:
    digest = sha1(_NAMESPACE_BYTES + name.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    return UUID(bytes=digest[:16], version=5)
