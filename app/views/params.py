"""Query and path parameters: every bad or unknown one is refused with a pointer to it, never guessed at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import NoReturn
from uuid import UUID

from aiohttp.web import Request

from app.views.route import Param
from connectors.readers.shape import MAX_MICROS
from schemas.errors import Refused
from schemas.query import MAX_LIMIT, Cursor
from schemas.times import EPOCH, MICROSECOND

MAX_TEXT = 1024
MAX_VALUES = 50
_DIGITS = re.compile(r"\d{1,15}", re.ASCII)
#: A "+" that was not percent-encoded arrives as a space: `12:00:00 02:00` can only have been `12:00:00+02:00`.
_LOST_PLUS = re.compile(r"(:\d\d(?:\.\d+)?) (\d\d:?\d\d)$", re.ASCII)

LIMIT = Param(
    name="limit",
    schema={"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 100},
    doc="How many rows at most.",
)
CURSOR = Param(name="cursor", doc="`next` of the page before.")
_INSTANT = {"oneOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 0}]}
SINCE = Param(name="since", schema=_INSTANT, doc="From this instant on: ISO 8601 with a zone, or epoch milliseconds.")
UNTIL = Param(name="until", schema=_INSTANT, doc="Before this instant: ISO 8601 with a zone, or epoch milliseconds.")


class Query:
    """The query parameters of one request. Raises `Refused` (422) for a name not in `known` and for a repeated one."""

    def __init__(self, request: Request, known: Iterable[Param] = ()) -> None:
        names = [param.name for param in known if param.where == "query"]
        self._values: dict[str, str] = {}
        for name, value in request.query.items():
            if name not in names:
                allowed = f"it takes {', '.join(names)}" if names else "it takes none"
                refuse(name, f"There is no parameter {name[:64]!r} here; {allowed}.", code="unknown_parameter")
            if name in self._values:
                refuse(name, f"Give {name!r} once.")
            self._values[name] = _clean(name, value)

    def text(self, name: str) -> str | None:
        """Text of 1 to 1,024 characters."""
        value = self._values.get(name)
        if value is not None and not 0 < len(value) <= MAX_TEXT:
            refuse(name, f"{name} must have 1 to {MAX_TEXT} characters.")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        """One of `allowed`."""
        value = self._values.get(name)
        if value is not None and value not in allowed:
            refuse(name, f"{name} must be one of {', '.join(allowed)}.")
        return value

    def flag(self, name: str) -> bool:
        """true or false; absent is false."""
        return self.choice(name, ("true", "false", "1", "0")) in {"true", "1"}

    def number(self, name: str) -> int | None:
        """A whole number from 0, of at most 15 digits."""
        value = self._values.get(name)
        if value is not None and not _DIGITS.fullmatch(value):
            refuse(name, f"{name} must be a whole number from 0.")
        return None if value is None else int(value)

    def limit(self) -> int:
        """1 to 1,000, 100 when absent."""
        value = self._values.get("limit", "100")
        if not _DIGITS.fullmatch(value) or not 1 <= int(value) <= MAX_LIMIT:
            refuse("limit", f"limit must be a whole number from 1 to {MAX_LIMIT}.")
        return int(value)

    def most(self) -> int | None:
        """`limit` of an export: any number from 1; None when absent, for all."""
        value = self._values.get("limit")
        if value is not None and (not _DIGITS.fullmatch(value) or int(value) < 1):
            refuse("limit", "limit must be a whole number from 1.")
        return None if value is None else int(value)

    def names(self, name: str, allowed: tuple[str, ...]) -> tuple[str, ...] | None:
        """Several of `allowed`, with commas between, each once; None when absent."""
        found = self.several(name)
        for one in found:
            if one not in allowed:
                refuse(name, f"There is no {one[:64]!r} here; there are {', '.join(allowed)}.")
        return found or None

    def several(self, name: str) -> tuple[str, ...]:
        """At most 50 texts with commas between, each once; none when absent."""
        value = self.text(name)
        found = () if value is None else tuple(dict.fromkeys(part.strip() for part in value.split(",")))
        if len(found) > MAX_VALUES or not all(found):
            refuse(name, f"{name} takes up to {MAX_VALUES} values with commas between, none of them empty.")
        return found

    def cursor(self) -> Cursor | None:
        """A cursor this API gave out."""
        value = self._values.get("cursor")
        return None if value is None else Cursor.decode(value)

    def between(self) -> tuple[int | None, int | None]:
        """`since` and `until` in microseconds since the epoch."""
        since, until = self._instant("since"), self._instant("until")
        if since is not None and until is not None and since > until:
            refuse("until", "until lies before since.")
        return since, until

    def _instant(self, name: str) -> int | None:
        value = self._values.get(name)
        return None if value is None else instant(name, value)


def instant(name: str, value: str) -> int:
    """Microseconds since the epoch. Raises `Refused` for a time without a zone: whose midnight would it be?"""
    if _DIGITS.fullmatch(value):
        micros = int(value) * 1000
    else:
        try:
            moment = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", value))
        except ValueError:
            refuse(name, f"{name} must be ISO 8601 with a zone (2026-01-31T09:30:00Z) or epoch milliseconds.")
        if moment.tzinfo is None:
            refuse(name, f"{name} has no zone; add Z or an offset such as +02:00.")
        micros = (moment - EPOCH) // MICROSECOND
    if not 0 <= micros <= MAX_MICROS:
        refuse(name, f"{name} must lie between 1970 and 9999.")
    return micros


def path_uuid(request: Request, name: str) -> UUID:
    """A path part that is a UUID in its usual form."""
    value = request.match_info[name]
    try:
        return UUID(value)
    except ValueError:
        refuse(name, f"{name} must be a UUID.")


def path_text(request: Request, name: str, longest: int = 255) -> str:
    """A path part of at most `longest` characters."""
    value = _clean(name, request.match_info[name])
    if len(value) > longest:
        refuse(name, f"{name} is longer than {longest} characters.")
    return value


def path_number(request: Request, name: str, below: int) -> int:
    """A path part that is a whole number from 0."""
    value = request.match_info[name]
    if not re.fullmatch(r"\d{1,19}", value, re.ASCII) or int(value) >= below:
        refuse(name, f"{name} must be a whole number from 0.")
    return int(value)


def _clean(name: str, value: str) -> str:
    """No NUL and nothing that is not Unicode: a database would answer with an error that looks like its outage."""
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(name, f"{name} is not valid UTF-8.")
    if "\0" in value:
        refuse(name, f"{name} has a NUL character.")
    return value


def refuse(name: str, detail: str, code: str = "bad_parameter") -> NoReturn:
    """Raises `Refused` (422) with a pointer to the parameter."""
    raise Refused(422, code, detail, "/" + name[:64].replace("~", "~0").replace("/", "~1"))
