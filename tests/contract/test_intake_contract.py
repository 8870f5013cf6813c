"""`Intake`: one suite over the memory intake, the log with a spool, and the log alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.intake import LogOrSpool
from connectors.memory import MemoryIntake, MemoryLog
from connectors.ports import Durable, Intake, Record
from connectors.spool import Spool
from schemas.clock import SystemClock


@pytest.fixture(params=["memory", "spooled", "direct"])
async def intake(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Intake]:
    clock = SystemClock()
    made: Intake = MemoryIntake()
    if request.param != "memory":
        spool = Spool(tmp_path / "spool.db", clock=clock) if request.param == "spooled" else None
        made = LogOrSpool(MemoryLog(), spool, "t", clock=clock)
    await made.open()
    yield made
    await made.close()


async def test_what_is_taken_is_durable(intake: Intake) -> None:
    """With a living log, on the log."""
    assert await intake.take([Record(b"k", b"v")]) == Durable("log")
    assert intake.pending() == 0


async def test_the_state_tells_what_ready_and_stats_need(intake: Intake) -> None:
    """Mode, what waits, how long it has waited, what went wrong."""
    state = intake.state()
    assert {"mode", "pending", "bytes", "oldest_age_s", "last_error"} <= set(state)
    assert (state["mode"], state["pending"]) == ("log", 0)
