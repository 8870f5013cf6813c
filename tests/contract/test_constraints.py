"""What both databases refuse, whoever writes to them: a second session of one id, a status that is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from reader_world import World, opened
from reading import event_row, session_row

KINDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.e2e)]


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """An empty database of each kind."""
    async with opened(request, tmp_path) as made:
        yield made


@pytest.mark.parametrize("status", ["active", "completed", "terminated", "error"])
async def test_a_session_has_one_of_four_states(world: World, status: str) -> None:
    """As the seed names them."""
    await world.put(sessions=[session_row("s", 9, status=status)])


async def test_another_state_is_refused(world: World) -> None:
    """By the database itself."""
    with pytest.raises(IntegrityError, match="status"):
        await world.put(sessions=[session_row("s", 9, status="asleep")])


async def test_a_session_is_there_once(world: World) -> None:
    """Its text id is the key."""
    await world.put(sessions=[session_row("s", 9)])
    with pytest.raises(IntegrityError):
        await world.put(sessions=[session_row("s", 9, status="completed")])


async def test_an_event_is_there_once(world: World) -> None:
    """Whatever else it says."""
    await world.put(events=[event_row(1)])
    with pytest.raises(IntegrityError):
        await world.put(events=[event_row(1, session_id="another")])


@pytest.mark.parametrize("missing", ["session_id", "event_type", "occurred_at"])
async def test_an_event_without_what_makes_it_one_is_refused(world: World, missing: str) -> None:
    """Null is no session, no type, no time."""
    with pytest.raises(IntegrityError, match=missing):
        await world.put(events=[event_row(1, **{missing: None})])
