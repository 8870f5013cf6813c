"""Keyset paging, both ways, as every reader does it: pages, and the cursors a page gives out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn
from uuid import UUID

import msgspec

from connectors.readers import shape
from schemas.errors import Refused
from schemas.query import Cursor, Page

Row = Mapping[str, Any]


def page(
    rows: Sequence[Row],
    limit: int,
    show: Callable[[Row], dict[str, Any]],
    place: Callable[[Row], Cursor],
    asked: Cursor | None = None,
) -> Page:
    """A page of at most `limit` rows. `rows`: one more, if there is one, from `asked` on in the direction it has."""
    more = len(rows) > limit
    back = asked is not None and asked.back
    kept = list(rows[:limit])
    if back:
        kept.reverse()
    if not kept:
        return Page(items=[])
    before = msgspec.structs.replace(place(kept[0]), back=True)
    after = place(kept[-1])
    return Page(
        items=[show(row) for row in kept],
        next=after if more or back else None,
        previous=before if (more if back else asked is not None) else None,
    )


def upwards(cursor: Cursor | None, ascending: bool) -> bool:
    """Whether the rows are read with growing keys: a way back turns the order of the list round."""
    return ascending != (cursor is not None and cursor.back)


def instant(cursor: Cursor) -> int:
    """A cursor's number as a time, µs. Raises `Refused`."""
    return cursor.at if 0 <= cursor.at <= shape.MAX_MICROS else refuse()


def uuid(cursor: Cursor) -> UUID:
    """A cursor's id as that of an event. Raises `Refused`."""
    try:
        return UUID(cursor.id)
    except ValueError:
        refuse()


def letter(text: str) -> tuple[Any, ...]:
    """(time, topic, partition, offset) out of a cursor of dead letters. Raises `Refused`."""
    cursor = Cursor.decode(text)
    return (instant(cursor), *(shape.split_letter_id(cursor.id) or refuse()))


def refuse() -> NoReturn:
    """Raises `Refused` (422)."""
    raise Refused(422, "bad_cursor", "The cursor belongs to another list; start without it.", "/cursor")
