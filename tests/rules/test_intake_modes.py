"""LogOrSpool's modes: into the spool, through it, back to the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from connectors.intake import LogOrSpool
from connectors.memory import MemoryLog
from connectors.ports import Durable, Record
from connectors.spool import Spool
from schemas.clock import SystemClock
from schemas.errors import Poison, Unavailable
from schemas.event import Position
from schemas.metrics import NullMetrics

CLOCK = SystemClock()


class SilentLog(MemoryLog):
    """Acks nothing; a call ends when its time is up."""

    async def send(self, topic: str, records: Sequence[Record], *, timeout: float = 2.0) -> list[Position]:
        await asyncio.sleep(timeout)
        raise Unavailable("silent log", f"no ack within {timeout:g} s", unknown=True)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def values(log: MemoryLog) -> list[bytes | None]:
    return [record.value for record in log.records("t")]


def record(number: int) -> Record:
    return Record(b"k", b"%d" % number)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(partitions=1)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool.db", clock=CLOCK, max_bytes=1_000_000)


@pytest.fixture
async def intake(log: MemoryLog, spool: Spool) -> AsyncIterator[LogOrSpool]:
    made = LogOrSpool(log, spool, "t", clock=CLOCK, backoff=(0.005, 0.01))
    await made.open()
    yield made
    await made.close()


async def test_an_outage_goes_through_the_spool_and_back(intake: LogOrSpool, log: MemoryLog) -> None:
    """Acked as `spool` while the broker is away, in the log in order afterwards, then acked as `log` again."""
    assert await intake.take([record(0)]) == Durable("log")
    log.down = True
    assert [await intake.take([record(number)]) for number in (1, 2, 3)] == [Durable("spool")] * 3
    assert intake.state()["mode"] == "spool"
    assert (intake.pending(), values(log)) == (3, [b"0"])
    log.down = False
    await until(lambda: intake.state()["mode"] == "log")
    assert await intake.take([record(4)]) == Durable("log")
    assert values(log) == [b"0", b"1", b"2", b"3", b"4"]
    assert intake.pending() == 0
    assert intake.state()["last_error"] is None


async def test_an_unknown_outcome_may_be_twice_in_the_log_never_lost(intake: LogOrSpool, log: MemoryLog) -> None:
    """The second copy is dedupe's business: same bytes, same event_id."""
    log.script.append("unknown")
    assert await intake.take([record(1)]) == Durable("spool")
    await until(lambda: intake.pending() == 0)
    assert values(log) == [b"1", b"1"]


async def test_a_steady_load_does_not_keep_it_in_the_spool(intake: LogOrSpool, log: MemoryLog) -> None:
    """Newcomers wait a moment at the end, so that the spool runs dry."""
    log.down = True
    await intake.take([record(0)])
    sent = 1

    async def load() -> None:
        nonlocal sent
        while intake.state()["mode"] == "spool":
            sent += 1
            await intake.take([record(sent)])

    loads = [asyncio.ensure_future(load()) for _ in range(8)]
    await until(lambda: intake.pending() > 30)
    log.down = False
    async with asyncio.timeout(10):
        await asyncio.gather(*loads)
    assert len(values(log)) == sent


async def test_a_restart_sends_what_was_left_before_anything_new(log: MemoryLog, tmp_path: Path) -> None:
    """The spool outlives the process and opens in spool mode."""
    log.down = True
    first = LogOrSpool(log, Spool(tmp_path / "s.db", clock=CLOCK), "t", clock=CLOCK, backoff=(0.005, 0.01))
    await first.open()
    await first.take([record(1)])
    await first.take([record(2)])
    await first.close()
    second = LogOrSpool(log, Spool(tmp_path / "s.db", clock=CLOCK), "t", clock=CLOCK, backoff=(0.005, 0.01))
    await second.open()
    assert (second.state()["mode"], second.pending()) == ("spool", 2)
    assert await second.take([record(3)]) == Durable("spool")
    log.down = False
    await until(lambda: second.state()["mode"] == "log")
    await second.close()
    assert values(log) == [b"1", b"2", b"3"]


