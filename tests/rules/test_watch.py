"""The watchdog: when a stream has stopped moving, and when it waits on purpose."""

from __future__ import annotations

import pytest
from faust.types import TP

from agents.hold import Hold
from app.watch import Watchdog, held_on_purpose
from fakes_persist import CountingMetrics, ManualClock, away

EVENTS, LETTERS = TP("t.events", 0), TP("t.dead-letters", 1)


@pytest.mark.parametrize(
    ("lag", "progress", "stuck"),
    [
        ({EVENTS: 5}, {EVENTS: 39.9}, ["t.events[0]"]),
        ({EVENTS: 5}, {EVENTS: 40.0}, []),
        ({EVENTS: 0}, {EVENTS: 0.0}, []),
        ({}, {EVENTS: 0.0}, []),
        ({EVENTS: 5}, {}, []),
        ({EVENTS: 5, LETTERS: 1}, {EVENTS: 99.0, LETTERS: 0.0}, ["t.dead-letters[1]"]),
    ],
)
def test_lag_without_progress_for_a_minute_is_a_stall(
    lag: dict[TP, int], progress: dict[TP, float], stuck: list[str]
) -> None:
    """Either alone is none: an idle partition makes no progress, a busy one has lag."""
    assert Watchdog(60).stalled(lag, progress, held=False, now=100) == stuck


def test_a_hold_is_no_stall_and_its_time_does_not_count_afterwards() -> None:
    """After an hour of outage every partition has the usual minute to move on, and not longer."""
    dog, lag, progress = Watchdog(60), {EVENTS: 5}, {EVENTS: 0.0}
    assert dog.stalled(lag, progress, held=True, now=3600) == []
    assert dog.stalled(lag, progress, held=False, now=3601) == []
    assert dog.stalled(lag, progress, held=False, now=3660) == []
    assert dog.stalled(lag, progress, held=False, now=3661) == ["t.events[0]"]


async def test_a_role_is_held_while_one_of_its_agents_is() -> None:
    """Both sinks away and only dead letters waiting: the quarantine's hold counts as persist's does."""
    clock = ManualClock()
    events, letters = (Hold(clock=clock, metrics=CountingMetrics(), sleep=clock.sleep) for _ in range(2))
    seen: list[bool] = []

    async def attempt() -> None:
        seen.append(held_on_purpose(events, letters))
        if len(seen) < 3:
            raise away()

    assert not held_on_purpose(None, letters)
    await letters.until("mirror dead letters", attempt)
    assert seen == [False, True, True]
    assert not held_on_purpose(events, letters)
