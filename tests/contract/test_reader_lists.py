"""Lists of every `Reader`: filters, order, pages; events, sessions, tool calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from connectors.readers.memory import MemoryReader
from connectors.readers.postgres import PostgresReader
from connectors.readers.sqlite import SqliteReader
from reader_world import KINDS, World, numbers, opened, plain, walk
from reading import NOON, SECOND, event_row, session_row
from schemas import words
from schemas.query import CallFilter, Cursor, EventFilter, Page, SessionFilter

AnyReader = MemoryReader | SqliteReader | PostgresReader
Row = dict[str, Any]


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """An empty store of each kind."""
    async with opened(request, tmp_path) as made:
        yield made


@pytest.mark.parametrize("ascending", [False, True])
async def test_paging_gives_every_event_once_in_order(world: World, ascending: bool) -> None:
    """Keyset paging, both ways, also through a second in which seven events share one time."""
    rows = [event_row(n, occurred_at=NOON + (n if n < 8 else 8) * SECOND) for n in range(1, 16)]
    await world.put(events=rows)
    found, pages = await walk(
        lambda cursor: world.reader.events(EventFilter(limit=4, ascending=ascending, cursor=cursor))
    )
    assert numbers(found) == sorted(range(1, 16), reverse=not ascending)
    assert pages == 4


async def test_a_page_that_is_exactly_full_is_the_last(world: World) -> None:
    """No empty page follows."""
    await world.put(events=[event_row(n) for n in range(1, 5)])
    assert (await world.reader.events(EventFilter(limit=4))).next is None


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (EventFilter(event_type=("user_prompt", "tool_pre_use"), ascending=True), [1, 2]),
        (EventFilter(source="codex"), [2]),
        (EventFilter(cwd="/src/b"), [3]),
        (EventFilter(agent_id="a-1", agent_type="Explore"), [3]),
        (EventFilter(prompt_id="p-9"), [1]),
        (EventFilter(session_id="s-2", tool_use_id="toolu_3"), [3]),
        (EventFilter(project="shop"), [3]),
        (EventFilter(machine="ada"), [3]),
        (EventFilter(machine="ada", project="a"), []),
        (EventFilter(project="nowhere"), []),
    ],
)
async def test_every_column_that_people_ask_by_is_a_filter(
    world: World, wanted: EventFilter, expected: list[int]
) -> None:
    """Client, folder, project, sub-agent, prompt, call; several types at once."""
    away: dict[str, Any] = {"event_type": "post_tool_use_failure", "session_id": "s-2", "cwd": "/src/b"}
    await world.put(
        sessions=[session_row("s-1", 2), session_row("s-2", 3, project="shop", machine="ada")],
        events=[
            event_row(1, event_type="user_prompt", prompt_id="p-9"),
            event_row(2, source="codex"),
            event_row(3, agent_id="a-1", agent_type="Explore", **away),
        ],
    )
    assert numbers((await world.reader.events(wanted)).items) == expected


async def test_a_list_without_bodies_reads_none(world: World) -> None:
    """Payload and metadata are empty objects then; the rest is as ever."""
    await world.put(events=[event_row(1, metadata='{"m": 1}', payload_raw='{"n":1}')])
    (item,) = plain((await world.reader.events(EventFilter(bodies=False))).items)
    assert (item["payload"], item["metadata"], item["tool_name"]) == ({}, {}, "Bash")


@pytest.mark.parametrize("ascending", [False, True])
async def test_a_list_can_be_walked_back_to_where_it_began(world: World, ascending: bool) -> None:
    """`previous` gives the page before, in the order of the list, and ends at the first row."""
    await world.put(events=[event_row(n) for n in range(1, 8)])

    async def at(cursor: Cursor | None) -> Page:
        return await world.reader.events(EventFilter(limit=3, ascending=ascending, cursor=cursor))

    first = await at(None)
    second = await at(first.next)
    third = await at(second.next)
    assert (first.previous, third.next) == (None, None)
    back = await at(third.previous)
    assert numbers(back.items) == numbers(second.items)
    assert back.next == second.next
    begin = await at(back.previous)
    assert (numbers(begin.items), begin.previous) == (numbers(first.items), None)


async def test_words_are_found_in_what_people_and_tools_said(world: World) -> None:
    """Each word begins a word of a prompt, an error or a notification; paths and case do not matter."""
    said = {"event_type": "user_prompt", "tool_name": None}
    await world.put(
        events=[
            event_row(1, payload='{"prompt": "Mend the PARSER in src/lexer.py, please"}', **said),
            event_row(2, payload='{"error": "parser.py: no such file"}', event_type="post_tool_use_failure"),
            event_row(3, payload='{"message": "Straße frei"}', event_type="notification"),
            event_row(4, payload='{"prompt": "parser"}'),
            event_row(5, payload='{"prompt": 7}', **said),
        ]
    )

    async def found(question: str) -> list[int]:
        return numbers((await world.reader.events(EventFilter(words=words.question(question)))).items)

    assert await found("pars") == [2, 1]
    assert await found("lexer mend") == [1]
    assert await found("src/lexer.py") == [1]
    assert await found("exer") == []
    assert await found("straß") == [3]
    assert await found("'; DROP TABLE events --") == []


async def calls_world(world: World) -> None:
    """A call that went well, one that failed, one that runs, an end without a beginning, one without an id."""
    post, failed = {"event_type": "tool_post_use"}, {"event_type": "post_tool_use_failure"}
    await world.put(
        events=[
            event_row(1, tool_use_id="a"),
            event_row(2, tool_use_id="b", tool_name="Edit"),
            event_row(3, tool_use_id="a", payload='{"duration_ms": 1900}', **post),
            event_row(5, tool_use_id="b", tool_name="Edit", payload='{"error": "no such file"}', **failed),
            event_row(6, tool_use_id="c", agent_id="ag", agent_type="Explore"),
            event_row(7, tool_use_id="d", payload='{"duration_ms": "soon", "error": 5}', **post),
            event_row(8, tool_use_id=None, **post),
            event_row(9, tool_use_id="a", session_id="s-2", **post),
            event_row(10, event_type="user_prompt", tool_use_id=None, tool_name=None),
        ]
    )


async def test_both_ends_of_a_tool_call_are_one_row(world: World) -> None:
    """With times, duration, outcome and error; a call whose other end is not there is shown all the same."""
    await calls_world(world)
    page = await world.reader.calls(CallFilter(session_id="s-1"))
    rows = plain(page.items)
    shown = [(row["tool_use_id"], row["duration_ms"], row["success"], row["error_message"]) for row in rows]
    assert shown == [
        ("a", 2000.0, True, None),
        ("b", 3000.0, False, "no such file"),
        ("c", None, None, None),
        ("d", None, True, None),
        (None, None, True, None),
    ]
    assert [row["execution_time_ms"] for row in rows] == [1900, None, None, None, None]
    assert (rows[2]["agent_id"], rows[2]["agent_type"], rows[0]["agent_id"]) == ("ag", "Explore", None)
    assert (rows[1]["started_at"], rows[1]["ended_at"]) == (
        "2026-01-31T09:30:02.000000Z",
        "2026-01-31T09:30:05.000000Z",
    )


async def test_calls_narrow_and_page_both_ways(world: World) -> None:
    """By tool and outcome; every call is on exactly one page."""
    await calls_world(world)

    async def ids(**wanted: Any) -> list[str | None]:
        found = (await world.reader.calls(CallFilter(session_id="s-1", **wanted))).items
        return [row["tool_use_id"] for row in found]

    assert await ids(tool_name=("Edit",)) == ["b"]
    assert await ids(success=False) == ["b"]
    assert await ids(success=True, ascending=False) == [None, "d", "a"]
    rows, pages = await walk(lambda cursor: world.reader.calls(CallFilter(session_id="s-1", limit=2, cursor=cursor)))
    assert ([row["tool_use_id"] for row in rows], pages) == (["a", "b", "c", "d", None], 3)
    first = await world.reader.calls(CallFilter(session_id="s-1", limit=2))
    second = await world.reader.calls(CallFilter(session_id="s-1", limit=2, cursor=first.next))
    assert await ids(limit=2, cursor=second.previous) == ["a", "b"]


async def test_sessions_come_latest_first_and_page(world: World) -> None:
    """Two sessions with the same last event are both there."""
    rows = [session_row(f"s-{n}", last=min(n, 4)) for n in range(1, 7)]
    await world.put(sessions=rows)
    found, pages = await walk(lambda cursor: world.reader.sessions(SessionFilter(limit=2, cursor=cursor)))
    assert [row["session_id"] for row in found] == ["s-6", "s-5", "s-4", "s-3", "s-2", "s-1"]
    assert pages == 3


async def test_session_filters(world: World) -> None:
    """By state, and by overlap with a span of time."""
    await world.put(
        sessions=[
            session_row("old", 20),
            session_row("done", 50, status="completed", ended_at=NOON + 50 * SECOND),
            session_row("new", 90),
        ]
    )

    async def names(wanted: SessionFilter) -> list[str]:
        return [row["session_id"] for row in (await world.reader.sessions(wanted)).items]

    assert await names(SessionFilter(status="completed")) == ["done"]
    assert await names(SessionFilter(since=NOON + 45 * SECOND)) == ["new", "done"]
    assert await names(SessionFilter(until=NOON + 40 * SECOND)) == ["old"]
    shown = plain(await world.reader.session("done"))
    assert (shown["status"], shown["event_count"]) == ("completed", 3)
    assert shown["ended_at"] == "2026-01-31T09:30:50.000000Z"


async def test_sessions_sort_by_start_and_by_size(world: World) -> None:
    """Each order pages by its own key, both ways."""
    rows = [session_row(f"s-{n}", 50 + n, event_count=9 - n % 2, first_event_at=NOON - n) for n in range(1, 5)]
    await world.put(sessions=rows)

    async def names(**wanted: Any) -> list[str]:
        found, _ = await walk(lambda cursor: world.reader.sessions(SessionFilter(limit=2, cursor=cursor, **wanted)))
        return [row["session_id"] for row in found]

    assert await names(sort="first_event_at") == ["s-1", "s-2", "s-3", "s-4"]
    assert await names(sort="event_count") == ["s-4", "s-2", "s-3", "s-1"]
    assert await names(sort="event_count", ascending=True) == ["s-1", "s-3", "s-2", "s-4"]
    assert await names(project="a", source="claude-code", ascending=True) == ["s-1", "s-2", "s-3", "s-4"]
    assert await names(project="b") == []


async def test_a_session_that_fell_silent_counts_as_terminated(world: World) -> None:
    """It ended with its last event; one that ended by itself keeps its end."""
    await world.put(
        sessions=[
            session_row("silent", 20),
            session_row("done", 10, status="completed", ended_at=NOON + 9 * SECOND),
            session_row("here", 60),
        ]
    )
    since = NOON + 30 * SECOND

    async def names(status: str) -> list[str]:
        page = await world.reader.sessions(SessionFilter(status=status, idle_before=since))
        return [row["session_id"] for row in page.items]

    assert [await names(status) for status in ("active", "terminated", "completed")] == [["here"], ["silent"], ["done"]]
    found = await world.reader.session("silent", idle_before=since)
    assert found is not None
    assert (found["status"], found["ended_at"]) == ("terminated", "2026-01-31T09:30:20.000000Z")
    assert (await world.reader.session("silent") or {})["status"] == "active"
