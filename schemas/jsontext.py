"""JSON as text: what may be stored, by written rules, without changing what was sent.

Every payload and metadata object passes `check` once. It says whether the text may be stored at all, what is special
about it (flags), and its canonical form for fingerprints. The text itself stays as the client wrote it; `jsonb_text`
makes the copy that a JSON column of a database can hold. The rules are told in `docs/api-ingest.md`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import msgspec

from schemas.errors import Refused
from schemas.event import Flag

MAX_DEPTH: Final = 64
#: Python refuses to read longer integers, and so does msgspec.
MAX_DIGITS: Final = 4300
#: Postgres' numeric holds 16,383 digits after the point; a smaller number could be accepted and then never stored.
MAX_FRACTION_DIGITS: Final = 16_000

_ESCAPE: Final = re.compile(
    r"\\(?:"
    r"(?P<pair>u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|(?P<nul>u0000)"
    r"|.)",
    re.DOTALL,
)
_UNFIT: Final = re.compile("[\0\ud800-\udfff]")
_MAYBE_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_MAYBE_TINY: Final = re.compile(rb"[0-9][eE]-[0-9]{3}")
_MAYBE_LONG: Final = re.compile(rb"[0-9]{4000}")
_MINUS_ZERO: Final = re.compile(r"-0(?:\.0+)?(?:[eE].*)?")
_decode: Final = msgspec.json.Decoder().decode
_canonical: Final = msgspec.json.Encoder(order="sorted").encode


class Checked(msgspec.Struct, frozen=True):
    """A JSON text that may be stored. `value` is what it says, `canonical` its key-sorted compact form."""

    text: str
    value: Any
    canonical: bytes
    flags: int


def check(raw: bytes, *, pointer: str = "", max_depth: int = MAX_DEPTH) -> Checked:
    """Judge one JSON value.

    `raw` is its text in UTF-8. Raises `Refused`: 400 `not_json` or `bad_utf8`, 422 `too_deep` or
    `number_out_of_range`; pointers start with `pointer`.
    """
    try:
        value = _decode(raw)
        canonical = _canonical(value)
        text = raw.decode()
    except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        return _check_slowly(raw, error, pointer, max_depth)
    flags = 0
    # One byte is found many times as fast as several.
    zero = b"." in canonical and b"0.0" in canonical
    nul = b"\\" in raw and b"\\u0000" in raw
    if raw.count(b"{") + raw.count(b"[") > max_depth:
        refuse_depth(value, pointer, max_depth)
    if (nul and unfit_for_jsonb(text)) or (zero and b"-0.0" in canonical and has_minus_zero(text)):
        flags = Flag.SANITIZED.value
    if raw.count(b":") != canonical.count(b":") and has_duplicate_keys(text):
        flags |= Flag.DUPLICATE_KEYS.value
    if _may_hold_an_odd_number(raw, canonical, zero):
        _read_exactly(text, pointer)
    return Checked(text, value, canonical, flags)


def jsonb_text(payload: str) -> str:
    """The same JSON for a JSON column: U+0000 becomes U+2400, a lone surrogate U+FFFD.

    Needed (and only then slow) when the event carries `Flag.SANITIZED`. A number -0.0 is left to the column. Takes and
    gives JSON text; keys included.
    """
    return _ESCAPE.sub(_fit_for_jsonb, payload)


def last_keys(text: str) -> str:
    """The same JSON with only the last of each repeated key and no -0.0, which is what Postgres' jsonb keeps (slow).

    Takes what `jsonb_text` gives; the digits of numbers stay. What is no JSON is given back: the database judges.
    """
    try:
        return msgspec.json.encode(json.loads(text, parse_int=_digits, parse_float=_digits)).decode()
    except (ValueError, RecursionError):
        return text


def plain_text(value: str) -> str:
    """The same rule for a string that is already decoded: what a text column can hold."""
    return _UNFIT.sub(lambda match: "\u2400" if match.group() == "\0" else "\ufffd", value)


def unfit_for_jsonb(text: str) -> bool:
    """Whether the JSON text holds an escape that Postgres' jsonb refuses (U+0000 or a lone surrogate)."""
    return any(match.lastgroup in ("lone", "nul") for match in _ESCAPE.finditer(text))


def has_minus_zero(text: str) -> bool:
    """Whether the JSON text holds a -0.0 (exact, slow): the only number whose value Postgres' jsonb changes, to 0.0.

    `-0` is a whole number, which has no other zero.
    """
    found = False

    def look(digits: str) -> None:
        nonlocal found
        found = found or _MINUS_ZERO.fullmatch(digits) is not None

    json.loads(text, parse_int=_skip, parse_float=look)
    return found


def has_duplicate_keys(text: str) -> bool:
    """Whether any object in the JSON text has the same key twice (exact, slow)."""
    found = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal found
        found = found or len({key for key, _ in pairs}) != len(pairs)

    json.loads(text, object_pairs_hook=look, parse_int=_skip, parse_float=_skip)
    return found


