"""Whatever the log does and whenever the process dies: nothing acked is lost, nobody of one key overtakes another."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from connectors.intake import LogOrSpool
from connectors.memory import MemoryLog
from connectors.ports import Durable, Record
from connectors.spool import Spool
from schemas.clock import SystemClock
from schemas.errors import Unavailable
from schemas.event import Position

TOPIC = "t"
OUTCOMES = st.sampled_from(["ok", "down", "unknown", "partly"])
KEYS = st.sampled_from([b"a", b"b"])


class JitteryLog(MemoryLog):
    """A log whose answers come late and in any order; what it writes keeps the order of the calls.

    From the moment a call is going to fail until all who fail with it have been told, nothing more is written: that is
    the contract (`EventLog`): a failure takes with it everything that was begun after it.
    """

    def __init__(self) -> None:
        super().__init__(partitions=1)
        self.delays: deque[int] = deque()
        self._failing = 0

    async def send(self, topic: str, records: Sequence[Record], *, timeout: float = 2.0) -> list[Position]:
        outcome = self.script.popleft() if self.script else "ok"
        outcome = "down" if self.down or self._failing else outcome
        written = {"ok": records, "unknown": records, "partly": records[: len(records) // 2], "down": ()}[outcome]
        positions = [self._write(topic, record) for record in written]
        self._failing += outcome != "ok"
        try:
            for _ in range(self.delays.popleft() if self.delays else 1):
                await asyncio.sleep(0)
        finally:
            self._failing -= outcome != "ok"
        if outcome != "ok":
            raise Unavailable("jittery log", outcome, unknown=outcome != "down")
        return positions


class Order(RuleBasedStateMachine):
    """Takes (some at once), scripted failures, outages, kills and re-opens from the same file."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.log = JitteryLog()
        self.count = 0
        self.acked: dict[bytes, list[bytes]] = {b"a": [], b"b": []}
        self.start()

    def start(self) -> None:
        clock = SystemClock()
        spool = Spool(Path(self.folder.name) / "spool.db", clock=clock)
        self.intake = LogOrSpool(self.log, spool, TOPIC, clock=clock, backoff=(0.001, 0.002))
        self.loop.run_until_complete(self.intake.open())

    def record(self, key: bytes) -> Record:
        self.count += 1
        return Record(key, b"%s-%d" % (key, self.count))

    async def call(self, tasks: list[tuple[list[Record], asyncio.Future[Durable]]], keys: list[bytes]) -> None:
        records = [self.record(key) for key in keys]
        tasks.append((records, asyncio.ensure_future(self.intake.take(records))))

    async def judge(self, tasks: list[tuple[list[Record], asyncio.Future[Durable]]]) -> None:
        """With a spool that is not full nobody is ever refused."""
        for records, task in tasks:
            await task
            for record in records:
                self.acked[record.key or b""].append(record.value or b"")

    @rule(batches=st.lists(st.lists(KEYS, min_size=1, max_size=3), min_size=1, max_size=5), turns=st.integers(0, 3))
    def take(self, batches: list[list[bytes]], turns: int) -> None:
        """Several takes at the same time, in this order of arrival."""

        async def run() -> None:
            tasks: list[tuple[list[Record], asyncio.Future[Durable]]] = []
            for keys in batches:
                await self.call(tasks, keys)
                for _ in range(turns):
                    await asyncio.sleep(0)
            await self.judge(tasks)

        self.loop.run_until_complete(run())

    @rule(each_turn=st.integers(1, 3))
    def stampede(self, each_turn: int) -> None:
        """Takes in every turn of the loop, until the mode has changed or for a while."""

        async def run() -> None:
            tasks: list[tuple[list[Record], asyncio.Future[Durable]]] = []
            before = self.intake.state()["mode"]
            for _ in range(100):
                for _ in range(each_turn):
                    await self.call(tasks, [b"a"])
                await asyncio.sleep(0)
                if self.intake.state()["mode"] != before:
                    break
            for _ in range(3):
                await self.call(tasks, [b"a"])
                await asyncio.sleep(0)
            await self.judge(tasks)

        self.loop.run_until_complete(run())

    @rule(delays=st.lists(st.integers(0, 6), max_size=10))
    def jitter(self, delays: list[int]) -> None:
        """How many turns the next answers of the log take."""
        self.log.delays.extend(delays)

    @rule(outcomes=st.lists(OUTCOMES, max_size=6))
    def script(self, outcomes: list[str]) -> None:
        """How the next calls of the log end."""
        self.log.script.extend(outcomes)  # type: ignore[arg-type]

    @rule(down=st.booleans())
    def outage(self, down: bool) -> None:
        """The broker goes away or comes back."""
        self.log.down = down

    @rule(turns=st.integers(0, 30))
    def run_on(self, turns: int) -> None:
        """Let the drainer work."""

        async def run() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(run())

    @rule()
    def kill(self) -> None:
        """Die without a goodbye, then start again from the same file."""
        self.abandon()
        self.start()

    def abandon(self) -> None:
        """What kill -9 leaves: no line, no drainer; what was handed to the writer thread may still reach the disk."""
        drainer, spool = self.intake._drainer, self.intake._spool
        if drainer is not None:
            drainer.cancel()
            self.loop.run_until_complete(asyncio.gather(drainer, return_exceptions=True))
        assert spool is not None
        self.loop.run_until_complete(spool.close())

    @invariant()
    def nothing_in_spool_mode_is_forgotten(self) -> None:
        """While rows are pending the mode says so."""
        if self.intake.pending():
            assert self.intake.state()["mode"] == "spool"

    def teardown(self) -> None:
        """Heal, drain, then judge the log."""
        self.log.down = False
        self.log.script.clear()

        async def drained() -> None:
            async with asyncio.timeout(20):
                while self.intake.state()["mode"] == "spool":
                    await asyncio.sleep(0.001)

        self.loop.run_until_complete(drained())
        self.abandon()
        self.loop.close()
        self.folder.cleanup()
        for key, values in self.acked.items():
            seen = dict.fromkeys(record.value for record in self.log.records(TOPIC) if record.key == key)
            acked = set(values)
            # Acked in order of arrival; what was not acked may lie between.
            assert [value for value in seen if value in acked] == values


Order.TestCase.settings = settings(
    max_examples=settings().max_examples // 4, stateful_step_count=25, suppress_health_check=list(HealthCheck)
)
TestOrder = Order.TestCase
