"""What clients send as a time, as microseconds since the epoch."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from schemas.errors import Refused

#: What integer microseconds are counted from, and in.
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
#: 9999-12-31T23:59:59.999999Z, the last instant that every language and both databases can name.
LAST: Final = 253_402_300_799_999_999
_LEAP_SECOND: Final = re.compile(r"(:[0-5]\d):60")
_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
#: No text up to this length has digits beyond microseconds.
_PLAIN: Final = 23
_ODD: Final = re.compile(r":60|[.,]\d{7}")


def micros_of(value: object, pointer: str = "/timestamp") -> int:
    """ISO 8601 text with a zone, or a number of milliseconds since the epoch.

    A leap second is taken as the second before it, digits beyond microseconds are cut. Raises `Refused` (422):
    `wrong_type`, `bad_timestamp`, `timestamp_without_zone`, `timestamp_out_of_range`.
    """
    if isinstance(value, str):
        micros = _of_text(value, pointer)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        micros = value * 1000 if isinstance(value, int) else _of_float(value)
    else:
        detail = "timestamp must be ISO 8601 text with a zone, or a number of milliseconds since the epoch."
        raise Refused(422, "wrong_type", detail, pointer)
    if not 0 <= micros <= LAST:
        detail = "timestamp must lie in the years 1970 to 9999; numbers are milliseconds since the epoch."
        raise Refused(422, "timestamp_out_of_range", detail, pointer)
    return micros


def micros_of_header(text: str, pointer: str = "") -> int:
    """The same for a header, where a number is text too."""
    return micros_of(float(text) if _NUMBER.fullmatch(text) else text, pointer)


def is_odd(text: str) -> bool:
    """Whether `micros_of` had to bend the text (leap second, finer than microseconds), so that it is worth keeping."""
    return (len(text) > _PLAIN or ":60" in text) and _ODD.search(text) is not None


def _of_text(text: str, pointer: str) -> int:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            when = datetime.fromisoformat(_LEAP_SECOND.sub(r"\1:59", text.strip()))
        except ValueError as error:
            detail = "timestamp is not ISO 8601; send something like 2026-01-31T12:34:56.789Z."
            raise Refused(422, "bad_timestamp", detail, pointer) from error
    if when.tzinfo is None:
        detail = "timestamp has no zone; end it with Z or an offset such as +02:00."
        raise Refused(422, "timestamp_without_zone", detail, pointer)
    return (when - EPOCH) // MICROSECOND


def _of_float(value: float) -> int:
    return round(value * 1000) if abs(value) < LAST else LAST + 1
