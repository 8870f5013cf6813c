"""Breaker, failover, persist and sync-back as one machine, with both sinks and the broker failing at will.

Every acked event is in Postgres or waits in SQLite (or is a dead letter), at any moment; after the outages end all of
them are in Postgres, each once.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agents.batching import Batcher, BatchPolicy
from agents.persist import Persister, slices
from agents.quarantine import decode
from agents.sync_back import SyncBack
from connectors.failover import FailoverSink
from fakes_persist import (
    CODEC,
    TOPICS,
    CountingMetrics,
    FakeLocal,
    FakeLog,
    FakePrimary,
    ManualClock,
    away,
    chunk,
    digest,
    make_event,
    record,
)
from schemas.errors import Unavailable

FATES = st.sampled_from([None, "down", "unknown", "configuration", "bug"])


class Stop(BaseException):
    """The process is killed while it holds."""


class FailoverMachine(RuleBasedStateMachine):
    """A log that is read, a process that can be killed, two sinks, one broker, one clock."""

    @initialize()
    def start(self) -> None:
        """Everything works at first."""
        self.loop = asyncio.new_event_loop()
        self.primary, self.local, self.log = FakePrimary(), FakeLocal(), FakeLog()
        self.clock = ManualClock()
        self.records: list[Any] = []
        self.acked = 0
        self.ids = 0
        self._boot()

    def _boot(self) -> None:
        """A new process: nothing is remembered but what the sinks and the log hold."""
        common: dict[str, Any] = {"clock": self.clock, "metrics": CountingMetrics()}
        self.sink = FailoverSink(
            self.primary, self.local, backlog=self.local, sleep=self.clock.sleep, jitter=lambda: 0.0, **common
        )
        self.persister = Persister(
            sink=self.sink, log=self.log, codec=CODEC, topics=TOPICS, policy=BatchPolicy(), **common
        )
        self.persister._hold._sleep = self._killed
        self.sync = SyncBack(
            backlog=self.local, primary=self.primary, gate=self.sink, log=self.log, topics=TOPICS, digest=digest,
            batch=3, **common,
        )  # fmt: skip

    async def _killed(self, seconds: float) -> None:
        raise Stop

    @rule(repeat=st.booleans(), other=st.booleans(), broken=st.booleans())
    def produce(self, repeat: bool, other: bool, broken: bool) -> None:
        """A new event, a repeat of an old id (with its own or another payload), or bytes that are no event."""
        offset = len(self.records)
        if broken:
            self.records.append(record(offset, b"broken"))
            return
        if not (repeat and self.ids):
            self.ids += 1
        payload = '{"other": 1}' if repeat and other else "{}"
        self.records.append(record(offset, make_event(self.ids, payload=payload)))

    @rule(count=st.integers(1, 5))
    def persist(self, count: int) -> None:
        """One batch from the last ack on; where the agent would hold, the process is killed instead."""
        todo = self.records[self.acked : self.acked + count]
        if not todo:
            return
        source, batcher = chunk(todo), Batcher(BatchPolicy())
        for part in slices(source, CODEC, 0):
            batcher.add(part, self.clock.at)
        try:
            self.loop.run_until_complete(self.persister.settle(batcher.cut("age")))
        except Stop:
            self._boot()
        self.acked = max(self.acked, source.acked)

    @rule(fates=st.lists(FATES, max_size=6))
    def postgres_will(self, fates: list[str | None]) -> None:
        """The next calls of Postgres go like this."""
        errors: dict[str | None, Any] = {
            None: None, "unknown": "unknown", "down": away(), "configuration": away(kind="configuration"),
            "bug": RuntimeError("bug"),
        }  # fmt: skip
        self.primary.script = [errors[fate] for fate in fates]

    @rule(down=st.booleans())
    def postgres(self, down: bool) -> None:
        """It stops or starts."""
        self.primary.down = away() if down else None

    @rule(down=st.booleans())
    def sqlite(self, down: bool) -> None:
        """Its disk fills or is cleared."""
        self.local.down = away("disk full") if down else None

    @rule(down=st.booleans())
    def broker(self, down: bool) -> None:
        """It stops or starts."""
        self.log.down = away("no ack", unknown=True) if down else None

    @rule(seconds=st.floats(0.1, 40.0))
    def time(self, seconds: float) -> None:
        """The clock goes on and the timer ticks."""
        self.clock.at += seconds
        self._tick()

    @rule()
    def kill(self) -> None:
        """The process is replaced."""
        self._boot()

    def _tick(self) -> None:
        async def tick() -> None:
            await self.sink.tend()
            try:
                await self.sync.sync_once()
            except (Unavailable, RuntimeError):
                return

        self.loop.run_until_complete(tick())

    @invariant()
    def acked_is_durable(self) -> None:
        """Whatever is acked is in Postgres, waits in SQLite, or is a dead letter."""
        if not hasattr(self, "records"):
            return
        waiting = {row.event.event.event_id for row in self.local.outbox[self.local.synced :]}
        buried = {decode(item.value or b"").offset for item in self.log.sent.get(TOPICS.dead_letters.name, [])}
        for item in self.records[: self.acked]:
            if item.value == b"broken":
                assert item.offset in buried
            else:
                event_id = CODEC.decode(item.value).event_id
                assert event_id in self.primary.rows or event_id in waiting

    def teardown(self) -> None:
        """The outages end: everything comes home, each once, and the switch is back on Postgres."""
        if not hasattr(self, "records"):
            return
        self.primary.down = self.local.down = self.log.down = None
        self.primary.script = []
        for _ in range(50):
            self.persist(5)
            self.clock.at += 5.0
            self._tick()
        assert self.acked == len(self.records)
        assert self.local.synced == len(self.local.outbox)
        wanted = {CODEC.decode(item.value).event_id for item in self.records if item.value != b"broken"}
        assert set(self.primary.rows) == wanted
        assert self.sink.state()["sink"] == "postgres"
        assert self.sink.state()["breaker"] == "closed"
        self.loop.close()


TestFailover = FailoverMachine.TestCase
TestFailover.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=30)
