"""`chronicle aggregates` on parts in memory: what is compared, what is refused, what a rebuild writes."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from app import aggregates as rules
from app.aggregates import CannotCompare, Checked, Parts, Stand
from app.cli.aggregates import sentence, servers, show
from app.settings import Settings
from connectors.ports import FailoverRange
from connectors.ports_history import Standing
from connectors.stored_events import standing_of
from schemas.event import HookEvent, IdOrigin, LoggedEvent, Position
from schemas.history import REBUILD_HEADER
from seen_world import T0, Clock, MemoryLog
from tables.usage import SECOND, Key, Usage, Value
from tables.usage_apply import apply
from tables.usage_codec import CLOCK, NewestTime, pack, pack_key
from tables.usage_store import UsageStore

TOPIC = "t.aggregates"
HOUR = T0 // 1000 - T0 // 1000 % 3600
ALL: Key = ("usage", "hour", HOUR, "all", "")


def logged(offset: int) -> LoggedEvent:
    event = HookEvent(
        event_id=UUID(int=offset),
        fingerprint=b"f" * 16,
        id_origin=IdOrigin.FRESH,
        session_id="s",
        event_type="user_prompt",
        occurred_at=T0 * 1000,
        received_at=T0 * 1000,
        source="test",
        payload="{}",
        cwd="/p/shop",
    )
    return LoggedEvent(event=event, ingest=Position(0, offset), events=Position(0, offset), value=b"")


def nothing(*_: object) -> None:
    """Progress that nobody looks at."""


class World:
    """One partition: `taken` events in the log, of which some are counted, some stored, some in SQLite."""

    def __init__(self, taken: int = 10) -> None:
        self.taken = taken
        self.counted_to: int | None = taken
        self.stored_to, self.logs, self.at_work = taken, 1, 0
        self.waiting: list[FailoverRange] = []
        self.live: dict[Key, Value] = {}
        self.count(taken)
        self.log = MemoryLog()
        self.parts = Parts(self, self, self.ranges, Clock())

    def count(self, upto: int) -> None:
        """The live tables count up to there."""
        events = [logged(n) for n in range(upto)]
        self.live = dict(apply(events, lambda keys: [None] * len(keys), T0 * 1000))

    # --- as the log

    async def values(self, partition: int, told: Callable[[int, int], None]) -> Mapping[bytes, bytes]:
        found = {pack_key(key): pack(value) for key, value in self.live.items()}
        return {**found, pack_key(CLOCK): pack(NewestTime(T0 * 1000)), b"junk": b"{}"}

    async def counted(self) -> Mapping[int, int]:
        return {} if self.counted_to is None else {0: self.counted_to}

    async def end(self, partition: int) -> int:
        return self.taken

    async def members(self) -> int:
        return self.at_work

    # --- as the database

    async def standing(self) -> Standing:
        return Standing(next={0: self.stored_to}, events={0: self.stored_to}, logs=self.logs)

    async def events(self, partition: int, before: int) -> AsyncIterator[list[LoggedEvent]]:
        for at in range(0, min(before, self.stored_to), 3):
            yield [logged(n) for n in range(at, min(at + 3, before, self.stored_to))]

    async def ranges(self) -> list[FailoverRange]:
        return self.waiting

    # --- what is done

    async def stand(self) -> Stand:
        (found,) = await rules.stands(self.parts, 1)
        return found

    async def check(self) -> Checked:
        return await rules.check(self.parts, await self.stand(), nothing)

    async def rebuild(self) -> Checked:
        await rules.nobody_counts(self)
        checked = await rules.check_stopped(self.parts, await self.stand(), nothing)
        await rules.write(self.log, TOPIC, checked, 77, nothing)
        return checked

    def restored(self, path: Path) -> dict[Key, Value]:
        """What a worker that had the live values makes of the topic."""
        store = UsageStore.open(path)
        before = [(n, pack_key(key), pack(value)) for n, (key, value) in enumerate(self.live.items())]
        store.apply(before)
        written = self.log.topics.get(TOPIC, [])
        store.apply([(len(before) + n, one.key or b"", one.value) for n, one in enumerate(written)])
        found = dict(store.items())
        store.close()
        return found


@pytest.fixture
def world() -> World:
    return World()


def damage(world: World) -> None:
    """One count too many, and one project that never was."""
    value = world.live[ALL]
    assert isinstance(value, Usage)
    value.events["user_prompt"] += 5
    world.live["usage", "hour", HOUR, "project", "nobody"] = Usage(at=3, events={"x": 1})


async def test_tables_that_are_right_are_equal(world: World) -> None:
    """All keys are compared; records of others in the topic are passed over."""
    checked = await world.check()
    assert rules.verdict([checked]) == "equal"
    assert (checked.compared.keys, checked.events) == (len(world.live), 10)


async def test_while_postgres_is_behind_only_what_both_have_is_compared(world: World) -> None:
    """It is told, and no difference is invented."""
    world.stored_to = 7
    checked = await world.check()
    assert checked.stand.behind
    assert (checked.events, checked.compared.differences) == (7, [])
    assert checked.compared.ahead == len(world.live) - 1  # all but the names, which did not change since
    world.stored_to = 0
    assert rules.verdict([await world.check()]) == "unknown"


def test_what_sync_back_brought_home_counts_as_stored() -> None:
    """It moves no progress; records of others are of the same partition."""
    found = standing_of({0: 100, 1: 7}, [(0, 40, 150), (-1, 2, 160), (2, 1, 3)], 1)
    assert (found.next, found.events) == ({0: 160, 1: 7, 2: 3}, {0: 42, 2: 1})


async def test_rows_that_wait_in_sqlite_are_not_taken_for_stored(world: World) -> None:
    """Postgres has gone on behind them; those that nobody has any more are not waited for."""
    waiting = FailoverRange(store="a", scope="b", number=1, partition=0, start=4, end=6, at=5)
    world.waiting = [waiting]
    assert (await world.stand()).stored == 4
    world.waiting = [FailoverRange(store="a", scope="b", number=1, partition=0, start=4, end=6, at=5, gone_at=9)]
    assert (await world.stand()).stored == 10


async def test_while_events_come_what_is_counted_since_is_left_out(world: World) -> None:
    """The group has committed less than the values in the topic count."""
    world.counted_to, world.taken = 6, 10
    checked = await world.check()
    assert checked.compared.differences == []
    assert checked.compared.ahead > 0


async def test_after_a_lost_log_nothing_is_compared(world: World) -> None:
    """Places were given anew: which event is which cannot be told."""
    world.logs = 2
    with pytest.raises(CannotCompare, match="log that is gone"):
        await world.check()


async def test_damage_is_found_and_a_rebuild_mends_it(world: World, tmp_path: Path) -> None:
    """A worker that starts again has what the events make; tombstones say that a rebuild wrote them."""
    damage(world)
    assert rules.verdict([await world.check()]) == "different"
    await world.rebuild()
    written = world.log.topics[TOPIC]
    assert [(one.value, one.headers) for one in written[:1]] == [(None, ((REBUILD_HEADER, b"77"),))]
    assert all(one.partition == 0 for one in written)
    world.live = world.restored(tmp_path / "usage")
    assert world.live[ALL].generation == 77
    assert rules.verdict([await world.check()]) == "equal"


async def test_a_rebuild_goes_as_far_as_postgres_does(world: World, tmp_path: Path) -> None:
    """What is stored and not yet counted is in it; the worker passes it over when it comes to it."""
    world.count(6)
    world.counted_to = 6
    await world.rebuild()
    found = world.restored(tmp_path / "usage")[ALL]
    assert isinstance(found, Usage)
    assert (found.events, found.at) == ({"user_prompt": 10}, 9)


async def test_a_rebuild_of_right_tables_writes_nothing(world: World) -> None:
    """Not even a clock."""
    await world.rebuild()
    assert world.log.topics == {}


async def test_a_rebuild_is_refused_while_somebody_counts(world: World) -> None:
    """With the remedy."""
    world.at_work = 2
    with pytest.raises(CannotCompare, match="stop those with the role aggregate"):
        await world.rebuild()


async def test_a_rebuild_is_refused_while_postgres_lacks_what_is_counted(world: World) -> None:
    """It would be lost from the counts."""
    world.stored_to = 9
    with pytest.raises(CannotCompare, match="Wait until"):
        await world.rebuild()
    assert world.log.topics == {}


async def test_what_is_told_has_the_differences_and_the_verdict(world: World) -> None:
    """A table of 80 columns for people, JSON for programs."""
    damage(world)
    checked = await world.check()
    out = io.StringIO()
    show([checked], Console(file=out, width=80))
    said = out.getvalue()
    assert "nobody" in said
    assert "15 events" in said
    assert f"DIFFERENT: 2 of {checked.compared.keys} keys" in said
    told: dict[str, Any] = rules.report([checked])
    assert (told["verdict"], len(told["differences"]), told["more"]) == ("different", 2, 0)
    assert told["differences"][1]["recounted"] is None
    assert sentence([await World().check()]).startswith("Equal: ")


def test_the_servers_of_a_running_up_are_found(tmp_path: Path) -> None:
    """Unless the settings name others."""
    (tmp_path / "ready.json").write_text('{"broker": "127.0.0.1:1", "database": "postgresql://x@127.0.0.1:2/y"}')
    assert servers(Settings.load(state_dir=tmp_path)) == ("127.0.0.1:1", "postgresql://x@127.0.0.1:2/y")
    named = Settings.load(state_dir=tmp_path, kafka={"brokers": "kafka:9092"})
    assert servers(named)[0] == "kafka:9092"


def test_a_value_of_the_future_is_not_lost() -> None:
    """The clock that a rebuild writes is the one that was there."""
    value = Usage(at=1, events={"x": 1})
    made = rules.records(2, [], {ALL: value}, 5 * SECOND, 77)
    assert [one.key for one in made] == [pack_key(CLOCK), pack_key(ALL)]
    assert made[0].value == pack(NewestTime(5 * SECOND))
