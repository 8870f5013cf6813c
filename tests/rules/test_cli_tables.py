"""Tables of the commands on a terminal of 80 columns."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from app.cli.dlq import listing
from app.cli.trace import show

TOPIC = "chronicle.ingest"


def hop(name: str, at: str | None, topic: str | None = None, detail: str = "acked by the broker") -> dict[str, Any]:
    place = {"topic": topic, "partition": 3 if topic else None, "offset": 1234567 if topic else None}
    return {"hop": name, "at": at, **place, "detail": detail}


def traced(*hops: dict[str, Any]) -> str:
    found = {
        "event_id": "0198f1a2-7b3c-7def-8123-456789abcdef",
        "event_type": "tool_pre_use",
        "session_id": "5b2f4b2c-7a51-4c52-93a0-0f6b1f3b1c11",
        "hops": list(hops),
        "degraded": False,
        "suspected_duplicate_of": None,
        "suspected_duplicates": [],
        "duplicates": [],
    }
    return printed(lambda console: show(found, console))


def printed(write: Any) -> str:
    out = io.StringIO()
    write(Console(file=out, width=80))
    assert all(len(line) <= 80 for line in out.getvalue().splitlines())
    return out.getvalue()


def test_times_of_one_day_have_their_date_above_the_table() -> None:
    """Time and place of each hop are whole; the rest wraps."""
    said = traced(
        hop("received", "2026-11-21T04:43:33.123456Z", detail="from claude-code, id natural"),
        hop("ingest_log", "2026-11-21T04:43:33.123457Z", TOPIC, "acked by the broker; record time"),
        hop("dead_letter", "2026-11-21T04:43:34.500000Z", TOPIC, "persist, conflict: open"),
    )
    title, table = said.split("hop", 1)
    assert "2026-11-21 UTC" in title
    assert "2026-11-21" not in table
    for time in ("04:43:33.123456", "04:43:33.123457", "04:43:34.500000"):
        assert time in table
    assert table.count("chronicle.ingest 3/1234567") == 2
    assert "…" not in said


def test_times_of_several_days_have_their_date_each() -> None:
    """An event that waited over midnight for its database."""
    said = traced(hop("received", "2026-11-21T23:59:59.999999Z"), hop("stored", "2026-11-22T00:00:01.000000Z"))
    for part in ("2026-11-21", "23:59:59.999999", "2026-11-22", "00:00:01.000000"):
        assert said.count(part) == 1, part


@pytest.mark.parametrize("at", [None, "2026-11-21T04:43:33.123456Z"])
def test_a_long_topic_name_wraps_but_its_position_stays_whole(at: str | None) -> None:
    """A prefix may have 64 characters."""
    said = traced(hop("ingest_log", at, "p" * 64 + ".ingest", "acked by the broker; record time"))
    assert " 3/1234567 " in said
    assert "…" not in said


def test_ids_of_dead_letters_are_whole() -> None:
    """They are what `show` and `replay` want; a detail is text, whatever is in it."""
    letter = {
        "id": "chronicle.events/3/1234567",
        "failed_at": "2026-11-21T04:43:33.123456Z",
        "stage": "persist",
        "cause": "refused_by_database",
        "detail": "[bold]invalid byte sequence[/] for encoding UTF8",
        "resolved_at": None,
    }
    said = printed(lambda console: console.print(listing([letter, letter | {"resolved_at": "2026-11-22T00:00:00Z"}])))
    assert said.count("chronicle.events/3/1234567 ") == 2
    assert said.count("2026-11-21") == 2
    assert said.count("refused_by_database") == 2
    assert "[bold]" in said
    assert said.count("dealt with") == 1
