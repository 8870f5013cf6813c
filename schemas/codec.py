"""HookEvent to framed Avro and back: 0x00, the schema id as 4 bytes big-endian, then the Avro body.

The version written today is laid out by hand, about twice as fast as fastavro; a property test holds it to the same
bytes. Every other version is read by fastavro through Avro's schema resolution. When a new version is released, the
layout below becomes the new one and the old one is left to fastavro.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from io import BytesIO
from typing import Any, Final, cast
from uuid import UUID

import fastavro
import msgspec

from schemas.errors import Poison
from schemas.event import HookEvent, IdOrigin
from schemas.registry import SchemaVersion, packaged

NAME: Final = "hook_event"
#: The fixed head of every version: frame 0..5, event_id 5..21, fingerprint 21..37, id_origin at 37.
ID_AT: Final = 5
FINGERPRINT_AT: Final = 21
ORIGIN_AT: Final = 37
BODY_AT: Final = 38
#: Sixteen fields of at least one byte each follow the head: no record is shorter.
MIN_LENGTH: Final = BODY_AT + 16

#: A third of what `UUID(bytes=…)` takes, which checks its arguments in Python.
_uuid: Final = msgspec.convert
_ORIGIN_BYTES: Final = tuple(bytes((origin * 2,)) for origin in IdOrigin)
_ORIGINS: Final = {origin * 2: origin for origin in IdOrigin}
_SYMBOLS: Final = {origin.name.lower(): origin for origin in IdOrigin}


class AvroCodec:
    """Implements `connectors.ports.Codec`. Stateless; safe to share.

    `encode` raises `TypeError` or `ValueError` for an event that is not what its types say (bool or float for an
    integer, a lone surrogate, an id that is not a UUID): that is a bug of the caller, never a record's fault.
    """

    def __init__(self, versions: Iterable[SchemaVersion] | None = None) -> None:
        ours = [version for version in (packaged() if versions is None else versions) if version.name == NAME]
        self._frame = b"\0" + ours[-1].id.to_bytes(4, "big")
        self._reader = _parsed(ours[-1])
        self._writers = {b"\0" + version.id.to_bytes(4, "big"): _parsed(version) for version in ours}

    def encode(self, event: HookEvent) -> bytes:
        """The event as a framed record of the newest version."""
        return write_v1(event, self._frame)

    def decode(self, value: bytes | None) -> HookEvent:
        """The event in a record of any released version. Raises `Poison` (undecodable, unknown_schema)."""
        frame = self._frame_of(value)
        assert value is not None  # said for the type checker
        try:
            return read_v1(value) if frame == self._frame else self._resolve(value, frame)
        except (ValueError, IndexError, KeyError, EOFError, OverflowError) as error:
            raise Poison("undecodable", f"the Avro body is broken: {error}") from error

    def decode_many(self, values: Iterable[bytes | None]) -> list[HookEvent | Poison]:
        """Decode a chunk; a broken record gives its `Poison` in its place, so that its neighbours are not lost."""
        events: list[HookEvent | Poison] = []
        for value in values:
            try:
                events.append(self.decode(value))
            except Poison as poison:
                events.append(poison)
        return events

    def peek(self, value: bytes | None) -> tuple[bytes, bytes, IdOrigin]:
        """(event_id, fingerprint, id_origin) from the fixed head, without decoding; the first two are 16 bytes each.

        Checks frame, schema id and least length only. Raises `Poison` as `decode` does.
        """
        if value is None or len(value) < MIN_LENGTH or value[:ID_AT] != self._frame:
            self._frame_of(value)  # another version, or it raises
        assert value is not None  # said for the type checker
        origin = _ORIGINS.get(value[ORIGIN_AT])
        if origin is None:
            raise Poison("undecodable", f"id_origin is {value[ORIGIN_AT]}, not 0, 2 or 4")
        return value[ID_AT:FINGERPRINT_AT], value[FINGERPRINT_AT:ORIGIN_AT], origin

    def remark(self, value: bytes, suspected_duplicate_of: UUID) -> bytes:
        """The same record, marked as a suspected duplicate of another event. Raises `Poison` as `decode` does."""
        return self.encode(msgspec.structs.replace(self.decode(value), suspected_duplicate_of=suspected_duplicate_of))

    def _frame_of(self, value: bytes | None) -> bytes:
        if value is None or len(value) < ID_AT:
            raise Poison("undecodable", "the record is empty or shorter than its frame")
        frame = value[:ID_AT]
        if frame not in self._writers:
            if frame[0] != 0:
                raise Poison("undecodable", f"the first byte is {frame[0]}, not 0")
            raise Poison("unknown_schema", f"schema id {int.from_bytes(frame[1:], 'big')} is not one of ours")
        if len(value) < MIN_LENGTH:
            raise Poison("undecodable", f"{len(value)} bytes are too short for an event")
        return frame

    def _resolve(self, value: bytes, frame: bytes) -> HookEvent:
        body = BytesIO(value)
        body.seek(ID_AT)
        fields = cast("dict[str, Any]", fastavro.schemaless_reader(body, self._writers[frame], self._reader))
        if body.tell() != len(value):
            raise ValueError("bytes follow the last field")
        return from_fields(fields)


def from_fields(fields: dict[str, Any]) -> HookEvent:
    """A HookEvent from what fastavro reads; raises `ValueError` for a bad UUID."""
    marked = fields["suspected_duplicate_of"]
    return HookEvent(
        **{
            **fields,
            "event_id": UUID(bytes=fields["event_id"]),
            "id_origin": _SYMBOLS[fields["id_origin"]],
            "suspected_duplicate_of": None if marked is None else UUID(marked),
        }
    )


def to_fields(event: HookEvent) -> dict[str, Any]:
    """The same the other way: what fastavro writes."""
    marked = event.suspected_duplicate_of
    return {
        **msgspec.structs.asdict(event),
        "event_id": event.event_id.bytes,
        "id_origin": event.id_origin.name.lower(),
        "suspected_duplicate_of": None if marked is None else str(marked),
    }


def _parsed(version: SchemaVersion) -> Any:
    """The schema as fastavro takes it, without logical types: times stay integers, ids stay bytes and text."""
    return fastavro.parse_schema(_plain(version.parsed()))


def _plain(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _plain(part) for key, part in schema.items() if key not in {"logicalType", "doc"}}
    return [_plain(part) for part in schema] if isinstance(schema, list) else schema


# --- version 1, laid out by hand -------------------------------------------------------------------------------------


def write_v1(event: HookEvent, frame: bytes) -> bytes:
    """Fields in the order of hook_event.v1.avsc. Raises `TypeError` or `ValueError`."""
    marked = event.suspected_duplicate_of
    if len(event.fingerprint) != 16:
        raise ValueError("fingerprint must have 16 bytes")
    return b"".join(
        (
            frame,
            event.event_id.bytes,
            event.fingerprint,
            _ORIGIN_BYTES[event.id_origin],
            _text(event.session_id),
            _text(event.event_type),
            _optional(event.hook_event_name),
            _long(event.occurred_at, 64),
            _long(event.received_at, 64),
            _text(event.source),
            _optional(event.tool_name),
            _optional(event.tool_use_id),
            _optional(event.agent_id),
            _optional(event.agent_type),
            _optional(event.prompt_id),
            _optional(event.cwd),
            b"\0" if marked is None else _optional(str(marked)),
            _long(event.flags, 32),
            _text(event.payload),
            _text(event.metadata),
        )
    )


def read_v1(value: bytes) -> HookEvent:
    """Raises `ValueError`, `IndexError`, `KeyError` unless `value` is one whole record of version 1, no more."""
    session_id, at = _read_text(value, BODY_AT)
    event_type, at = _read_text(value, at)
    hook_event_name, at = _read_optional(value, at)
    occurred_at, at = _read_long(value, at)
    received_at, at = _read_long(value, at)
    source, at = _read_text(value, at)
    tool_name, at = _read_optional(value, at)
    tool_use_id, at = _read_optional(value, at)
    agent_id, at = _read_optional(value, at) if value[at] else (None, at + 1)
    agent_type, at = _read_optional(value, at) if value[at] else (None, at + 1)
    prompt_id, at = _read_optional(value, at) if value[at] else (None, at + 1)
    cwd, at = _read_optional(value, at)
    marked, at = _read_optional(value, at) if value[at] else (None, at + 1)
    flags, at = _read_long(value, at)
    payload, at = _read_text(value, at)
    metadata, at = _read_text(value, at)
    if at != len(value):
        raise ValueError("bytes follow the last field")
    return HookEvent(
        event_id=_uuid(value[ID_AT:FINGERPRINT_AT], UUID),
        fingerprint=value[FINGERPRINT_AT:ORIGIN_AT],
        id_origin=_ORIGINS[value[ORIGIN_AT]],
        session_id=session_id,
        event_type=event_type,
        hook_event_name=hook_event_name,
        occurred_at=occurred_at,
        received_at=received_at,
        source=source,
        tool_name=tool_name,
        tool_use_id=tool_use_id,
        agent_id=agent_id,
        agent_type=agent_type,
        prompt_id=prompt_id,
        cwd=cwd,
        suspected_duplicate_of=None if marked is None else UUID(marked),
        flags=flags,
        payload=payload,
        metadata=metadata,
    )


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


#: Lengths of short texts and small numbers, made once: most are smaller than this.
_LENGTHS: Final = tuple(_varint(length * 2) for length in range(2048))
#: Two bytes of a longer number, both with the bit that says that more follows.
_PAIRS: Final = tuple(bytes((low & 127 | 128, low >> 7 | 128)) for low in range(1 << 14))
#: The upper half of a time in µs stays the same for minutes.
_upper: Final = lru_cache(maxsize=64)(_varint)


def _long_varint(number: int) -> bytes:
    """`_varint` for numbers of 29 bits and more: half of it is known, a quarter at a time."""
    return _PAIRS[number & 0x3FFF] + _PAIRS[number >> 14 & 0x3FFF] + _upper(number >> 28)


def _text(text: str) -> bytes:
    if type(text) is not str:
        raise TypeError(f"expected text, got {type(text).__name__}")
    raw = text.encode()
    length = len(raw)
    return (_LENGTHS[length] if length < 2048 else _varint(length * 2)) + raw


def _optional(text: str | None) -> bytes:
    return b"\0" if text is None else b"\2" + _text(text)


def _long(number: int, bits: int) -> bytes:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"expected an integer, got {type(number).__name__}")
    if 0 <= number < 2048:
        return _LENGTHS[number]
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise ValueError(f"{number} does not fit {bits} bits")
    zigzag = number << 1 ^ number >> 63
    return _varint(zigzag) if zigzag < 1 << 28 else _long_varint(zigzag)


def _read_long(value: bytes, at: int) -> tuple[int, int]:
    first = value[at]
    if first < 128:
        return first >> 1 ^ -(first & 1), at + 1
    eight = int.from_bytes(value[at : at + 8], "little")
    if eight & _MORE == _MORE_OF_EIGHT:  # eight bytes, as all times of our century have: drop the marks, pair by pair
        eight = eight & 0x007F007F007F007F | (eight & 0x7F007F007F007F00) >> 1
        eight = eight & 0x00003FFF00003FFF | (eight & 0x3FFF00003FFF0000) >> 2
        eight = eight & 0x000000000FFFFFFF | (eight & 0x0FFFFFFF00000000) >> 4
        return eight >> 1 ^ -(eight & 1), at + 8
    number = shift = 0
    while True:
        byte = value[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 63:  # also keeps a megabyte of 0xff from becoming one huge number
            raise ValueError("an integer has more than 64 bits")
    if number >> 64:
        raise ValueError("an integer has more than 64 bits")
    return number >> 1 ^ -(number & 1), at


#: The bit of each byte that says that more follows; a number of eight bytes has all but the last.
_MORE: Final = 0x8080808080808080
_MORE_OF_EIGHT: Final = 0x0080808080808080


def _read_text(value: bytes, at: int) -> tuple[str, int]:
    length = value[at]
    if length & 1:  # zigzag: the sign is in the first bit
        raise ValueError("a text has a negative length")
    if length < 128:
        at += 1
        length >>= 1
    elif (more := value[at + 1]) < 128:
        at += 2
        length = (length & 127) >> 1 | more << 6
    else:
        length, at = _read_long(value, at)
    end = at + length
    if end > len(value):
        raise ValueError("a text ends after the record")
    return value[at:end].decode(), end


def _read_optional(value: bytes, at: int) -> tuple[str | None, int]:
    branch = value[at]
    if branch == 0:
        return None, at + 1
    if branch != 2:
        raise ValueError(f"a union has branch byte {branch}")
    return _read_text(value, at + 1)
