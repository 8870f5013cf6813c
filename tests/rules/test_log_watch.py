"""Whether the log is still the same one, and what is done when it is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.log_watch import EVERY_S, LETS_GO_S, TABLES, LogWatch, log_id
from schemas.errors import Misconfigured, Unavailable

AWAY = Unavailable("kafka", "no answer")


class Broker:
    """Topics with ids; `wipe` loses them. `down` answers nothing, `behind` looks find no topics although there are."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.made = 0
        self.down = False
        self.behind = 0
        self.refuses: Misconfigured | None = None

    async def make(self) -> None:
        if self.down:
            raise AWAY
        if self.refuses is not None:
            raise self.refuses
        for name in ("ingest", "events"):
            if name not in self.ids:
                self.made += 1
                self.ids[name] = f"{name}-{self.made}"

    async def look(self) -> dict[str, str | None]:
        if self.down:
            raise AWAY
        self.behind, behind = max(0, self.behind - 1), self.behind
        return {name: None if behind else self.ids.get(name) for name in ("ingest", "events")}

    def wipe(self) -> None:
        self.ids.clear()


def log(first: int) -> str | None:
    """The name of the log whose topics were made as number `first` and the one after it."""
    return log_id({"ingest": f"ingest-{first}", "events": f"events-{first + 1}"})


class World:
    """A worker over a broker and a database, as often started as wanted."""

    def __init__(self, folder: Path) -> None:
        self.broker, self.folder = Broker(), folder
        self.noted: list[str | None] = []
        self.others: list[str] = []
        self.database_down = False
        self.slept: list[float] = []

    def watch(self, *, restarts: bool = True) -> LogWatch:
        return LogWatch(
            directory=self.folder,
            make=self.broker.make,
            look=self.broker.look,
            note=self._note,
            other=self.others.append,
            restarts=restarts,
            sleep=self._sleep,
        )

    async def _note(self, name: str) -> None:
        if self.database_down:
            raise Unavailable("postgres", "away")
        self.noted.append(name)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_topics_that_are_gone_are_made_again_and_it_is_told(world: World) -> None:
    """The broker came back empty: the next look makes its topics, and whoever runs hears that it is another log."""
    watch = world.watch(restarts=False)
    await watch.begin()
    assert watch.sentence() == ""
    world.broker.wipe()
    await watch.check()
    assert set(world.broker.ids) == {"ingest", "events"}
    assert len(world.others) == 1
    assert watch.sentence() == world.others[0]
    await watch.check()
    assert len(world.others) == 1
    assert not watch.missing


async def test_a_broker_that_is_away_is_no_lost_log(world: World) -> None:
    """No answer, or topics it does not know of yet: the same log as ever afterwards."""
    watch = world.watch()
    await watch.begin()
    world.broker.down = True
    with pytest.raises(Unavailable):
        await watch.check()
    world.broker.down, world.broker.behind = False, 1
    await watch.check()
    assert world.others == []
    assert world.broker.made == 2


async def test_no_new_log_appears_before_the_workers_let_go_of_the_old_one(world: World) -> None:
    """A worker that reads the new log with the tables of the old one would write old counts into it."""
    worker = world.watch()
    await worker.begin()
    world.broker.wipe()
    await worker.check()
    assert len(world.others) == 1, "it ends"
    assert world.broker.ids == {}, "and leaves the making to others"
    ingest = world.watch(restarts=False)
    world.slept.clear()
    await ingest.check()
    assert world.slept == [EVERY_S, LETS_GO_S]
    assert LETS_GO_S > 2 * EVERY_S, "whoever looked just before has looked twice by then"
    assert set(world.broker.ids) == {"ingest", "events"}


async def test_a_worker_that_finds_its_topics_gone_when_it_starts_waits_as_well(world: World) -> None:
    """Others may still run; a first start has nobody to wait for."""
    await world.watch().begin()
    assert world.slept == []
    world.broker.wipe()
    await world.watch().begin()
    assert world.slept == [LETS_GO_S]


async def test_the_next_start_drops_the_tables_of_the_lost_log(world: World) -> None:
    """Their positions mean other records now; an id that was lost with the log must be taken when it is sent again."""
    tables = [world.folder / name / "0" for name in TABLES]
    await world.watch().begin()
    for table in tables:
        table.mkdir(parents=True)
    await world.watch().begin()
    assert all(table.exists() for table in tables)
    world.broker.wipe()
    again = world.watch()
    await again.begin()
    assert not any(table.exists() for table in tables)
    assert again.sentence() != ""
    assert world.noted == [log(1), log(1), log(3)]


async def test_nothing_of_a_new_log_is_read_before_the_databases_know_of_it(world: World) -> None:
    """Its offsets would be compared with those of the lost log."""
    await world.watch().begin()
    world.broker.wipe()
    world.database_down = True
    beginning = asyncio.create_task(world.watch().begin())
    async with asyncio.timeout(10):
        while len(world.slept) < 3:
            await asyncio.sleep(0)
    assert not beginning.done()
    world.database_down = False
    async with asyncio.timeout(10):
        await beginning
    assert world.noted[-1] == log(3)


async def test_with_the_log_it_knows_a_worker_starts_while_the_databases_are_away(world: World) -> None:
    """And tells them later."""
    world.database_down = True
    watch = world.watch()
    await watch.begin()
    world.database_down = False
    await watch.check()
    assert world.noted == [log(1)]


async def test_topics_that_cannot_be_made_do_not_end_a_running_process(world: World) -> None:
    """A broker that is just starting refuses them; ingest goes on with its spool and asks again."""
    watch = world.watch(restarts=False)
    await watch.begin()
    world.broker.wipe()
    world.broker.refuses = Misconfigured("too few replicas", "wait")
    with pytest.raises(Unavailable):
        await watch.check()
    assert watch.missing
    world.broker.refuses = None
    await watch.check()
    assert len(world.others) == 1
    afterwards = world.watch(restarts=False)
    await afterwards.begin()
    assert afterwards.sentence() == "", (
        "a process that went on has told it once, and does not tell it at its next start"
    )


def test_a_log_with_a_missing_topic_has_no_id() -> None:
    """Absence proves nothing."""
    assert log_id({"a": "1", "b": None}) is None
    assert log_id({"a": "1", "b": "2"}) != log_id({"a": "1", "b": "3"})
