"""What JSON may be stored, and how it becomes a database's JSON."""

from __future__ import annotations

import json

import pytest

from schemas import jsonscan
from schemas.errors import Refused
from schemas.event import Flag
from schemas.jsontext import check, jsonb_text, last_keys, plain_text


def nested(levels: int) -> bytes:
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


@pytest.mark.parametrize(
    ("raw", "status", "code", "pointer"),
    [
        (b'{"a":NaN}', 400, "not_json", "/p"),
        (b'{"a":-Infinity}', 400, "not_json", "/p"),
        (b'{"a":01}', 400, "not_json", "/p"),
        (b'{"a":1,}', 400, "not_json", "/p"),
        (b'{"a":"\x01"}', 400, "not_json", "/p"),
        (b'{"a":"\\udc90","b":NaN}', 400, "not_json", "/p"),
        (b'{"a":"\xff"}', 400, "bad_utf8", "/p"),
        (b'{"a":"\xed\xa0\x80"}', 400, "bad_utf8", "/p"),
        (b'{"a":[0,{"b/c":1e999}]}', 422, "number_out_of_range", "/p/a/1/b~1c"),
        (b'{"a":"\\udc90","b":-1e999}', 422, "number_out_of_range", "/p/b"),
        (b'{"a":1e-20000}', 422, "number_out_of_range", "/p/a"),
        (b'{"a":' + b"1" * 4301 + b"}", 422, "number_out_of_range", "/p/a"),
        (b'{"a":0.' + b"1" * 20_000 + b"}", 422, "number_out_of_range", "/p/a"),
        (nested(65), 422, "too_deep", "/p"),
        (nested(100_000), 422, "too_deep", "/p"),
        (nested(65).replace(b"{}", b'{"x":"\\udc90"}'), 422, "too_deep", "/p"),
    ],
)
def test_a_fault_has_its_status_code_and_place(raw: bytes, status: int, code: str, pointer: str) -> None:
    """Each kind of bad JSON is told apart and pointed at."""
    with pytest.raises(Refused) as caught:
        check(raw, pointer="/p")
    assert (caught.value.status, caught.value.code, caught.value.pointer) == (status, code, pointer)


@pytest.mark.parametrize(
    ("raw", "flags"),
    [
        (b'{"a":1180591620717411303424}', 0),
        (b'{"a":' + b"1" * 4300 + b"}", 0),
        (b'{"a":1.7976931348623157e308,"b":5e-324}', 0),
        (nested(64), 0),
        (b'{"a":"\\\\u0000"}', 0),
        (b'{"a":"\\ud83d\\ude00"}', 0),
        (b'{"a":":","b":"c:d"}', 0),
        (b'{"a":"\\u003a"}', 0),
        (b'{"a":"\\u0000"}', Flag.SANITIZED),
        (b'{"\\u0000":1}', Flag.SANITIZED),
        (b'{"a":"\\udc90"}', Flag.SANITIZED),
        (b'{"a":"\\ud800x"}', Flag.SANITIZED),
        (b'{"a":"\\ude00\\ud83d"}', Flag.SANITIZED),
        (b'{"a":-0.0}', Flag.SANITIZED),
        (b'{"a":[-0e1]}', Flag.SANITIZED),
        (b'{"a":-0.00E+5 }', Flag.SANITIZED),
        (b'{"a":-0.0,"b":"\\udc90"}', Flag.SANITIZED),
        (b'{"a":0.0,"b":-0.5,"c":-0e1000,"d":1e-400}', Flag.SANITIZED),
        (b'{"a":0.0,"b":-0.05,"c":-1e-400,"d":-0,"e":" -0.0,","f":"-0]"}', 0),
        (b'{"a":1,"a":2}', Flag.DUPLICATE_KEYS),
        (b'{"a":[{"b":{"c":1,"c":1}}]}', Flag.DUPLICATE_KEYS),
        (b'{"a":"\\udc90","a":2}', Flag.SANITIZED | Flag.DUPLICATE_KEYS),
    ],
)
def test_what_may_be_stored_is_kept_as_sent_and_flagged(raw: bytes, flags: int) -> None:
    """The text is never rewritten; what is special about it is a flag."""
    checked = check(raw)
    assert checked.text.encode() == raw
    assert checked.flags == flags


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'"\u0000"', "\u2400"),
        (r'"a\ud800b"', "a\ufffdb"),
        (r'"\ude00\ud83d"', "\ufffd\ufffd"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (r'"\\u0000"', r"\u0000"),
        (r'"\\\u0000"', "\\\u2400"),
        (r'"\\\\ud800"', r"\\ud800"),
    ],
)
def test_the_copy_for_a_json_column_follows_the_written_rule(text: str, expected: str) -> None:
    """U+0000 becomes U+2400 and a lone surrogate U+FFFD; an escaped backslash is no escape."""
    assert json.loads(jsonb_text(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a":1,"b":2,"a":{"c":1,"c":[3]}}', '{"a":{"c":[3]},"b":2}'),
        ('{"a":1e300, "b":-0.0, "c":-0, "d":0.10, "e":' + "9" * 400 + "}", None),
        (r'{"\u00e9":"\ud83d\ude00","\u2400":1,"\u2400":2}', '{"é":"😀","␀":2}'),
        ("no JSON", "no JSON"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_of_a_repeated_key_the_last_stays_and_every_digit(text: str, expected: str | None) -> None:
    """As jsonb keeps it, for columns that keep the text."""
    digits = '{"a":1e300,"b":0.0,"c":0,"d":0.10,"e":' + "9" * 400 + "}"
    assert last_keys(text) == (expected or digits)


def test_text_columns_follow_the_same_rule() -> None:
    """A decoded string is cleaned like its JSON text."""
    assert plain_text("a\0b\udc90c😀") == "a\u2400b\ufffdc😀"


def test_canonical_form_ignores_order_and_blanks() -> None:
    """Two texts that say the same have one canonical form."""
    assert check(b'{"b": [1, 2], "a": "\\u0041"}').canonical == check(b'{"a":"A","b":[1,2]}').canonical


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"[]", []),
        (b"[1]", [b"1"]),
        (b' [ {"a":"],["} , NaN , [1,[2]] ] ', [b'{"a":"],["}', b"NaN", b"[1,[2]]"]),
        (b'["\\"],", 2]', [b'"\\"],"', b"2"]),
        (b'["\xff", ' + b"[" * 5000 + b"]" * 5000 + b"]", [b'"\xff"', b"[" * 5000 + b"]" * 5000]),
    ],
)
def test_an_array_is_cut_without_judging_its_elements(text: bytes, parts: list[bytes]) -> None:
    """Broken, bottomless and ill-coded elements come out whole."""
    assert jsonscan.elements(text) == parts


def test_an_object_is_cut_into_members() -> None:
    """Keys keep their quotes, values their text."""
    assert jsonscan.members(b'{"a" : {"b":1}, "c":"\\udc90"}') == [(b'"a"', b'{"b":1}'), (b'"c"', b'"\\udc90"')]


@pytest.mark.parametrize("text", [b"[", b"[1", b"[1}", b"[1]]", b"[1] x", b"{}", b'["a', b"[" * 2_100_000])
def test_what_does_not_close_cannot_be_cut(text: bytes) -> None:
    """A cut-off or bottomless body is refused as a whole."""
    with pytest.raises(ValueError):
        jsonscan.elements(text)
