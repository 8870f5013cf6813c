"""For any JSON at all: it is stored as sent or refused with a reason, and both ways of reading agree."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any
from uuid import UUID

from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas import jsonscan
from schemas.envelope import Defaults, event_of, split
from schemas.errors import Refused
from schemas.event import Flag
from schemas.jsontext import check, jsonb_text, unfit_for_jsonb
from schemas.native import Arrival, from_native
from schemas.redact import Redactor

REDACT = Redactor()
ARRIVAL = Arrival(received_at=1, new_id=lambda: UUID(int=7), source="t")

texts = st.text(max_size=20) | st.text(
    alphabet=st.characters(codec=None, categories=("Cs", "Lu", "Nd", "Cc")), max_size=6
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=5)
layouts = st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 1}, {"sort_keys": True}])


def refusals(attempt: Callable[[], object]) -> list[Refused]:
    """The fault of an attempt, if any; every other error comes through."""
    try:
        attempt()
    except Refused as fault:
        return [fault]
    return []


def clean(value: Any) -> Any:
    """The written rule, applied to a decoded value."""
    if isinstance(value, str):
        return "".join("\u2400" if c == "\0" else "\ufffd" if "\ud800" <= c <= "\udfff" else c for c in value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    return {clean(k): clean(v) for k, v in value.items()} if isinstance(value, dict) else value


def minus_zero(value: Any) -> bool:
    """Whether a float -0.0 is anywhere in it."""
    if isinstance(value, float):
        return value == 0 and math.copysign(1, value) < 0
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(minus_zero, inner))


def joined(value: Any) -> Any:
    """What JSON's escapes say: two halves of a pair side by side are one character."""
    return json.loads(json.dumps(value))


@given(objects, layouts)
def test_any_object_is_stored_as_sent(value: dict[str, Any], layout: dict[str, Any]) -> None:
    """The payload's text is the sender's; its database form follows the rule and holds nothing unfit."""
    text = json.dumps(value, **layout)
    body = b'{"session_id":"s","event_type":"t","payload":' + text.encode() + b"}"
    (item,) = split(body)
    event = event_of(item, ARRIVAL, Defaults())
    assert event.payload == text
    assert bool(event.flags & Flag.SANITIZED) == (unfit_for_jsonb(text) or minus_zero(value))
    fit = jsonb_text(text)
    assert not unfit_for_jsonb(fit)
    keys_collide = len(clean(joined(value))) != len(joined(value))
    assert keys_collide or json.loads(fit) == json.loads(json.dumps(clean(joined(value))))
    assert jsonb_text(fit) == fit


@given(objects, layouts)
def test_a_native_body_is_stored_as_sent(value: dict[str, Any], layout: dict[str, Any]) -> None:
    """The same for hook bodies."""
    text = json.dumps({**value, "session_id": "s", "hook_event_name": "Stop"}, **layout)
    assert from_native(text.encode(), ARRIVAL).payload == text


@given(values)
def test_fast_and_slow_reading_agree(value: Any) -> None:
    """A lone surrogate elsewhere in the body (which forces the slow way) changes nothing for an event."""
    envelope = json.dumps({"session_id": "s", "event_type": "t", "timestamp": 5, "payload": {"v": value}}).encode()
    slow = b"[" + envelope + b',{"session_id":"s","event_type":"t","payload":{"x":"\\udc90"}}]'
    (item,) = split(envelope)
    assert event_of(split(slow)[0], ARRIVAL, Defaults()) == event_of(item, ARRIVAL, Defaults())


@given(st.lists(values, max_size=5), layouts)
def test_arrays_are_cut_where_their_elements_end(elements: list[Any], layout: dict[str, Any]) -> None:
    """The scanner agrees with a real parser about every element."""
    parts = jsonscan.elements(json.dumps(elements, **layout).encode())
    assert [json.loads(part) for part in parts] == [json.loads(json.dumps(element)) for element in elements]


@given(st.binary(max_size=60) | st.text(alphabet='[]{}",:\\01eN.-\n\t utdc9', max_size=40).map(str.encode))
@settings(max_examples=settings().max_examples * 3)
def test_no_bytes_break_the_way_in(body: bytes) -> None:
    """Anything is an event or is refused with a 4xx and a code; nothing else is ever raised."""
    defaults = Defaults(event_type="t", session_id="s", loose=True)
    for lines in (False, True):
        faults = refusals(lambda lines=lines: [event_of(item, ARRIVAL, defaults) for item in split(body, lines=lines)])
        assert all(400 <= fault.status < 500 and fault.code for fault in faults)
    assert all(400 <= fault.status < 500 for fault in refusals(lambda: from_native(body, ARRIVAL)))


@given(objects)
def test_equal_content_has_one_fingerprint(value: dict[str, Any]) -> None:
    """Order and blanks do not matter to it."""
    one = check(json.dumps(value).encode())
    other = check(json.dumps(dict(reversed(value.items())), indent=1).encode())
    assert one.canonical == other.canonical


SNIPPETS = [
    "password", "token", "api_key", '"', "'", "\\", "=", ": ", "{", "}", "[", "]", ",", "\n", " ", "--", "PASS=", "/",
    "ghp_" + "a1" * 20, "sk-ant-abcdefgh12", "AKIAIOSFODNN7EXAMPLE", "https://u:p@h", "Bearer abcdef123456789",
    "Authorization: x", "Cookie: a=b", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "MIIE",
    "eyJhbGciOi.eyJzdWIiOi.x", "é", "😀", "u0073", "[redacted:token]", "hunter22",
]  # fmt: skip
secretive = st.lists(st.sampled_from(SNIPPETS), max_size=8).map("".join)
secret_values = st.recursive(
    secretive | st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(secretive | st.sampled_from(["password", "token", "a"]), inner, max_size=3)
        | inner.map(json.dumps)
    ),
    max_leaves=8,
)


@given(secret_values, layouts, st.booleans())
@example("-----BEGIN PRIVATE KEY----------END PRIVATE KEY-----ghp_" + "a1" * 20, {}, False)
@example("AIza" + "a1B2c" * 7 + "ghp_" + "a1" * 20, {}, True)
@example(["PASS=", -1, ""], {"separators": (",", ":")}, False)
@settings(max_examples=settings().max_examples * 3)
def test_redaction_leaves_json_and_is_done_at_once(value: Any, layout: dict[str, Any], escaped: bool) -> None:
    """The result is JSON, has nothing more to blank, and its shape is that of the input."""
    text = json.dumps(value, ensure_ascii=escaped, **layout)
    if escaped:
        text = text.replace("s", "\\u0073") if "\\" not in text else text
    once = REDACT(text.encode())
    shape_of = json.loads(once)
    assert type(shape_of) is type(json.loads(text)) or isinstance(shape_of, str)
    assert REDACT(once) == once


harmless = st.text(alphabet="xyz {}[]\"\\:=,\n'é😀0123", max_size=12)


@given(st.dictionaries(harmless, harmless | st.lists(harmless), max_size=5))
def test_redaction_touches_nothing_without_secrets(value: dict[str, Any]) -> None:
    """Text in which no secret can be comes back as the very same object."""
    text = json.dumps(value).encode()
    assert REDACT(text) is text
