"""One sink out of two: where a batch goes, what is said, and that nothing is lost on the way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from connectors.breaker import BreakerPolicy
from connectors.failover import FailoverSink, FailoverTiming, kind_of
from connectors.memory import MemoryRangeBook
from connectors.ports import Batch, Span
from fakes_persist import (
    CountingMetrics,
    FakeLocal,
    FakePrimary,
    ManualClock,
    away,
    letter,
    logged,
    until,
)
from schemas.clock import SystemClock
from schemas.errors import Misconfigured, Unavailable

POLICY = BreakerPolicy(failures=3, probe_first=0.5, probe_cap=10.0, hold_down=30.0)


class Pair:
    """Both sinks, the switch and what it said."""

    def __init__(self, *, clock: Any = None, timing: FailoverTiming | None = None, record: Any = None) -> None:
        self.primary, self.local = FakePrimary(), FakeLocal()
        self.clock: Any = clock or ManualClock()
        self.metrics = CountingMetrics()
        self.changes: list[str] = []
        self.facts: list[Mapping[str, Any]] = []
        self.sink = FailoverSink(
            self.primary,
            self.local,
            clock=self.clock,
            metrics=self.metrics,
            backlog=self.local,
            record=record,
            policy=POLICY,
            timing=timing,
            on_change=self._changed,
            sleep=getattr(self.clock, "sleep", asyncio.sleep),
            jitter=lambda: 0.0,
        )
        self.written = 0

    def _changed(self, change: str, facts: Mapping[str, Any]) -> None:
        self.changes.append(change)
        self.facts.append(facts)

    async def write(self, count: int = 1) -> str:
        """Write the next events; the name of the sink that took them."""
        numbers = range(self.written, self.written + count)
        batch = Batch(events=[logged(n) for n in numbers], spans=[Span(0, self.written, self.written + count)])
        receipt = await self.sink.write(batch)
        self.written += count
        return receipt.sink

    async def break_down(self) -> None:
        """Postgres goes and the first batch finds out."""
        self.primary.down = away()
        assert await self.write() == "sqlite"


async def test_postgres_has_everything_while_it_works() -> None:
    """SQLite is not touched in a quiet life."""
    pair = Pair()
    assert [await pair.write() for _ in range(3)] == ["postgres"] * 3
    assert (pair.local.calls, pair.changes) == (0, [])
    assert pair.sink.state()["sink"] == "postgres"
    assert pair.sink.state()["stored_postgres"] == 3


async def test_a_hiccup_is_retried_and_does_not_switch() -> None:
    """Two failures and a success are not an outage."""
    pair = Pair()
    pair.primary.script = [away(), away("deadlock", kind="transient"), None]
    assert await pair.write() == "postgres"
    assert (pair.changes, pair.local.calls) == ([], 0)
    assert pair.metrics.counts[("chronicle_sink_errors_total", "postgres", "transient")] == 1


async def test_three_failures_in_a_row_switch() -> None:
    """The same batch lands in SQLite, within a second of pauses; the next ones go there without trying."""
    pair = Pair()
    began = pair.clock.at
    await pair.break_down()
    assert (pair.primary.calls, len(pair.local.rows)) == (3, 1)
    assert pair.clock.at - began <= 1.0
    assert await pair.write() == "sqlite"
    assert pair.primary.calls == 3
    assert (pair.changes, pair.sink.state()["sqlite_pending"]) == (["failover_started"], 2)


async def test_a_configuration_error_switches_at_the_first_try_and_loudly() -> None:
    """A refused password is not tried three times: an operator is told at once."""
    pair = Pair()
    pair.primary.down = away("password authentication failed", kind="configuration")
    with capture_logs() as lines:
        assert await pair.write() == "sqlite"
    assert pair.primary.calls == 1
    assert [line["log_level"] for line in lines] == ["critical"]


async def test_a_slow_failure_is_the_last_try() -> None:
    """A Postgres that answers nothing costs one time limit, not three."""
    pair = Pair(timing=FailoverTiming(budget=2.0))
    calls = []

    async def slow(batch: Batch) -> Any:
        calls.append(batch)
        pair.clock.at += 4.0
        raise away("no answer in time")

    pair.primary.write = slow  # type: ignore[method-assign]
    assert await pair.write() == "sqlite"
    assert len(calls) == 1


async def test_a_sink_that_hangs_is_cut() -> None:
    """A driver stuck in a dead connection does not take the agent with it; its late write does no harm."""
    pair = Pair(clock=SystemClock(), timing=FailoverTiming(budget=0.0, hang=0.05))
    pair.primary.gate = asyncio.Event()
    assert await pair.write() == "sqlite"
    assert (pair.primary.rows, len(pair.local.rows)) == ({}, 1)
    assert pair.metrics.counts[("chronicle_sink_errors_total", "postgres", "unknown")] == 1


async def test_an_unanswered_commit_goes_to_both() -> None:
    """What Postgres may have is written to SQLite too: never in neither."""
    pair = Pair()
    pair.primary.script = ["unknown", away(), away()]
    assert await pair.write() == "sqlite"
    assert set(pair.primary.rows) == set(pair.local.rows)


async def test_an_unexpected_error_of_postgres_is_an_outage() -> None:
    """A bug in the driver costs a failover, not an event."""
    pair = Pair()
    pair.primary.script = [RuntimeError("bug"), ValueError(), KeyError("x")]
    assert await pair.write() == "sqlite"


async def test_both_away_raises_and_loses_nothing() -> None:
    """The caller still has the batch; when one of them is back the same call succeeds."""
    pair = Pair()
    pair.local.down = away("disk full")
    pair.primary.down = away()
    with pytest.raises(Unavailable):
        await pair.write()
    assert (pair.sink.state()["sink"], pair.sink.state()["proven"]) == ("none", False)
    pair.local.down = None
    assert await pair.write() == "sqlite"


async def test_with_sqlite_broken_postgres_is_asked_before_its_time() -> None:
    """The hold-down spares Postgres a flapping switch, it never keeps a batch from a sink that works."""
    pair = Pair()
    await pair.break_down()
    pair.primary.down, pair.local.down = None, away("disk full")
    pair.clock.at += 1.0
    assert await pair.write() == "postgres"
    pair.local.down = None
    assert await pair.write() == "sqlite"  # the hold-down still counts
    assert pair.changes == ["failover_started"]


async def test_back_on_postgres_after_the_hold_down() -> None:
    """The probe finds Postgres, sync-back may begin, live batches follow when the hold-down is over."""
    pair = Pair()
    await pair.break_down()
    pair.primary.down = None
    pair.clock.at += 1.0
    assert not pair.sink.reachable()
    await pair.sink.tend()
    assert (pair.sink.reachable(), pair.sink.state()["breaker"], await pair.write()) == (True, "half_open", "sqlite")
    pair.clock.at += 30.0
    with capture_logs() as lines:
        assert await pair.write() == "postgres"
    assert pair.changes == ["failover_started", "failover_ended"]
    assert [line["event"] for line in lines] == ["back on postgres, 2 to sync"]
    assert (pair.sink.state()["breaker"], pair.sink.state()["since"]) == ("closed", None)


async def test_an_idle_system_finds_its_way_back() -> None:
    """Without a batch the probes alone open and close the breaker."""
    pair = Pair()
    pair.primary.down = away()
    await pair.sink.tend()
    assert (pair.sink.state()["sink"], pair.sink.state()["breaker"]) == ("sqlite", "open")
    pair.primary.down = None
    for _ in range(40):
        pair.clock.at += 1.0
        await pair.sink.tend()
    assert (pair.sink.state()["sink"], pair.sink.state()["breaker"]) == ("postgres", "closed")
    assert pair.changes == ["failover_started", "failover_ended"]


async def test_a_flapping_postgres_costs_one_switch_in_a_hold_down() -> None:
    """Restarted every ten seconds for five minutes, it is left at most ten times, and never raises."""
    pair = Pair()
    for second in range(300):
        pair.primary.down = away() if second % 10 < 3 else None
        await pair.write()
        await pair.sink.tend()
        pair.clock.at += 1.0
    starts = [facts["since"] for change, facts in zip(pair.changes, pair.facts, strict=True) if "started" in change]
    assert 2 <= len(starts) <= 10
    assert min(b - a for a, b in itertools.pairwise(starts)) >= POLICY.hold_down


async def test_dead_letters_fail_over_too() -> None:
    """The mirror of the dead letters goes where the events go."""
    pair = Pair()
    await pair.break_down()
    assert await pair.sink.write_dead_letters([letter(1)]) == 1
    assert (len(pair.local.dead), len(pair.primary.dead)) == (1, 0)


async def test_progress_goes_on_from_postgres_through_what_sqlite_still_holds() -> None:
    """Each batch is in one of them; while Postgres is away nobody can say where reading must begin."""
    pair = Pair()
    await pair.write(10)
    await pair.break_down()
    await pair.write(4)
    pair.primary.down = None
    assert await pair.sink.progress() == {0: 15}
    pair.local.down = away()
    assert await pair.sink.progress() == {0: 10}
    pair.primary.down = away()
    with pytest.raises(Unavailable):
        await pair.sink.progress()


async def test_progress_ignores_what_sqlite_remembers_of_an_earlier_failover() -> None:
    """Synced long ago, and Postgres restored from a backup of before: what lies between must be read again."""
    pair = Pair()
    await pair.write(10)
    await pair.break_down()
    await pair.local.mark_synced(1)
    pair.primary.down, pair.primary.next = None, {0: 4}
    assert await pair.sink.progress() == {0: 4}


async def test_progress_does_not_jump_over_a_gap() -> None:
    """What SQLite holds beyond a gap hides nothing of it."""
    pair = Pair()
    await pair.write(10)
    await pair.break_down()
    pair.primary.down, pair.primary.next = None, {}
    assert await pair.sink.progress() == {}


async def test_a_batch_in_sqlite_is_written_only_once_its_range_is_kept() -> None:
    """The book cannot be written: the caller still has the batch, as with any outage; then both are durable."""
    book = MemoryRangeBook()
    pair = Pair(record=book.record)
    pair.primary.down, book.down = away(), True
    with pytest.raises(Unavailable):
        await pair.write()
    assert len(pair.local.rows) == 1
    book.down = False
    assert await pair.write() == "sqlite"
    assert [(one.start, one.end) for one in await book.read()] == [(0, 1)]


async def test_postgres_needs_no_book() -> None:
    """Nothing is kept, and nothing waited for, while events go to Postgres."""
    book = MemoryRangeBook()
    book.down = True
    assert await Pair(record=book.record).write() == "postgres"


async def test_an_outage_is_two_lines() -> None:
    """One line when it starts, saying why, and one when it is over."""
    pair = Pair()
    with capture_logs() as lines:
        await pair.break_down()
        for _ in range(5):
            await pair.write()
        pair.primary.down = None
        pair.clock.at += 60.0
        await pair.sink.tend()
    said = [line["event"] for line in lines]
    assert said[0].startswith("writing to sqlite since 1970-01-01T00:16:4")
    assert said[0].endswith("because postgres: connection refused")
    assert said[1:] == ["back on postgres, 6 to sync"]


async def test_a_failing_alert_does_not_stop_the_writing() -> None:
    """`on_change` is for people; the switch is made without it."""
    pair = Pair()
    pair.sink._on_change = lambda *_: 1 / 0  # type: ignore[assignment,return-value]
    await pair.break_down()


async def test_it_opens_and_closes_both_whatever_one_does() -> None:
    """A sink that cannot be opened does not cost us the other."""
    pair = Pair()

    async def broken() -> None:
        raise OSError("read-only")

    pair.local.open = broken  # type: ignore[method-assign]
    await pair.sink.open()
    await pair.sink.close()
    assert (pair.primary.opened, pair.primary.closed, pair.local.closed) == (True, True, True)


async def test_a_cancelled_write_cancels_its_try() -> None:
    """A worker that stops does not leave a write behind it that nobody waits for."""
    pair = Pair(clock=SystemClock())
    pair.primary.gate = asyncio.Event()
    task = asyncio.create_task(pair.write())
    await until(lambda: pair.primary.calls == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    pair.primary.gate.set()
    await asyncio.sleep(0)
    assert pair.primary.rows == {}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (away(), "unavailable"),
        (away(unknown=True), "unknown"),
        (away(kind="configuration"), "configuration"),
        (away(kind="something else"), "unavailable"),
        (Misconfigured("a", "b"), "configuration"),
        (RuntimeError(), "unavailable"),
    ],
)
def test_error_kinds_are_a_bounded_set(error: Exception, kind: str) -> None:
    """A metric label never comes out of a driver's text."""
    assert kind_of(error) == kind
