"""`chronicle trace`: every hop of one event with time and position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.client import Api, dump, json_option, url_option


@click.command()
@click.argument("event_id")
@url_option
@json_option
def trace(event_id: str, url: str | None, as_json: bool) -> None:
    """Show the way of one event: received, logged, passed on, stored."""
    found = Api(url).get(f"/events/{quote(event_id, safe='')}/trace")
    if as_json:
        dump(found)
    else:
        show(found, Console())


def show(found: dict[str, Any], console: Console) -> None:
    """The trace as a table, and what points at the event below it. Made for 80 columns: times and places stay whole."""
    kind = f"  {found['event_type']}" if found["event_type"] else ""
    console.print(f"[bold]{found['event_id']}[/]{escape(kind)}", soft_wrap=True)
    day = one_day([hop["at"] for hop in found["hops"]])
    console.print(escape(f"session {found['session_id']}") + (f"  {day} UTC" if day else ""), soft_wrap=True)
    rows = [(hop["hop"], time_of(hop["at"], day), _place(hop), escape(hop["detail"])) for hop in found["hops"]]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("hop", no_wrap=True)
    table.add_column("time" if day else "time UTC", no_wrap=True)
    table.add_column("place", overflow="fold", min_width=min(30, max((len(row[2]) for row in rows), default=0)))
    table.add_column("detail", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in notes(found):
        console.print(escape(line))


def one_day(times: Sequence[str | None]) -> str | None:
    """The date that all the times (RFC 3339, UTC) have in common; None when there is none."""
    days = {at[:10] for at in times if at}
    return days.pop() if len(days) == 1 else None


def time_of(at: str | None, day: str | None) -> str:
    """The time of day when all are of one `day`, else date and time on two lines."""
    if at is None:
        return ""
    date, _, time = at.removesuffix("Z").partition("T")
    return time if day else f"{date}\n{time}"


def notes(found: dict[str, Any]) -> list[str]:
    """What else is known of the event, a sentence each."""
    lines = []
    if found["degraded"]:
        lines.append("Postgres is away: only the local SQLite store was asked.")
    if found["suspected_duplicate_of"]:
        lines.append(f"Marked as a suspected duplicate of {found['suspected_duplicate_of']}.")
    lines += [f"Suspected duplicate of it: {other}" for other in found["suspected_duplicates"]]
    for copy in found["duplicates"]:
        at = copy["position"]
        lines.append(f"A copy came at ingest {at['partition']}/{at['offset']}; the primary key turned it away.")
    return lines


def _place(hop: dict[str, Any]) -> str:
    return "" if hop["topic"] is None else escape(f"{hop['topic']} {hop['partition']}/{hop['offset']}")