def refuse_depth(value: Any, pointer: str, max_depth: int) -> None:
    """Raise `Refused` (422 `too_deep`) when `value` nests deeper than `max_depth`; the value itself is level 1."""
    level = [child for child in (value,) if isinstance(child, (dict, list))]
    for _ in range(max_depth):
        if not level:
            return
        level = [child for parent in level for child in _children(parent) if isinstance(child, (dict, list))]
    if level:
        raise too_deep(pointer, max_depth)


def too_deep(pointer: str, max_depth: int = MAX_DEPTH) -> Refused:
    """The fault of JSON that nests too deeply."""
    return Refused(422, "too_deep", f"JSON may nest {max_depth} levels; flatten it or send it as a string.", pointer)


def dump(value: Any) -> bytes:
    """Compact JSON of a decoded value; strings with lone surrogates come out as escapes."""
    try:
        return msgspec.json.encode(value)
    except (ValueError, OverflowError):  # UnicodeEncodeError is a ValueError
        return json.dumps(value, separators=(",", ":")).encode()


# --- the slow way: lone surrogates, odd numbers, and exact faults ----------------------------------------------------


def _check_slowly(raw: bytes, error: Exception, pointer: str, max_depth: int) -> Checked:
    if isinstance(error, RecursionError):
        raise too_deep(pointer, max_depth) from error
    try:
        text = raw.decode()
    except UnicodeDecodeError as bad:
        detail = f"Byte {bad.start} of this value is not UTF-8; encode the event as UTF-8."
        raise Refused(400, "bad_utf8", detail, pointer) from bad
    if isinstance(error, msgspec.ValidationError):
        _read_exactly(text, pointer)
    if not _MAYBE_SURROGATE.search(raw):
        raise not_json(error, pointer)
    value = _read_exactly(text, pointer)
    refuse_depth(value, pointer, max_depth)
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    flags = Flag.SANITIZED.value if unfit_for_jsonb(text) or has_minus_zero(text) else 0
    if has_duplicate_keys(text):
        flags |= Flag.DUPLICATE_KEYS.value
    return Checked(text, value, canonical, flags)


def not_json(error: Exception, pointer: str) -> Refused:
    """The fault of a text that is not JSON; `error` is the parser's."""
    return Refused(400, "not_json", f"{str(error).rstrip('.')}; send strict JSON (RFC 8259).", pointer)


class _Unstorable:
    """Stands in a read value where a number was that cannot be stored."""


def _read_exactly(text: str, pointer: str) -> Any:
    """Read JSON with lone surrogates, refusing what is no JSON and numbers that no database takes."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_int=_int, parse_float=_float)
    except RecursionError as error:
        raise too_deep(pointer) from error
    except ValueError as error:
        raise not_json(error, pointer) from error
    for place, found in _walk(value, pointer):
        if found is _Unstorable:
            detail = "This number is too large or has too many digits to be stored; send it as a string."
            raise Refused(422, "number_out_of_range", detail, place)
    return value


def _may_hold_an_odd_number(raw: bytes, canonical: bytes, zero: bool) -> bool:
    """Cheap suspicion of numbers with thousands of digits or an exponent below -16,000."""
    if len(raw) - len(canonical) > MAX_DIGITS // 2 and _MAYBE_LONG.search(raw):
        return True
    return zero and _MAYBE_TINY.search(raw) is not None


def _walk(value: Any, pointer: str) -> Iterator[tuple[str, Any]]:
    stack = [(pointer, value)]
    while stack:
        place, found = stack.pop()
        yield place, found
        if isinstance(found, dict):
            stack.extend((f"{place}/{escape_pointer(key)}", child) for key, child in found.items())
        elif isinstance(found, list):
            stack.extend((f"{place}/{index}", child) for index, child in enumerate(found))


def escape_pointer(key: str) -> str:
    """One reference token of an RFC 6901 pointer."""
    return plain_text(key).replace("~", "~0").replace("/", "~1")


def _children(parent: dict[str, Any] | list[Any]) -> Any:
    return parent.values() if isinstance(parent, dict) else parent


def _digits(digits: str) -> msgspec.Raw:
    return msgspec.Raw((digits[1:] if _MINUS_ZERO.fullmatch(digits) else digits).encode())


def _skip(_: str) -> None:
    return None


def _int(digits: str) -> Any:
    return int(digits) if len(digits) <= MAX_DIGITS else _Unstorable


def _float(digits: str) -> Any:
    value = float(digits)
    if value in (float("inf"), float("-inf")) or len(digits) > MAX_DIGITS:
        return _Unstorable
    exponent = digits.lower().partition("e")[2]
    return _Unstorable if len(exponent) > 1 and abs(int(exponent)) > MAX_FRACTION_DIGITS else value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _fit_for_jsonb(match: re.Match[str]) -> str:
    if match.lastgroup == "nul":
        return "\\u2400"
    return "\\ufffd" if match.lastgroup == "lone" else match.group()