async def test_a_full_spool_says_when_to_come_back(intake: LogOrSpool, log: MemoryLog) -> None:
    """503 with Retry-After, and nothing of the refused call is kept."""
    log.down = True
    await intake.take([record(1)])
    with pytest.raises(Unavailable) as caught:
        await intake.take([Record(b"k", b"x" * 2_000_000)])
    assert (caught.value.retry_after, caught.value.unknown) == (5.0, False)
    assert intake.pending() == 1
    log.down = False
    await until(lambda: intake.state()["mode"] == "log")
    assert values(log) == [b"1"]


async def test_the_log_gets_as_long_for_its_ack_as_was_told(spool: Spool) -> None:
    """Then the spool takes over: long before the whole of `take` would be up."""
    intake = LogOrSpool(SilentLog(), spool, "t", clock=CLOCK, backoff=(0.005, 0.01), ack_timeout_s=0.02)
    await intake.open()
    async with asyncio.timeout(1):
        assert await intake.take([record(1)]) == Durable("spool")
    assert "0.02 s" in intake.state()["last_error"]
    await intake.close()


async def test_a_long_ack_timeout_does_not_make_a_request_hang(spool: Spool) -> None:
    """`take` as a whole ends within three seconds, whatever was set."""
    intake = LogOrSpool(SilentLog(), spool, "t", clock=CLOCK, ack_timeout_s=60)
    await intake.open()
    async with asyncio.timeout(3):
        with pytest.raises(Unavailable) as caught:
            await intake.take([record(1)])
    assert caught.value.unknown
    await intake.close()


async def test_without_a_spool_the_outcome_is_told_as_it_is(log: MemoryLog) -> None:
    """Unknown stays unknown: the client retries with the same id."""
    intake = LogOrSpool(log, None, "t", clock=CLOCK)
    await intake.open()
    log.script.extend(["unknown", "down"])
    outcomes = []
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await intake.take([record(1)])
        outcomes.append(caught.value.unknown)
    assert outcomes == [True, False]
    assert await intake.take([record(2)]) == Durable("log")
    await intake.close()


async def test_a_record_the_log_never_takes_does_not_block_the_spool(intake: LogOrSpool, spool: Spool) -> None:
    """It is set aside with its bytes and counted; its neighbours go on, in order."""
    log = intake._log
    assert isinstance(log, MemoryLog)
    log.down = True
    for number in (1, 2):
        await intake.take([record(number)])
    await intake.take([Record(b"k", b"much too large")])
    await intake.take([record(3)])
    log._max_bytes = 3
    log.down = False
    await until(lambda: intake.state()["mode"] == "log")
    assert values(log) == [b"1", b"2", b"3"]
    assert (intake.state()["refused"], spool.refused) == (1, 1)


async def test_a_record_too_large_for_a_living_log_is_the_callers_poison(log: MemoryLog) -> None:
    """No queue takes what can never be sent."""
    log._max_bytes = 3
    intake = LogOrSpool(log, None, "t", clock=CLOCK)
    await intake.open()
    with pytest.raises(Poison):
        await intake.take([Record(b"k", b"too large")])
    await intake.close()


class Counted(NullMetrics):
    """Keeps what was told."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def set(self, name: str, value: float, **labels: str) -> None:
        self.seen[name] = value


async def test_the_gauges_say_when_the_spool_is_in_use(log: MemoryLog, spool: Spool) -> None:
    """Mode, rows and bytes, as an operator's page shows them."""
    metrics = Counted()
    intake = LogOrSpool(log, spool, "t", clock=CLOCK, metrics=metrics, backoff=(0.005, 0.01))
    await intake.open()
    await intake.take([record(1), record(2)])
    assert metrics.seen["chronicle_spool_mode"] == 0
    log.down = True
    await intake.take([record(3)])
    await until(lambda: metrics.seen["chronicle_spool_pending"] == 1)
    assert metrics.seen["chronicle_spool_mode"] == 1
    assert metrics.seen["chronicle_spool_bytes"] > 0
    await intake.close()


async def test_after_close_nothing_is_taken(intake: LogOrSpool) -> None:
    """A stopping process promises nothing more."""
    await intake.close()
    with pytest.raises(Unavailable):
        await intake.take([record(1)])


async def test_a_cancelled_take_does_not_stop_the_line(intake: LogOrSpool, log: MemoryLog) -> None:
    """A client that hangs up leaves its place; those behind it get theirs."""
    first = asyncio.ensure_future(intake.take([record(1)]))
    second = asyncio.ensure_future(intake.take([record(2)]))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == Durable("log")
    log.down = True
    assert await intake.take([record(3)]) == Durable("spool")
