"""Hold: try for ever, wait longer each time, and say little."""

from __future__ import annotations

from structlog.testing import capture_logs

from agents.hold import MAX_DELAY, Hold, delay
from fakes_persist import CountingMetrics, ManualClock, away


def test_delays_double_up_to_the_cap() -> None:
    """0.2, 0.4 … 10 s, and no longer however long it takes."""
    assert [delay(attempt, 0.0) for attempt in (0, 1, 2, 5, 6, 10_000)] == [0.2, 0.4, 0.8, 6.4, MAX_DELAY, MAX_DELAY]
    assert delay(3, 0.999) > delay(3, 0.0) / 2


async def test_an_outage_of_ten_minutes_is_a_dozen_lines() -> None:
    """One line when it starts, one a minute, one when it ends; the caller gets the result."""
    clock, metrics = ManualClock(), CountingMetrics()
    hold = Hold(clock=clock, metrics=metrics, sleep=clock.sleep, jitter=lambda: 0.0)
    began = clock.at

    async def attempt() -> str:
        if clock.at < began + 600:
            raise away()
        return "done"

    with capture_logs() as lines:
        assert await hold.until("write", attempt) == "done"
    words = [line["event"] for line in lines]
    assert (words[0], words[-1], set(words[1:-1])) == ("held", "held no longer", {"still held"})
    assert 8 <= len(words[1:-1]) <= 10
    assert (hold.since, hold.reason) == (None, None)


async def test_what_works_at_once_says_nothing() -> None:
    """No line and no gauge in a quiet life."""
    clock, metrics = ManualClock(), CountingMetrics()

    async def attempt() -> int:
        return 1

    with capture_logs() as lines:
        assert await Hold(clock=clock, metrics=metrics).until("write", attempt) == 1
    assert (lines, metrics.gauges) == ([], {})
