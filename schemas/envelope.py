"""The seeds' envelope: one body with one event or many, each judged alone. The rules are in `docs/api-ingest.md`.

The fast way reads a body with one typed decode. Whatever that refuses goes the slow way, which cuts the body into
parts without judging them and then names the fault of each. Both ways give the same events (tested).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import msgspec

from schemas import jsonscan
from schemas.errors import Refused
from schemas.event import Flag, HookEvent, IdOrigin
from schemas.facts import MACHINE, MACHINE_KEYS
from schemas.jsontext import Checked, check, dump, escape_pointer, not_json, plain_text, too_deep
from schemas.native import Arrival, Redact, build, event_type_of, session_id_of
from schemas.times import is_odd, micros_of

#: The metadata member in which the server keeps what has no column: unknown envelope fields, odd timestamps.
SERVER_KEY: Final = "chronicle"
_BOM: Final = b"\xef\xbb\xbf"
_EMPTY: Final = msgspec.Raw(b"{}")
_REDACTED: Final = Flag.REDACTED.value


class IngestLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request may hold. Bytes are counted decoded; `read_seconds` bounds the reading of a body."""

    max_body_bytes: int = 8 * 1024 * 1024
    max_events: int = 1000
    max_event_bytes: int = 900 * 1024
    max_ratio: int = 100
    read_seconds: float = 5.0


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """One event as clients of the HTTP API send it. Only `session_id`, `event_type` and `payload` are needed."""

    session_id: str
    payload: msgspec.Raw
    event_type: str | None = None
    event_id: UUID | None = None
    timestamp: str | int | float | None = None
    metadata: msgspec.Raw = _EMPTY


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What the path of a request already says. `loose` lets unknown fields be the payload (the session routes)."""

    event_type: str | None = None
    session_id: str | None = None
    loose: bool = False


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """One event that was not accepted; `index` counts from 0 in the order sent, `pointer` starts at that event."""

    index: int
    code: str
    pointer: str
    detail: str


class _Bulk(msgspec.Struct, forbid_unknown_fields=True):
    events: list[Envelope]


Item = Envelope | bytes
_one: Final = msgspec.json.Decoder(Envelope).decode
_many: Final = msgspec.json.Decoder(list[Envelope]).decode
_bulk: Final = msgspec.json.Decoder(_Bulk).decode
_raws: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


# --- a body into items -----------------------------------------------------------------------------------------------


def split(body: bytes, *, lines: bool = False, max_events: int = 1000) -> Sequence[Item]:
    """Cut a body into its events: one envelope, an array, `{"events": […]}` or lines (NDJSON).

    `lines` is what the content type says; several lines are also recognised by themselves. Items that one typed
    decode could read are envelopes, all others are their bytes. Raises `Refused` for a body that is no such thing:
    400 `empty_body`, `not_json`; 413 `too_many_events`; 422 `not_an_object`, `no_events`, `too_deep`.
    """
    body = body.removeprefix(_BOM).strip()
    if not body:
        raise Refused(400, "empty_body", "The body is empty; send an event as JSON.")
    items: Sequence[Item]
    if lines:
        items = _lines(body)
    elif body.startswith(b"["):
        items = _array(body, body, _many, "")
    elif body.startswith(b"{"):
        items = _object(body)
    else:
        check(body)
        raise Refused(422, "not_an_object", "Send an event (an object), an array of events, or one event a line.")
    if not items:
        raise Refused(422, "no_events", "There is no event in the body; send at least one.")
    if len(items) > max_events:
        detail = f"{len(items)} events in one request; send at most {max_events}."
        raise Refused(413, "too_many_events", detail)
    return items


def _object(body: bytes) -> Sequence[Item]:
    try:
        return [_one(body)]
    except (ValueError, RecursionError):
        if b'"events"' in body[:256]:
            bulk = _events_member(body)
            if bulk is not None:
                return _array(body, bulk, _read_bulk, "/events")
        if b"\n" in body and len(lines := _lines(body)) > 1 and _is_object(lines[0]):
            return lines
        return [body]


def _array(body: bytes, array: bytes, read: Any, pointer: str) -> Sequence[Item]:
    """All at once if every event is well-formed, else each as its bytes."""
    try:
        items: Sequence[Item] = read(body)
        return items
    except (ValueError, RecursionError) as error:
        try:
            return [bytes(raw) for raw in _raws(array)]
        except (ValueError, RecursionError):
            try:
                return jsonscan.elements(array)
            except ValueError as bad:
                raise _unreadable(error, bad, pointer) from bad


def _read_bulk(body: bytes) -> list[Envelope]:
    return _bulk(body).events


def _events_member(body: bytes) -> bytes | None:
    """The array of `{"events": […]}`; None when the body is something else (an envelope has a payload)."""
    try:
        members = dict(jsonscan.members(body))
    except ValueError:
        return None
    events = members.get(b'"events"', b"")
    return events if events.startswith(b"[") and b'"payload"' not in members else None


def _lines(body: bytes) -> list[Item]:
    return [line for part in body.split(b"\n") if (line := part.strip().removeprefix(_BOM))]


def _is_object(line: Item) -> bool:
    try:
        return isinstance(line, bytes) and bool(line.startswith(b"{")) and isinstance(jsonscan.members(line), list)
    except ValueError:
        return False


# --- an item into an event -------------------------------------------------------------------------------------------


def event_of(item: Item, arrival: Arrival, defaults: Defaults) -> HookEvent:
    """The event of one item. Raises `Refused` with a pointer that starts at the item."""
    extra: dict[str, Any] = {}
    if not isinstance(item, Envelope):
        item, extra = _read_slowly(item, defaults)
    event_type, native = _type_of(item.event_type, defaults)
    session_id = _session_of(item.session_id, defaults)
    payload, flags = _checked(bytes(item.payload), "/payload", arrival.redact)
    if not isinstance(payload.value, dict):
        raise Refused(422, "wrong_type", "payload must be a JSON object.", "/payload")
    metadata, more = _metadata(bytes(item.metadata), arrival)
    timestamp = item.timestamp
    if isinstance(timestamp, str) and is_odd(timestamp):
        extra = {**extra, "timestamp": timestamp}
    if extra:
        metadata, again = _keep(extra, metadata, arrival)
        more |= again
    _refuse_size(payload.text, metadata.text, arrival.max_event_bytes)
    return build(
        checked_text=payload.text,
        canonical=payload.canonical,
        body=payload.value,
        flags=flags | more,
        session_id=session_id,
        event_type=event_type,
        hook_event_name=native or _name_in(payload.value),
        event_id=_id_of(item.event_id, arrival),
        id_origin=IdOrigin.FRESH if item.event_id is None and arrival.event_id is None else IdOrigin.CLIENT,
        occurred_at=_occurred(timestamp, arrival),
        arrival=arrival,
        metadata=metadata.text,
    )


def _type_of(sent: str | None, defaults: Defaults) -> tuple[str, str | None]:
    if sent is None:
        if defaults.event_type is None:
            detail = "event_type is missing; send a word such as tool_pre_use."
            raise Refused(422, "missing_field", detail, "/event_type")
        return event_type_of(defaults.event_type)
    if not sent.strip() or len(sent) > 100:
        raise Refused(422, "bad_event_type", "event_type must be text of 1 to 100 characters.", "/event_type")
    found = event_type_of(sent)
    if defaults.event_type is not None and event_type_of(defaults.event_type)[0] != found[0]:
        detail = "event_type is not the one in the path; leave it out of the body or send both alike."
        raise Refused(422, "event_type_mismatch", detail, "/event_type")
    return found


def _session_of(sent: str, defaults: Defaults) -> str:
    session_id = session_id_of(sent)
    if defaults.session_id is not None and session_id != defaults.session_id:
        detail = "session_id is not the one in the path; leave it out of the body or send both alike."
        raise Refused(422, "session_id_mismatch", detail, "/session_id")
    return session_id


def _id_of(sent: UUID | None, arrival: Arrival) -> UUID:
    if sent is not None and sent.int == 0:
        raise Refused(422, "bad_event_id", "event_id must not be the nil UUID; leave it out instead.", "/event_id")
    return sent or arrival.event_id or arrival.new_id()


def _occurred(timestamp: str | int | float | None, arrival: Arrival) -> int:
    if timestamp is not None:
        return micros_of(timestamp)
    return arrival.received_at if arrival.occurred_at is None else arrival.occurred_at


def _name_in(payload: Mapping[str, Any]) -> str | None:
    name = payload.get("hook_event_name")
    return plain_text(name)[:255] if isinstance(name, str) and name else None


def _checked(raw: bytes, pointer: str, redact: Redact | None) -> tuple[Checked, int]:
    text = redact(raw) if redact else raw
    checked = check(text, pointer=pointer)
    return checked, checked.flags | (0 if text is raw else _REDACTED)


def _refuse_size(payload: str, metadata: str, limit: int) -> None:
    size = len(payload) + len(metadata)
    if size <= limit // 4 or (size <= limit and len(payload.encode()) + len(metadata.encode()) <= limit):
        return
    detail = f"Payload and metadata may have {limit} bytes of JSON together; shorten the largest strings."
    raise Refused(413, "too_large", detail, "/payload")


# --- metadata --------------------------------------------------------------------------------------------------------


def _metadata(raw: bytes, arrival: Arrival) -> tuple[Checked, int]:
    judge = _small_metadata if len(raw) <= _SMALL else _judged_metadata
    return judge(raw, arrival.redact, arrival.machine)


def _judged_metadata(raw: bytes, redact: Redact | None, machine: str | None) -> tuple[Checked, int]:
    if raw == b"null":
        raw = b"{}"
    checked, flags = _checked(raw, "/metadata", redact)
    _judge_metadata(checked.value)
    if machine is not None and MACHINE_KEYS.isdisjoint(checked.value):
        checked, more = _checked(dump({MACHINE: machine, **checked.value}), "/metadata", redact)
        flags |= more
    return checked, flags


#: A client's metadata is mostly the same few bytes with every event.
_SMALL: Final = 128
_small_metadata: Final = lru_cache(maxsize=256)(_judged_metadata)


def _judge_metadata(value: object) -> None:
    if not isinstance(value, dict):
        raise Refused(422, "wrong_type", "metadata must be a JSON object.", "/metadata")
    version, retries = value.get("hook_version"), value.get("retry_count")
    if version is not None and not isinstance(version, str):
        raise Refused(422, "bad_metadata", "hook_version must be text.", "/metadata/hook_version")
    if retries is not None and (not isinstance(retries, int) or isinstance(retries, bool) or retries < 0):
        raise Refused(422, "bad_metadata", "retry_count must be a whole number, 0 or more.", "/metadata/retry_count")


def _keep(extra: Mapping[str, Any], metadata: Checked, arrival: Arrival) -> tuple[Checked, int]:
    """Add what the envelope had beyond its fields under metadata.chronicle."""
    ours = metadata.value.get(SERVER_KEY)
    kept = {**ours, **extra} if isinstance(ours, dict) else dict(extra)
    return _checked(dump({**metadata.value, SERVER_KEY: kept}), "/metadata", arrival.redact)


# --- the slow way ----------------------------------------------------------------------------------------------------


def _read_slowly(raw: bytes, defaults: Defaults) -> tuple[Envelope, dict[str, Any]]:
    """An envelope field by field, and what else the object holds. Raises `Refused` that names the field."""
    try:
        return _one(raw), {}
    except (ValueError, RecursionError) as error:
        fields = _fields(raw, error)
    known = {name: fields.pop(name) for name in Envelope.__struct_fields__ if name in fields}
    if "payload" not in known:
        if not defaults.loose:
            raise Refused(422, "missing_field", "payload is missing; send a JSON object.", "/payload")
        known["payload"] = b"{" + b",".join(dump(name) + b":" + text for name, text in fields.items()) + b"}"
        fields = {}
    values = {name: _value(name, text) for name, text in known.items() if name not in ("payload", "metadata")}
    session_id = values.get("session_id")
    envelope = Envelope(
        session_id=session_id_of(defaults.session_id if session_id is None else session_id),
        payload=msgspec.Raw(known["payload"]),
        event_type=_text(values.get("event_type"), "/event_type"),
        event_id=_uuid(values.get("event_id")),
        timestamp=values.get("timestamp"),
        metadata=msgspec.Raw(known.get("metadata", b"{}")),
    )
    unknown = {name: check(text, pointer=f"/{escape_pointer(name)}").value for name, text in fields.items()}
    return envelope, {"unknown_fields": unknown} if unknown else {}


def _fields(raw: bytes, error: Exception) -> dict[str, bytes]:
    try:
        return {name: bytes(text) for name, text in _members(raw).items()}
    except (ValueError, RecursionError):
        if not raw.startswith(b"{"):
            check(raw)
            detail = "An event must be a JSON object; see the envelope in the API's description."
            raise Refused(422, "not_an_object", detail) from error
        try:
            return {str(check(name).value): text for name, text in jsonscan.members(raw)}
        except ValueError as bad:
            raise _unreadable(error, bad, "") from bad


def _unreadable(error: Exception, scanned: ValueError, pointer: str) -> Refused:
    """The fault of JSON that cannot even be cut: in the parser's words, unless it had stopped before the break."""
    if isinstance(error, RecursionError):
        return too_deep(pointer)
    return not_json(scanned if isinstance(error, msgspec.ValidationError) else error, pointer)


def _value(name: str, text: bytes) -> Any:
    return check(text, pointer=f"/{name}").value


def _text(value: object, pointer: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise Refused(422, "wrong_type", f"{pointer[1:]} must be text.", pointer)
    return value


def _uuid(value: object) -> UUID | None:
    if value is None:
        return None
    try:
        return msgspec.convert(value, UUID)
    except ValueError as error:
        detail = "event_id must be a UUID in text, such as 0190a8f0-7c1e-7b3a-9c55-2f0d2f6f7a11, or be left out."
        raise Refused(422, "bad_event_id", detail, "/event_id") from error
