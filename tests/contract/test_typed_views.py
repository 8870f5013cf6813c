"""The views for analysts, on both databases: what each row says, and that no payload breaks a view."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from connectors import migrate
from connectors.readers.postgres import PostgresReader
from connectors.readers.queries import events_page
from reader_world import World, opened
from reading import event_row, uid
from schemas.query import EventFilter

KINDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.e2e)]
VIEWS = ("tool_events", "tool_calls", "prompt_events", "notification_events", "lifecycle_events", "project_context")


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """An empty database of each kind."""
    async with opened(request, tmp_path) as made:
        yield made


async def rows(world: World, query: str) -> list[Any]:
    """Rows of plain SQL, as an analyst has them."""
    engine = create_async_engine(world.url or "")
    async with engine.connect() as connection:
        answer = await connection.execute(sa.text(query))
        found = [tuple(row) for row in answer] if answer.returns_rows else []
    await engine.dispose()
    return found


def said(number: int, kind: str, payload: Any, **fields: Any) -> dict[str, Any]:
    return event_row(number, event_type=kind, payload=json.dumps(payload), **fields)


async def test_each_view_says_what_its_events_say(world: World) -> None:
    """Columns under their names, one row an event."""
    await world.put(
        events=[
            said(1, "tool_pre_use", {"tool_input": {"command": "ls"}}, tool_use_id="a"),
            said(2, "post_tool_use_failure", {"error": "no", "duration_ms": 12.6}, tool_use_id="a"),
            said(3, "tool_post_use", {"tool_input": {"file_path": "/a.py"}}, tool_use_id="b", tool_name="Edit"),
            said(4, "tool_post_use", {"tool_input": {"file_path": "/a.py"}}, tool_use_id="c", tool_name="Write"),
            said(5, "tool_pre_use", {}, tool_use_id="d", tool_name="mcp__git__log"),
            said(6, "user_prompt", {"prompt": "Grüße"}, tool_name=None),
            said(7, "notification", {"message": "May I?", "notification_type": "permission_prompt"}, tool_name=None),
            said(8, "session_end", {"reason": "logout"}, tool_name=None),
            said(9, "subagent_stop", {}, tool_name=None, agent_id="x"),
            said(0, "session_start", {"source": "startup"}, tool_name=None),
        ]
    )
    ends = "SELECT phase, tool_type, success, error_message FROM tool_events ORDER BY created_at"
    assert (await rows(world, ends))[:2] == [("pre", "builtin", None, None), ("post", "builtin", False, "no")]
    assert (await rows(world, ends))[4][:2] == ("pre", "mcp")
    calls = "SELECT call_id, success, error_message, execution_time_ms, duration_ms FROM tool_calls ORDER BY call_id"
    found = await rows(world, calls)
    assert found == [
        ("a", False, "no", 13, 1000.0),
        ("b", True, None, None, None),
        ("c", True, None, None, None),
        ("d", None, None, None, None),
    ]
    assert await rows(world, "SELECT prompt_text, prompt_length FROM prompt_events") == [("Grüße", 5)]
    assert await rows(world, "SELECT message, severity FROM notification_events") == [("May I?", "warning")]
    lifecycle = "SELECT lifecycle_type, previous_state, new_state, trigger_reason FROM lifecycle_events"
    assert await rows(world, f"{lifecycle} ORDER BY created_at") == [
        ("session_start", None, "active", "startup"),
        ("session_end", "active", "completed", "logout"),
        ("subagent_stop", None, "completed", None),
    ]
    assert await rows(world, "SELECT file_path, changes FROM project_context") == [("/a.py", 2)]


@pytest.mark.parametrize(
    "payload",
    [
        [],
        "text",
        {"prompt": 5, "message": {}, "error": [], "reason": None, "duration_ms": "soon", "tool_input": "x"},
        {"duration_ms": 1e300, "tool_input": {"file_path": {"deep": 1}}, "notification_type": 7},
        {"duration_ms": -5, "tool_input": [1, 2], "title": None},
        {"duration_ms": -(2**63), "tool_input": None},
    ],
)
async def test_no_payload_breaks_a_view(world: World, payload: Any) -> None:
    """Whatever type a field has: the row is there, with nulls."""
    kinds = ("tool_pre_use", "post_tool_use_failure", "tool_post_use", "user_prompt", "notification", "session_end")
    await world.put(
        events=[said(n, kind, payload, tool_name="Edit", event_id=uid(n)) for n, kind in enumerate(kinds, 1)]
    )
    counts = {view: len(await rows(world, f"SELECT * FROM {view}")) for view in VIEWS}
    assert (counts["tool_events"], counts["tool_calls"]) == (3, 3)
    assert (counts["prompt_events"], counts["notification_events"], counts["lifecycle_events"]) == (1, 1, 1)


@pytest.mark.e2e
async def test_a_search_uses_the_index(postgres: str) -> None:
    """The expression of the query is that of the index, or a search would read every prompt there is."""
    await migrate.upgrade(postgres)
    filled = World(PostgresReader(postgres), postgres.replace("postgresql://", "postgresql+asyncpg://"))
    prompts = [
        said(n, "user_prompt", {"prompt": f"word{n} parser" if n % 50 == 0 else f"word{n}"}) for n in range(1, 2000)
    ]
    await filled.put(events=prompts)
    # Outside a transaction, or what it finds goes with it; the planner counts the index's list of waiting rows, too.
    engine = create_async_engine(
        postgres.replace("postgresql://", "postgresql+asyncpg://"), isolation_level="AUTOCOMMIT"
    )
    async with engine.connect() as connection:
        await connection.exec_driver_sql("VACUUM ANALYZE events")
    query = events_page(EventFilter(words=("parser",)))
    text = str(query.compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True}))
    async with engine.connect() as connection:
        for name in ("seqscan", "indexscan"):  # a small table is read whole, whatever indexes it has
            await connection.execute(sa.text(f"SET enable_{name} = off"))
        plan = [str(row[0]) for row in await connection.exec_driver_sql(f"EXPLAIN {text}")]
    await engine.dispose()
    assert any("ix_events_words" in line for line in plan), plan
